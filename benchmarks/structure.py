"""Prints the structure of the code as figures: sizes of files and functions, layers, circles of imports, docstrings.

    python benchmarks/structure.py

Generated stubs and tests are left out. A function's size is its lines from `def` to its end, docstring included; a circle is a
set of modules that import one another, in functions too. The last line is a JSON object.
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
    "settings",
    "domain",
    "bundle",
    "client",
    "local",
)  # modules that may stand alone in splitvlm
CANNOT_BE_READ_ALONE = (  # a docstring that begins like this leans on a name or a line before, or is a clause without its verb
    *("Of", "As", "The same", "These", "The rest"),
    *("What", "Whether", "How", "Which", "Where", "Who", "Why", "When"),
)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Module:
    """One source file: its dotted name, its lines, its functions' lengths, its docstrings, the modules that it imports."""

    name: str
    path: Path
    lines: int
    function_lines: dict[str, int] = field(default_factory=dict)
    public: int = 0
    public_with_docstring: int = 0
    docstrings: list[str] = field(default_factory=list)
    imports: set[str] = field(default_factory=set)


def modules() -> dict[str, Module]:
    """Every module of the packages by its dotted name."""
    read = (_module(path) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return {module.name: module for module in read if "_pb2" not in module.path.name}


def _module(path: Path) -> Module:
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    module = Module(name, path, text.count("\n"))
    for node in ast.walk(tree):
        if isinstance(node, Function):
            module.function_lines[node.name] = (node.end_lineno or 0) - node.lineno + 1
        if isinstance(node, Function | ast.ClassDef | ast.Module) and (docstring := ast.get_docstring(node)):
            module.docstrings.append(docstring)
    for node in _public(tree.body):
        module.public += 1
        module.public_with_docstring += ast.get_docstring(node) is not None
    module.imports = set(_imports(tree))
    return module


def _public(body: Sequence[ast.stmt]) -> Iterator[Function]:
    """Public functions of a module and public methods of its public classes."""
    for node in body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _public(node.body)


def _imports(node: ast.AST) -> Iterator[str]:
    """Names that a module imports, in functions, too; what stands under TYPE_CHECKING is for types only and left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
            yield child.module
        elif not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from _imports(child)


def circles(found: dict[str, Module]) -> list[list[str]]:
    """Strongly connected sets of two or more modules (Tarjan's algorithm)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    sets: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in _resolved(found, name):
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

    for name in found:
        if name not in order:
            visit(name)
    return sets


def _resolved(found: dict[str, Module], name: str) -> set[str]:
    """Modules that one imports. A package that is named for a module in it counts as that module alone."""
    imports = found[name].imports & found.keys() - {name}
    return {other for other in imports if not any(longer.startswith(f"{other}.") for longer in imports)}


def layers() -> int:
    """Layers of the import contract in pyproject.toml."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    return max(len(contract.get("layers", ())) for contract in contracts)


def main() -> None:
    """Print the figures, then the files and functions over the bounds, then one JSON object."""
    found = modules()
    file_lines = [module.lines for module in found.values()]
    function_lines = [lines for module in found.values() for lines in module.function_lines.values()]
    docstrings = [text for module in found.values() for text in module.docstrings]
    public = sum(module.public for module in found.values())
    documented = sum(module.public_with_docstring for module in found.values())
    figures = {
        "files": len(file_lines),
        "lines": sum(file_lines),
        "file_lines": _spread(file_lines),
        "functions": len(function_lines),
        "function_lines": _spread(function_lines),
        "layers": layers(),
        "circles": len(circles(found)),
        "public_functions": public,
        "with_docstring": round(documented / public, 3),
        "cannot_be_read_alone": sum(_begins(text) for text in docstrings),
        "loose_modules": sorted(
            name for name in found if name.count(".") == 1 and _is_loose(name.removeprefix("splitvlm."), name)
        ),
    }
    for name, value in figures.items():
        print(f"{name:22} {value}")
    for module in found.values():
        if module.lines > 350:
            print(f"over 350 lines: {module.name} {module.lines}")
        for function, lines in module.function_lines.items():
            if lines > 45:
                print(f"over 45 lines: {module.name}.{function} {lines}")
    for members in circles(found):
        print(f"circle: {', '.join(members)}")
    print(json.dumps({"benchmark": "structure"} | figures))


def _spread(lines: list[int]) -> dict[str, float]:
    return {"median": median(lines), "p90": quantiles(lines, n=10)[-1], "max": max(lines)}


def _begins(docstring: str) -> bool:
    return docstring.startswith(tuple(f"{words}{end}" for words in CANNOT_BE_READ_ALONE for end in " .,:"))


def _is_loose(short: str, name: str) -> bool:
    """Whether it is a module, no package, of splitvlm that has no room."""
    return name.startswith("splitvlm.") and short not in AT_HOME and not (ROOT / "splitvlm" / short).is_dir()


if __name__ == "__main__":
    main()
