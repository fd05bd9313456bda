"""How the packages lie on each other: what docs/architecture.md says is what the imports do."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "llmarking"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Who may import a library, also inside of functions.
DOORS = {
    "gradio": ("ui/",),
    "vllm": ("engines/vllm_",),
    "torch": ("engines/vllm_", "models/gguf", "training/"),
    "peft": ("training/",),
    "sqlalchemy": ("store/", "server/routes/"),
    "alembic": ("store/migrations/",),
    "fastapi": ("server/", "protocol/problems", "ui/"),
}


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Full names of all that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{place(path)}: imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(name: str) -> str:
    """The package or the shared module that a full name or a path leads into."""
    return name.removesuffix(".py").split("/")[0].split(".")[0]


def order() -> dict[str, int]:
    """The row of docs/architecture.md in which a package or a shared module stands."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("| package |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    return {name: at for at, row in enumerate(rows) for name in re.findall(r"`(\w+)`", row)}


def test_every_package_has_its_row() -> None:
    parts = {part(place(path)) for path in MODULES} - {"__init__"}
    assert parts == set(order())


@pytest.mark.parametrize("name", sorted({part(place(path)) for path in MODULES} - {"__init__"}))
def test_imports_run_one_way(name: str) -> None:
    """Upwards in the list; rows that name several may use each other."""
    rows = order()
    against = {
        (place(path), imported)
        for path in MODULES
        if part(place(path)) == name
        for imported in imports(path)
        if imported.startswith("llmarking.")
        and not imported.startswith("llmarking.__version__")
        and rows[part(imported.removeprefix("llmarking."))] > rows[name]
    }
    assert against == set()


@pytest.mark.parametrize("library", DOORS)
def test_libraries_come_in_by_their_doors(library: str) -> None:
    users = {
        place(path)
        for path in MODULES
        for imported in imports(path)
        if imported.partition(".")[0] == library
    }
    assert users
    assert {user for user in users if not user.startswith(DOORS[library])} == set()


def test_packages_say_what_they_hold_and_load_nothing() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), place(path)
        if path.parent.name != "migrations":
            assert not list(imports(path)), place(path)


def test_modules_without_an_engine_import_without_one() -> None:
    """What a program of one's own needs to talk to a server and to read its answers."""
    names = [
        "llmarking." + place(path).removesuffix(".py").replace("/", ".")
        for path in MODULES
        if part(place(path)) in {"client", "calls", "domain", "errors", "rubric", "marks", "tables"}
        and path.name != "__init__.py"
    ]
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {names!r}]; "
        "print([name for name in ('vllm', 'torch', 'gradio', 'fastapi') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
