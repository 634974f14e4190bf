"""The language of the code, read from its sources: methods stand under their class, what others use
has a public name, lines fit a look, and something is seen after every idea."""

import ast
import importlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    p for p in (ROOT / "cryoformer_nb").rglob("*.py") if p.name not in ("__init__.py", "_modidx.py")
)
NOTEBOOKS = sorted((ROOT / "nbs").glob("*/[0-9]*.ipynb"))


def name_of(path: Path) -> str:
    "Folder and name."
    return f"{path.parent.name}-{path.stem}"


def code_cells(path: Path) -> list:
    "Cells as they stand, markdown included: (kind, source)."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(cell["cell_type"], "".join(cell["source"])) for cell in cells]


def statements(path: Path) -> list:
    return ast.parse(path.read_text(encoding="utf-8")).body


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_star_import_binds_no_loose_method(path):
    "`from module import *` gives functions and classes, none of which wants a `self`."
    module = importlib.import_module(f"cryoformer_nb.{path.parent.name}.{path.stem}")
    for name in module.__all__:
        value = getattr(module, name)
        first = getattr(getattr(value, "__code__", None), "co_varnames", ("",))[:1]
        assert first != ("self",), f"{name} is a method outside of its class"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_methods_are_written_under_their_class(path):
    "No attribute of a class is assigned from outside, and no `__set_name__` is called."
    body = statements(path)
    classes = {node.name for node in body if isinstance(node, ast.ClassDef)}
    for node in body:
        for target in node.targets if isinstance(node, ast.Assign) else []:
            for part in ast.walk(target):
                outside = (
                    isinstance(part, ast.Attribute) and getattr(part.value, "id", "") in classes
                )
                assert not outside, f"line {node.lineno}: {ast.unparse(node)}"
    assert "__set_name__" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_private_name_is_imported(path):
    "What another module uses has a public name."
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        ours = node.level or (node.module or "").startswith("cryoformer_nb")
        private = [a.name for a in node.names if re.match(r"_(?!_)", a.name)]
        assert not (ours and private), f"{private} of {node.module}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_lines_of_modules_fit(path):
    "100 columns but for what nbdev writes: the docstring of the module, __all__, and marked lines."
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[1:], 2):
        if line.startswith("__all__") or "# noqa: E501" in line:
            continue
        assert len(line) <= 100 or line.startswith("           '"), f"line {number}: {line}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_something_is_seen_after_every_idea(path):
    "At most two cells in a row define something before a cell shows or checks it."
    row = 0
    for kind, source in code_cells(path):
        if kind != "code" or re.match(r"#\| default_exp", source):
            continue
        if not source.startswith("#| export"):
            body = ast.parse(
                "\n".join("" if s.startswith(("%", "!")) else s for s in source.split("\n"))
            ).body
            if not all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in body):
                row = 0
        elif not all(
            isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.parse(source).body
        ):
            row += 1
        assert row <= 2, f"{row} cells in a row define, none shows: {source[:80]}"
