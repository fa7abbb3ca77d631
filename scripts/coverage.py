"""Prints an lcov file as a table, and every line and branch that was not reached. Fails unless there is none.

The compiler keeps no place for inline assembly and for some assignments via-IR. Such a line counts as reached if the
statement right above it was, since nothing can happen between them.
"""

import re
import sys
from pathlib import Path


def above(text, number):
    """The statement that runs right before a line, by its number; none if it could go elsewhere."""
    number -= 1
    while number > 0 and re.fullmatch(r"\s*(?://.*|assembly .*\{|\)? ?(?:private|internal|pure|view|returns.*)\{?|)", text[number - 1]):
        number -= 1
    line = re.sub(r"//.*", "", text[number - 1]).strip()
    straight = line.endswith(";") or line.startswith("function ") or re.match(r"[\w.]+(?:\(| :=)|let ", line)
    return number if straight and not re.match(r"(?:return|revert|if|else|for|while|continue)\b", line) else None


files = {}
for record in Path(sys.argv[1]).read_text().splitlines():
    kind, _, rest = record.partition(":")
    if kind == "SF":
        lines, branches = files[rest] = {}, []
    elif kind == "DA":
        number, hits = rest.split(",")[:2]
        lines[int(number)] = hits != "0"
    elif kind == "BRDA":
        number, _, _, hits = rest.split(",")
        branches.append((int(number), hits not in ("0", "-")))

missed = []
print(f"{'file':48} {'lines':>9} {'branches':>9}")
for name, (lines, branches) in sorted(files.items()):
    text = Path(name).read_text().splitlines()
    for number in sorted(lines):
        lines[number] = lines[number] or lines.get(above(text, number), False)
    print(f"{name:48} {sum(lines.values()):4}/{len(lines):4} {sum(hit for _, hit in branches):4}/{len(branches):4}")
    missed += [(name, number, "line", text) for number, hit in sorted(lines.items()) if not hit]
    missed += [(name, number, "branch", text) for number, hit in branches if not hit]
for name, number, kind, text in missed:
    print(f"{name}:{number} {kind} not reached: {text[number - 1].strip()}")
sys.exit(1 if missed or not files else 0)
