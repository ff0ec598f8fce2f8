"""Measures how the package is laid out, from its syntax trees.

    python tools/house.py [PACKAGE]

A room is a package, or a module, at the top of `keras_glow`. An arrow leads
from what imports to what is imported, at the top of a file or in a function.
Prints a table in Markdown; `tests/repository/test_house.py` sets the limits.
"""

import ast
import collections
import dataclasses
import functools
import importlib.util
import io
import itertools
import pathlib
import sys
import tokenize

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "keras_glow"
# Lowest first: a room imports from the rooms before it. `__init__` is the file
# at the top, which imports what is public and so nothing of `cli`.
ORDER = (
    "checks backend losses layers data flow files images analysis training "
    "schedules callbacks glow latent conversion __init__ cli __main__"
).split()
OPEN_TO_ALL = ("checks", "files.atomic")  # modules that any room may import
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclasses.dataclass(frozen=True)
class Module:
    """A file: its path in the package, with slashes, and its text."""

    path: str
    text: str

    @property
    def name(self):
        """The dotted name in the package, of `layers/__init__.py` "layers"."""
        name = self.path.removesuffix(".py").replace("/", ".")
        return "" if name == "__init__" else name.removesuffix(".__init__")

    @functools.cached_property
    def tree(self):
        """Its syntax tree."""
        return ast.parse(self.text)

    @functools.cached_property
    def code(self):
        """Numbers of the lines that hold more than docstrings and comments."""
        found = set()
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type != tokenize.COMMENT and token.string.strip():
                found.update(range(token.start[0], token.end[0] + 1))
        for node in ast.walk(self.tree):
            documented = (*FUNCTIONS, ast.ClassDef, ast.Module)
            if isinstance(node, documented) and ast.get_docstring(node):
                found -= lines_of(node.body[0])
        return found


class House:
    """The modules of the package in a folder, and their arrows."""

    def __init__(self, package=PACKAGE):
        self.package = pathlib.Path(package).resolve()
        self.modules = {}  # by name
        for path in sorted(self.package.rglob("*.py")):
            name = path.relative_to(self.package).as_posix()
            module = Module(name, path.read_text(encoding="utf-8"))
            self.modules[module.name] = module

    def entries(self):
        """Names of the files and folders at the top."""
        names = {path.name for path in self.package.iterdir()}
        return sorted(names - {"__pycache__"})

    def rooms(self):
        """Lines of Python by room, in the order of rooms."""
        found = collections.Counter()
        for module in self.modules.values():
            found[room(module.name)] += module.text.count("\n")
        return dict(sorted(found.items(), key=lambda item: rank(item[0])))

    def functions(self):
        """Lines of code of every function, by "path: name"."""
        return {
            f"{module.path}: {name}": len(lines_of(node) & module.code)
            for module in self.modules.values()
            for name, node in functions_of(module.tree)
        }

    @functools.cached_property
    def arrows(self):
        """Pairs of modules `(importer, imported)`."""
        return {
            (module.name, imported)
            for module in self.modules.values()
            for node in ast.walk(module.tree)
            for imported in self._imported(module, node)
            if imported != module.name
        }

    def _imported(self, module, node):
        """The modules of this package that a statement imports."""
        source = ""
        if isinstance(node, ast.ImportFrom):
            here = [self.package.name, *module.path.split("/")[:-1]]
            relative = "." * node.level + (node.module or "")
            source = importlib.util.resolve_name(relative, ".".join(here)) + "."
        elif not isinstance(node, ast.Import):
            return
        for alias in node.names:
            package, *parts = (source + alias.name).split(".")
            if package == self.package.name:
                while ".".join(parts) not in self.modules:
                    parts.pop()  # a name in a module
                yield ".".join(parts)

    def room_arrows(self):
        """Pairs of rooms `(importer, imported)`."""
        pairs = [(room(one), room(two)) for one, two in self.arrows]
        return {(one, two) for one, two in pairs if one != two}

    def upward(self):
        """Those of `arrows` that lead to a room further up."""
        return sorted(
            (one, two)
            for one, two in self.arrows
            if rank(room(one)) < rank(room(two)) and two not in OPEN_TO_ALL
        )

    def circles(self):
        """Groups of modules each of which leads to all of its group."""
        leads = set(self.arrows)
        for middle in self.modules:
            before = {one for one, two in leads if two == middle}
            after = {two for one, two in leads if one == middle}
            leads |= set(itertools.product(before, after))
        groups = {
            tuple(b for b in self.modules if {(a, b), (b, a)} <= leads)
            for a in self.modules
        }
        return sorted(groups - {()})


def room(name):
    """The room of a module."""
    return name.partition(".")[0] or "__init__"


def rank(room):
    """The place of a room in the order: above all if it is not in it."""
    return ORDER.index(room) if room in ORDER else len(ORDER)


def lines_of(node):
    """Numbers of the lines over which a node goes."""
    return set(range(node.lineno, node.end_lineno + 1))


def functions_of(tree, prefix=""):
    """Dotted names and nodes of all functions, inner ones too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, FUNCTIONS):
            yield prefix + node.name, node
        named = isinstance(node, (*FUNCTIONS, ast.ClassDef))
        inner = f"{prefix}{node.name}." if named else prefix
        yield from functions_of(node, inner)


def table(house):
    """What was measured, in Markdown."""
    code = {module.path: len(module.code) for module in house.modules.values()}
    functions, rooms = house.functions(), house.rooms()
    file, function = (max(sizes, key=sizes.get) for sizes in (code, functions))
    upward = [f"`{one}` to `{two}`" for one, two in house.upward()]
    circles = list(map(" ".join, house.circles()))
    rows = [
        *(("what", "measured", "which"), ("---",) * 3),
        ("entries at the top", len(house.entries()), " ".join(house.entries())),
        ("lines of Python", sum(rooms.values()), ""),
        *((f"- `{name}`", lines, "") for name, lines in rooms.items()),
        ("largest file, lines of code", code[file], f"`{file}`"),
        ("largest function", functions[function], f"`{function}`"),
        ("arrows between rooms", len(house.room_arrows()), ""),
        ("arrows upward", len(upward), ", ".join(upward)),
        ("circles", len(circles), ", ".join(circles)),
    ]
    return "\n".join(f"| {a} | {b} | {c} |" for a, b, c in rows)


if __name__ == "__main__":
    print(table(House(*sys.argv[1:])))
