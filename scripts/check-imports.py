"""Fails if files of a crate import each other in a circle, or if the ledger imports what stands above it.

A module and its own submodules count as one place: they may share private items. Tests are left out.
"""

import pathlib
import re
import sys

CRATES = ["core", "bindings", "http", "relayer", "issuer", "client", "cli", "testing", "bench"]
BELOW_LEDGER = {"failpoint", "clock"}


def module_of(path, source):
    parts = list(path.relative_to(source).with_suffix("").parts)
    return () if parts in (["lib"], ["main"]) else tuple(parts)


def leaves(tree, prefix=()):
    """The paths of a use tree: `a::{b, c::d}` gives a::b and a::c::d."""
    depth, item, items = 0, "", []
    for character in tree + ",":
        if character == "," and depth == 0:
            items.append(item.strip())
            item = ""
            continue
        depth += (character == "{") - (character == "}")
        item += character
    for item in filter(None, items):
        head, brace, rest = item.partition("{")
        path = prefix + tuple(part.split(" as ")[0].strip() for part in head.split("::") if part.strip())
        if brace:
            yield from leaves(rest.rsplit("}", 1)[0], path)
        else:
            yield path


def absolute(path, module):
    """A path from the crate's root, or None if it leads out of the crate."""
    if path[0] == "crate":
        return path[1:]
    if path[0] not in ("self", "super"):
        return None
    base = list(module)
    while path and path[0] in ("self", "super"):
        if path[0] == "super":
            base = base[:-1]
        path = path[1:]
    return tuple(base) + path


def imports(text, module, modules):
    text = re.sub(r"//[^\n]*", "", text.split("#[cfg(test)]\nmod tests")[0])
    paths = [path for tree in re.findall(r"\buse\s+([^;]+);", text) for path in leaves(tree)]
    paths += [tuple(path.split("::")) for path in re.findall(r"\bcrate(?:::\w+)+", text)]
    for path in paths:
        target = absolute(path, module)
        while target and target not in modules:
            target = target[:-1]
        if target and target[: len(module)] != module and module[: len(target)] != target:
            yield target


def circle(graph):
    """The modules of one circle, or None."""
    done, trail = set(), []

    def visit(module):
        if module in trail:
            return trail[trail.index(module) :] + [module]
        if module in done:
            return None
        trail.append(module)
        for target in sorted(graph[module]):
            if found := visit(target):
                return found
        trail.pop()
        done.add(module)
        return None

    return next(filter(None, map(visit, sorted(graph))), None)


def main():
    failures, files = [], 0
    for crate in CRATES:
        source = pathlib.Path(crate, "src")
        texts = {
            module_of(path, source): path.read_text()
            for path in source.rglob("*.rs")
            if "tests" not in path.with_suffix("").relative_to(source).parts
        }
        graph = {module: set(imports(text, module, texts)) for module, text in texts.items() if module}
        files += len(texts)
        if found := circle(graph):
            failures.append(f"{crate}: " + " -> ".join("::".join(module) for module in found))
        for module, targets in graph.items():
            above = {target for target in targets if target[0] not in BELOW_LEDGER | {"ledger"}}
            if crate == "relayer" and module[0] == "ledger" and above:
                failures.append(f"{crate}: {'::'.join(module)} imports " + ", ".join("::".join(t) for t in sorted(above)))
    for failure in failures:
        print(failure, file=sys.stderr)
    if not failures:
        print(f"{files} files, no import circle, nothing above the ledger imported by it")
    return bool(failures)


sys.exit(main())
