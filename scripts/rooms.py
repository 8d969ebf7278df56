"""The house in numbers: `python -m scripts.rooms [--arrows]`.

Rooms, arrows and circles are those of `tests/test_arrows.py`. A line counts unless it is empty. `--arrows` lists what
each room imports instead.
"""

from __future__ import annotations

import argparse
import ast
import graphlib

from tests.sources import PACKAGE, ROOT, SOURCES, imports, tree
from tests.test_arrows import arrows, room


def room_graph() -> dict[str, set[str]]:
    """The rooms that each room of the package imports."""
    found: dict[str, set[str]] = {}
    for name in PACKAGE:
        found.setdefault(room(name), set()).update(arrows(name)[0])
    found.pop("__init__", None)
    return found


def top_level(rooms: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same with the inner walls taken out."""
    merged: dict[str, set[str]] = {}
    for name, targets in rooms.items():
        outer = name.partition("/")[0]
        merged.setdefault(outer, set()).update(target.partition("/")[0] for target in targets)
    return {name: targets - {name} for name, targets in merged.items()}


def circles(graph: dict[str, set[str]]) -> int:
    """How many circles of imports have to be cut until none is left."""
    graph = {name: set(targets) for name, targets in graph.items()}
    count = 0
    while True:
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            source, target = error.args[1][1], error.args[1][0]
            graph[source].discard(target)
            count += 1
        else:
            return count


def modules() -> dict[str, set[str]]:
    """The files that each file of the package imports, for types too. The package's own front is left out."""
    found = {}
    for name in PACKAGE:
        targets = {target for dotted in imports(tree(name)) if (target := file_of(dotted))}
        found[name] = targets - {name, "lichtspiel/__init__.py"}
    found.pop("lichtspiel/__init__.py", None)
    return found


def file_of(dotted: str) -> str | None:
    """The file of the package that an imported name comes from."""
    parts = dotted.split(".")
    while parts:
        stem = "/".join(parts)
        for name in (f"{stem}.py", f"{stem}/__init__.py"):
            if name in PACKAGE:
                return name
        parts.pop()
    return None


def lines(names: list[str]) -> dict[str, int]:
    """Lines that are not empty, by file."""
    return {name: sum(bool(line.strip()) for line in (ROOT / name).read_text().splitlines()) for name in names}


def functions() -> dict[str, int]:
    """Lines of every function of the package, by file and name."""
    found = {}
    for name in PACKAGE:
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                found[f"{name}: {node.name}"] = node.end_lineno - node.lineno + 1
    return found


def table() -> list[tuple[str, str]]:
    """What the house measures."""
    rooms = room_graph()
    outer = top_level(rooms)
    code = lines(list(PACKAGE))
    tests = lines([name for name in SOURCES if name.startswith("tests/")])
    whole = {name: (ROOT / name).read_text().count("\n") for name in PACKAGE}
    return [
        ("rooms", str(len(outer))),
        ("arrows between them", str(sum(map(len, outer.values())))),
        ("rooms, with those inside seal, serve, train and tune", str(len(rooms))),
        ("arrows between all of them", str(sum(map(len, rooms.values())))),
        ("circles between files, imports for types included", str(circles(modules()))),
        ("longest function, in lines", str(max(functions().values()))),
        ("largest file, in lines", str(max(whole.values()))),
        ("files", str(len(PACKAGE))),
        ("lines", f"{sum(whole.values()):,}"),
        ("lines of tests to lines of source", f"{sum(tests.values()) / sum(code.values()):.2f}"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arrows", action="store_true", help="list what each room imports")
    if parser.parse_args().arrows:
        for name, targets in sorted(room_graph().items()):
            print(f"{name:<20} {' '.join(sorted(targets))}")
        return
    for title, value in table():
        print(f"{title:<52} {value:>8}")


if __name__ == "__main__":
    main()
