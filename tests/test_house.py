"""Who may import whom at the top level (inside utils/ import-linter says so), and the habits of the house."""

import ast

import pytest

from tests.conftest import PROJECT

ALLOWED = {  # which root modules each may import
    "ghost": set(),
    "models": {"ghost"},
    "train": {"models", "ghost"},
    "test": {"models", "ghost"},
    "detect": {"models", "ghost"},
    "classify": {"ghost"},
    "hubconf": {"models", "ghost", "detect"},
    "serve": {"models", "ghost", "detect"},
    "benchmark": {"models", "train", "detect", "prune", "export"},
    "prune": {"models", "train"},
    "export": {"models", "classify"},
}


def imports(path: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse((PROJECT / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def test_every_root_file_is_known() -> None:
    assert {path.stem for path in PROJECT.glob("*.py")} == set(ALLOWED)


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_root_files_import_downward(name: str) -> None:
    assert imports(f"{name}.py") & set(ALLOWED) <= ALLOWED[name]


@pytest.mark.parametrize("path", sorted(p.relative_to(PROJECT).as_posix() for p in (PROJECT / "utils").rglob("*.py")))
def test_files_are_short_and_explain_themselves(path: str) -> None:
    text = (PROJECT / path).read_text()
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text))
