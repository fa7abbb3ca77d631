"""The small ways in which scripts/mutate-contracts breaks a Solidity file.

Works on tokens, not on a syntax tree: what does not compile is found out by the compiler and not counted.
"""

import re
from collections import Counter
from dataclasses import dataclass

TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|/\*.*?\*/)
      | (?P<string>(?:hex|unicode)?"(?:[^"\\\n]|\\.)*")
      | (?P<number>0x[0-9a-fA-F]+|\d[\d_]*(?:e\d+)?)
      | (?P<word>[A-Za-z_$][\w$]*)
      | (?P<sign>>>=|<<=|:=|=>|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|.)""",
    re.VERBOSE | re.DOTALL,
)

# Between two operands.
SIGNS = {
    "<": ["<=", ">="], "<=": ["<", ">"], ">": [">=", "<="], ">=": [">", "<"], "==": ["!="], "!=": ["=="],
    "&&": ["||"], "||": ["&&"], "+": ["-"], "-": ["+"], "*": ["/"], "/": ["*"], "%": ["*"],
    "<<": [">>"], ">>": ["<<"], "&": ["|"], "|": ["&"], "^": ["&"],
}  # fmt: skip
# Anywhere.
EVERYWHERE = {
    "+=": ["-=", "="], "-=": ["+=", "="], "|=": ["&=", "="], "&=": ["|=", "="], ">>=": ["<<="], "<<=": [">>="],
    "++": ["--"], "--": ["++"], "!": [""], "~": [""],
}  # fmt: skip
WORDS = {"true": "false", "false": "true", "nonReentrant": ""}
# What lies next to it, and could be meant by mistake.
FIELDS = {
    "operator": "agent", "agent": "operator", "guardian": "agent", "start": "expiry", "expiry": "captureEnd",
    "captureEnd": "expiry", "deadline": "captureBy", "captureBy": "deadline", "remaining": "held", "held": "remaining",
    "cap": "perPayment", "perPayment": "cap", "windowCap": "cap", "max": "min",
}  # fmt: skip
YUL = {"add": "sub", "sub": "add", "and": "or", "or": "and", "gt": "lt", "lt": "gt", "eq": "lt", "shl": "shr",
       "shr": "shl"}  # fmt: skip
NOT_SIMPLE = {"if", "for", "while", "do", "else", "unchecked", "assembly", "try", "catch", "{", "}", ")", "_"}
# The compiler would refuse to swap these with anything.
OF_ITS_OWN_TYPE = re.compile(r"(?:terms|mandate|payments?|hold_|proofs?|signatures?|reason)\b[^.]*|_no\w+\(\)|Reason\.\w+|{.*}", re.DOTALL)
DECLARATION = re.compile(r"(?:u?int\d*|bool|address|bytes\d*|string|[A-Z]\w*)(?:\[\])*\s+\w|\((?:\w+ \w+)?,? ?[\w\[\]]+ \w+")


@dataclass(frozen=True)
class Mutant:
    file: str
    function: str
    line: int
    start: int
    end: int
    text: str
    before: str
    after: str
    number: int = 1

    def apply(self, source):
        return source[: self.start] + self.text + source[self.end :]

    @property
    def key(self):
        """Names it in words that survive when lines move."""
        return self.file, self.function, self.before, self.after, self.number

    @property
    def name(self):
        return " ¦ ".join(map(str, self.key))

    @property
    def item(self):
        number = f" ({self.number})" if self.number > 1 else ""
        return f"- `{self.before}` → `{self.after}`{number}: …"

    def __str__(self):
        return f"{self.file}:{self.line} {self.function}: {self.before}  →  {self.after}"


@dataclass(frozen=True)
class Token:
    kind: str
    text: str
    start: int
    end: int


def of(file, source):
    """All mutants of a file, in the order of its lines."""
    tokens = [
        Token(match.lastgroup, match[0], *match.span()) for match in TOKEN.finditer(source) if match.lastgroup != "skip"
    ]
    found = []
    for function, first, last in bodies(tokens):
        for start, end, text in sorted(set(edits(source, tokens, function, first, last))):
            found.append((function, start, end, text))
    seen, result = Counter(), []
    for function, start, end, text in found:
        left = source.rfind("\n", 0, start) + 1
        right = source.find("\n", end)
        before = words(source[left:right])
        after = words(source[left:start] + text + source[end:right])
        seen[function, before, after] += 1
        line = source.count("\n", 0, start) + 1
        result.append(
            Mutant(file, function, line, start, end, text, before, after, seen[function, before, after])
        )
    return result


def code(source):
    """A file without comments."""
    return " ".join(match[0] for match in TOKEN.finditer(source) if match.lastgroup != "skip")


def words(text):
    return " ".join(re.sub(r"//[^\n]*", "", text).split())


def bodies(tokens):
    """Functions from after their name to their last brace, and the constants between them."""
    index = 0
    while index < len(tokens):
        text = tokens[index].text
        if text in ("struct", "enum", "interface", "import", "pragma", "using", "event", "error", "mapping"):
            index = end_of_declaration(tokens, index)
        elif text in ("function", "constructor", "modifier"):
            name = tokens[index + 1].text if text != "constructor" else text
            end = end_of_declaration(tokens, index)
            yield name, index, end
            index = end
        elif text == "constant":
            end = end_of_declaration(tokens, index)
            yield tokens[index + 1].text, index, end
            index = end
        index += 1


def end_of_declaration(tokens, index):
    """Its semicolon, or the brace that closes its body."""
    depth = 0
    while True:
        text = tokens[index].text
        if text == "{":
            depth += 1
        elif text == "}":
            depth -= 1
            if depth == 0:
                return index
        elif text == ";" and depth == 0:
            return index
        index += 1


def edits(source, tokens, function, first, last):
    """(start, end, replacement) for every mutant between two tokens."""
    body = next((i for i in range(first, last) if tokens[i].text == "{"), None)
    yul = yul_ranges(tokens, first, last)
    whole_conditions = {comparison for i in range(first, last) for comparison in [only_comparison(tokens, i)] if comparison}
    for index in range(first, last):
        token, before, after = tokens[index], tokens[index - 1], tokens[index + 1]
        in_yul = any(start < index < end for start, end in yul)
        inside = body is not None and index > body
        if token.text == "nonReentrant":
            yield token.start, token.end, ""
        if not inside and tokens[first].text != "constant":
            continue
        binary = before.kind in ("number", "word") or before.text in (")", "]")
        texts = (SIGNS.get(token.text, []) if binary else []) + EVERYWHERE.get(token.text, [])
        # A whole condition that is turned round is one that is fixed to true and to false, and dies as either would.
        for text in texts if index not in whole_conditions else texts[:-1]:
            yield token.start, token.end, text
        if token.kind == "number":
            yield from ((token.start, token.end, text) for text in neighbors(token.text))
        elif token.kind == "word" and token.text in WORDS:
            yield token.start, token.end, WORDS[token.text]
        elif token.kind == "word" and before.text == "." and token.text in FIELDS:
            yield token.start, token.end, FIELDS[token.text]
        elif in_yul and token.text in YUL and after.text == "(":
            yield token.start, token.end, YUL[token.text]
        elif token.text == "?":
            yield from swapped_branches(source, tokens, index)
        elif token.text in ("if", "while") and after.text == "(":
            yield from fixed_conditions(tokens, index)
        elif token.text == "(" and before.kind == "word" and not in_yul:
            yield from swapped_arguments(source, tokens, index)
        if inside and not in_yul and begins_statement(tokens, index):
            yield from without_statement(source, tokens, index)
    for start, end in yul:
        yield from without_yul_lines(source, tokens[start].end, tokens[end].start)


def only_comparison(tokens, index):
    """Where the one comparison of an if stands, unless its condition has several parts."""
    if tokens[index].text != "if":
        return None
    within = range(index + 2, closing(tokens, index + 1))
    if any(tokens[i].text in ("&&", "||") for i in within):
        return None
    return next((i for i in within if tokens[i].text in ("<", "<=", ">", ">=", "==", "!=")), None)


def fixed_conditions(tokens, index):
    """True and false; of what refuses only false, since a verb that refuses everything is noticed at once."""
    end = closing(tokens, index + 1)
    guards = tokens[end + 1].text == "revert" or tokens[end + 2].text == "revert"
    for text in ("false",) if guards or tokens[index].text == "while" else ("true", "false"):
        yield tokens[index + 1].end, tokens[end].start, text


def neighbors(number):
    if number.startswith("0x"):
        value, width = int(number, 16), len(number) - 2
        return [f"0x{value + 1:0{width}x}"] if width < 40 else []
    if "e" in number:
        return []
    value = int(number.replace("_", ""))
    return [str(value + 1)] + ([str(value - 1)] if value else [])


def closing(tokens, index):
    """The parenthesis, bracket or brace that closes the one at `index`."""
    depth = 0
    while True:
        if tokens[index].text in "([{":
            depth += 1
        elif tokens[index].text in ")]}":
            depth -= 1
            if depth == 0:
                return index
        index += 1


def arguments(tokens, index):
    """(first, last) token of each argument within the parenthesis at `index`."""
    end, parts, start, depth = closing(tokens, index), [], index + 1, 0
    for i in range(index + 1, end + 1):
        if tokens[i].text in "([{":
            depth += 1
        elif tokens[i].text in ")]}" and i < end:
            depth -= 1
        elif (tokens[i].text == "," and depth == 0) or i == end:
            parts.append((start, i - 1))
            start = i + 1
    return parts


def swapped_arguments(source, tokens, index):
    parts = [(a, b) for a, b in arguments(tokens, index) if a <= b]
    for (a, b), (c, d) in zip(parts, parts[1:]):
        left, right = source[tokens[a].start : tokens[b].end], source[tokens[c].start : tokens[d].end]
        if left != right and not OF_ITS_OWN_TYPE.fullmatch(left) and not OF_ITS_OWN_TYPE.fullmatch(right):
            yield tokens[a].start, tokens[d].end, right + source[tokens[b].end : tokens[c].start] + left


def swapped_branches(source, tokens, index):
    depth, colon, end = 0, None, index + 1
    while depth > 0 or tokens[end].text not in (";", ",", ")", "]"):
        if tokens[end].text in "([{":
            depth += 1
        elif tokens[end].text in ")]}":
            depth -= 1
        elif tokens[end].text == ":" and depth == 0 and colon is None:
            colon = end
        end += 1
    left = source[tokens[index + 1].start : tokens[colon - 1].end]
    right = source[tokens[colon + 1].start : tokens[end - 1].end]
    yield tokens[index + 1].start, tokens[end - 1].end, f"{right} : {left}"


def begins_statement(tokens, index):
    """Not the body of an if without braces: its condition set to false does the same."""
    after = tokens[index - 1].text in ("{", "}", ";", "else")
    return after and tokens[index].text not in NOT_SIMPLE and not within_parentheses(tokens, index)


def within_parentheses(tokens, index):
    depth = 0
    for i in range(index - 1, -1, -1):
        if tokens[i].text in ")":
            depth += 1
        elif tokens[i].text == "(":
            depth -= 1
            if depth < 0:
                return True
        elif tokens[i].text in ("{", "}") and depth == 0:
            return tokens[i].text == "{" and tokens[i - 1].text == "("
    return False


def without_statement(source, tokens, index):
    end, depth = index, 0
    while tokens[end].text != ";" or depth:
        if tokens[end].text in "([{":
            depth += 1
        elif tokens[end].text in ")]}":
            depth -= 1
        end += 1
    statement = source[tokens[index].start : tokens[end].end]
    if not DECLARATION.match(statement):
        yield tokens[index].start, tokens[end].end, "{}"


def yul_ranges(tokens, first, last):
    ranges = []
    for index in range(first, last):
        if tokens[index].text == "assembly":
            start = next(i for i in range(index, last) if tokens[i].text == "{")
            ranges.append((start, closing(tokens, start)))
    return ranges


def without_yul_lines(source, start, end):
    for match in re.finditer(r"^[ \t]*((?!let\b|for\b|if\b|[}/])\w[^\n]*?)(?:[ \t]*//[^\n]*)?$", source[start:end], re.MULTILINE):
        yield start + match.start(1), start + match.end(1), ""
