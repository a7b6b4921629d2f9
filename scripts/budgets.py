"""Holds every source file to the budgets in budgets.toml: sizes, nesting, and what a cheap import may load."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("src", "tests", "bench", "scripts", "docs")
SUFFIXES = {".py", ".js", ".css", ".sh"}
Function = ast.FunctionDef | ast.AsyncFunctionDef
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.TryStar, ast.Match)


class Size(NamedTuple):
    """One measured thing: where it is, which budget it falls under, how large it is, and on which line it begins."""

    where: str
    budget: str
    size: int
    line: int


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Every function of a module with its dotted name, functions within functions included."""
    for node in ast.iter_child_nodes(tree):
        named = isinstance(node, Function | ast.ClassDef)
        name = f"{prefix}{node.name}" if isinstance(node, Function | ast.ClassDef) else prefix
        if isinstance(node, Function):
            yield name, node
        yield from functions(node, f"{name}." if named else prefix)


def function_lines(function: Function) -> int:
    """The lines of a function without its decorators and its docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function, clean=False) is None:
        return lines
    docstring = function.body[0]
    return lines - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1)


def nesting(node: ast.AST) -> int:
    """How deep blocks stand inside one another. An `elif` is no deeper than its `if`; an inner function starts anew."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef | ast.Lambda):
            continue
        is_elif = isinstance(node, ast.If) and node.orelse == [child] and isinstance(child, ast.If)
        deepest = max(deepest, nesting(child) + (isinstance(child, BLOCKS) and not is_elif))
    return deepest


def sizes(path: Path) -> Iterator[Size]:
    """Everything of one file that falls under a budget."""
    where = path.relative_to(ROOT).as_posix()
    text = path.read_text(encoding="utf-8")
    yield Size(where, "file_lines", len(text.splitlines()), 1)
    if path.suffix != ".py":
        return
    for name, function in functions(ast.parse(text, where)):
        yield Size(f"{where}:{name}", "function_lines", function_lines(function), function.lineno)
        yield Size(f"{where}:{name}", "nesting", nesting(function), function.lineno)


def source_files() -> list[Path]:
    found = (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")))
    return [path for path in found if path.suffix in SUFFIXES and path.is_file()]


def too_large(rules: dict[str, Any]) -> Iterator[str]:
    """Every size over its budget, and every exception that nothing needs any more."""
    lifted = {(entry["where"], entry["budget"]): entry for entry in rules.get("exceptions", [])}
    for size in (size for path in source_files() for size in sizes(path)):
        limit = rules["limits"][size.budget]
        exception = lifted.pop((size.where, size.budget), None) if size.size > limit else None
        allowed = exception["limit"] if exception else limit
        if size.size > allowed:
            path = size.where.split(":")[0]
            yield f"{path}:{size.line}: {size.budget} {size.size}, the limit is {allowed} ({size.where})"
    for where, budget in lifted:
        yield f"scripts/budgets.toml: the exception for {where}, {budget}, is not needed any more: take it out"


def loaded(statement: str, heavy: list[str]) -> list[str]:
    """The heavy modules that a fresh Python has loaded after a statement. A statement that fails is told as one."""
    report = f"import json; print('\\n' + json.dumps([m for m in {heavy!r} if m in sys.modules]))"
    code = f"import sys\ntry:\n    {statement}\nexcept SystemExit:\n    pass\n{report}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True, cwd=ROOT)
    if done.returncode:
        return [f"an error ({done.stderr.strip().splitlines()[-1]})"]
    modules: list[str] = json.loads(done.stdout.splitlines()[-1])
    return modules


def heavy_imports(rules: dict[str, Any]) -> Iterator[str]:
    """What the package, its command line's help and each pure module load though they must not."""
    heavy = rules["imports"]["heavy"]
    statements = {
        "import afterword": "import afterword",
        "afterword --help": "sys.argv[1:] = ['--help']; from afterword.cli import main; main()",
    }
    pure = {f"import afterword.{name}": f"import afterword.{name}" for name in rules["imports"]["pure"]}
    if loaded("; ".join(pure.values()), heavy):  # one process for all of them; only then one for each, to name it
        statements |= pure
    for name, statement in statements.items():
        if found := loaded(statement, heavy):
            yield f"{name} loads {', '.join(found)}: import it when it is chosen, or under TYPE_CHECKING"


def main() -> int:
    rules = tomllib.loads((ROOT / "scripts" / "budgets.toml").read_text(encoding="utf-8"))
    found = [*too_large(rules), *heavy_imports(rules)]
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
