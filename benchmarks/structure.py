"""Prints the structure of the code as figures: sizes of files and functions, layers, circles of imports, language.

    python benchmarks/structure.py

Generated stubs and tests are left out. A function's size is its lines from `def` to its end, docstring included; a circle is a
set of modules that import one another, in functions too. A docstring cannot be read alone where it begins as a fragment does.
The last line is a JSON object.
"""

from __future__ import annotations

import ast
import json
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("splitvlm", "edge_node", "cloud_node", "orchestrator")
AT_HOME = (
    "__init__",
    "errors",
    "host_port",  # below settings and channels, which share it
    "local_model",
    "settings",
    "domain",
    "bundle",
    "client",
    "local",
)  # modules that may stand alone in splitvlm
FRAGMENTS = (  # a docstring that begins like this leans on a name or a line before, or is a clause without its verb
    *("Of", "As", "The same", "These", "The rest"),
    *("What", "Whether", "How", "Which", "Where", "Who", "Why", "When"),
)
NOUNS = (
    "The",
    "A",
    "An",
    "All",
    "Both",
    "Each",
    "Every",
    "One",
    "Other",
    "Some",
    "Those",
    "From",
    "At",
    "In",
    "By",
    "On",
)
"""A function's or class's docstring begins with its verb, not with these. A module's may be a title and what it stands for."""
SAYS_NOTHING = {"one", "found", "place", "given"}  # names of locals and parameters that do not say what they hold
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Module:
    """Holds what is counted of one source file, whose dotted name is `name`."""

    name: str
    path: Path
    lines: int
    function_lines: dict[str, int] = field(default_factory=dict)
    public: int = 0
    public_with_docstring: int = 0
    fragments: list[str] = field(default_factory=list)  # docstrings that cannot be read alone
    vague_names: list[str] = field(default_factory=list)  # "line: name"
    imports: set[str] = field(default_factory=set)


def modules() -> dict[str, Module]:
    """Returns every module of the packages by its dotted name."""
    read = (_module(path) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return {module.name: module for module in read if "_pb2" not in module.path.name}


def _module(path: Path) -> Module:
    text = path.read_text("utf-8")
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return module_of(name, path, text)


def module_of(name: str, path: Path, text: str) -> Module:
    """Returns what is counted of a module with this text. Raises SyntaxError."""
    tree = ast.parse(text)
    module = Module(name, path, text.count("\n"))
    for node in ast.walk(tree):
        if isinstance(node, Function):
            module.function_lines[node.name] = (node.end_lineno or 0) - node.lineno + 1
        if isinstance(node, Function | ast.ClassDef | ast.Module) and (docstring := ast.get_docstring(node)):
            module.fragments += [docstring] if is_fragment(docstring, of_module=isinstance(node, ast.Module)) else []
        if isinstance(node, ast.arg | ast.Name) and (name_bound := _bound(node)) in SAYS_NOTHING:
            module.vague_names.append(f"{node.lineno}: {name_bound}")
    for node in _public(tree.body):
        module.public += 1
        module.public_with_docstring += ast.get_docstring(node) is not None
    module.imports = set(_imports(tree))
    return module


def _bound(node: ast.arg | ast.Name) -> str:
    """Returns the name of the parameter or variable that a node binds; empty where it binds none."""
    if isinstance(node, ast.arg):
        return node.arg
    return node.id if isinstance(node.ctx, ast.Store) else ""


def _public(body: Sequence[ast.stmt]) -> Iterator[Function]:
    """Yields the public functions of a module and the public methods of its public classes."""
    for node in body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _public(node.body)


def _imports(node: ast.AST) -> Iterator[str]:
    """Yields the names that a module imports, in functions too. Imports under TYPE_CHECKING are for types only: left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
            yield child.module
        elif not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from _imports(child)


def circles(all_modules: dict[str, Module]) -> list[list[str]]:
    """Returns the strongly connected sets of two or more modules (Tarjan's algorithm)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    sets: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in _resolved(all_modules, name):
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            members = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(members) > 1:
                sets.append(sorted(members))

    for name in all_modules:
        if name not in order:
            visit(name)
    return sets


def _resolved(all_modules: dict[str, Module], name: str) -> set[str]:
    """Returns the modules that a module imports. A package that is named for a module in it counts as that module alone."""
    imports = all_modules[name].imports & all_modules.keys() - {name}
    return {other for other in imports if not any(longer.startswith(f"{other}.") for longer in imports)}


def layers() -> int:
    """Returns the number of layers of the import contract in pyproject.toml."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    return max(len(contract.get("layers", ())) for contract in contracts)


def main() -> None:
    """Prints the figures, then what is over a bound or says nothing, then one JSON object."""
    all_modules = modules()
    file_lines = [module.lines for module in all_modules.values()]
    function_lines = [lines for module in all_modules.values() for lines in module.function_lines.values()]
    public = sum(module.public for module in all_modules.values())
    documented = sum(module.public_with_docstring for module in all_modules.values())
    figures = {
        "files": len(file_lines),
        "lines": sum(file_lines),
        "file_lines": _spread(file_lines),
        "functions": len(function_lines),
        "function_lines": _spread(function_lines),
        "layers": layers(),
        "circles": len(circles(all_modules)),
        "public_functions": public,
        "with_docstring": round(documented / public, 3),
        "cannot_be_read_alone": sum(len(module.fragments) for module in all_modules.values()),
        "vague_names": sum(len(module.vague_names) for module in all_modules.values()),
        "loose_modules": sorted(
            name for name in all_modules if name.count(".") == 1 and _is_loose(name.removeprefix("splitvlm."), name)
        ),
    }
    for name, value in figures.items():
        print(f"{name:22} {value}")
    for module in all_modules.values():
        if module.lines > 350:
            print(f"over 350 lines: {module.name} {module.lines}")
        for vague in module.vague_names:
            print(f"a name that says nothing: {module.path.relative_to(ROOT)}:{vague}")
        for text in module.fragments:
            print(f"a docstring that cannot be read alone: {module.name}: {text.splitlines()[0]}")
        for function, lines in module.function_lines.items():
            if lines > 45:
                print(f"over 45 lines: {module.name}.{function} {lines}")
    for members in circles(all_modules):
        print(f"circle: {', '.join(members)}")
    print(json.dumps({"benchmark": "structure"} | figures))


def _spread(lines: list[int]) -> dict[str, float]:
    return {"median": median(lines), "p90": quantiles(lines, n=10)[-1], "max": max(lines)}


def is_fragment(docstring: str, *, of_module: bool) -> bool:
    """Returns whether a docstring begins as a clause that leans on something else, or that has no verb of its own."""
    words = FRAGMENTS if of_module else (*FRAGMENTS, *NOUNS)
    return docstring.startswith(tuple(f"{word}{end}" for word in words for end in " .,:"))


def _is_loose(short: str, name: str) -> bool:
    """Returns whether it is a module, no package, of splitvlm that has no room."""
    return name.startswith("splitvlm.") and short not in AT_HOME and not (ROOT / "splitvlm" / short).is_dir()


if __name__ == "__main__":
    main()
