"""The repository keeps its own rules: layers, generated files in step with the notebooks, small outputs, nothing of one machine."""

import ast
import json
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: The layers, in the order in which data flow down them: a folder imports itself and those before it.
LAYERS = [
    "core",
    "imaging",
    "particles",
    "model",
    "training",
    "analysis",
    "show",
    "bench",
    "command",
]
NOTEBOOKS = sorted((ROOT / "nbs").glob("*/[0-9]*.ipynb"))
TUTORIALS = sorted((ROOT / "nbs" / "tutorials").glob("*.ipynb"))


def cells(path: Path) -> list:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def code_cells(path: Path) -> list:
    return ["".join(c["source"]) for c in cells(path) if c["cell_type"] == "code"]


def module_of(path: Path) -> str | None:
    found = re.findall(r"^#\|\s*default_exp\s+(\S+)", "\n".join(code_cells(path)), flags=re.M)
    return found[0] if found else None


def place(path: Path) -> tuple:
    "Where a notebook stands in the flow: (layer, number in its folder)."
    return LAYERS.index(path.parent.name), int(path.name[:2])


PLACE = {module_of(p): place(p) for p in NOTEBOOKS if module_of(p)}


def tree(source: str):
    "The syntax tree of a cell, its IPython magics taken out."
    return ast.parse(
        "\n".join(
            "" if line.lstrip().startswith(("%", "!", "?")) else line for line in source.split("\n")
        )
    )


def imported(source: str) -> set:
    "Modules of the package that a cell imports, at any depth, by `import` or by a string handed to importlib."
    found, public = set(), public_names()
    for node in ast.walk(tree(source)):
        if (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").split(".")[0] == "cryoformer_nb"
        ):
            parts = node.module.split(".")[1:]
            if len(parts) == 2:
                found.add(".".join(parts))
            else:
                found |= {
                    public.get(a.name) or ".".join([*parts, a.name])
                    for a in node.names
                    if not a.name.startswith("__")
                }
        elif isinstance(node, ast.Import):
            found |= {
                a.name.partition(".")[2] for a in node.names if a.name.startswith("cryoformer_nb.")
            }
        elif isinstance(node, ast.Call) and getattr(
            node.func, "id", getattr(node.func, "attr", "")
        ) in ("import_module", "__import__"):
            found |= {
                a.value.partition(".")[2]
                for a in node.args
                if isinstance(a, ast.Constant) and str(a.value).startswith("cryoformer_nb")
            }
    return found


def public_names() -> dict:
    "The names importable from the top, and the module each lives in."
    import cryoformer_nb

    return cryoformer_nb._PUBLIC


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_imports_flow_down(path):
    for source in code_cells(path):
        for module in imported(source):
            assert module in PLACE, f"{path.name} imports {module}, which no notebook exports"
            if module == module_of(path):
                assert "#| export" not in source, f"{path.name} exports an import of itself"
            else:
                assert PLACE[module] < place(path), (
                    f"{path.parent.name}/{path.name} imports {module}; a notebook imports only what stands above it: folders {', '.join(LAYERS)}, numbers inside a folder"
                )


def test_editors_see_the_public_names():
    "The names under TYPE_CHECKING are those that are importable, from the same modules."
    tree = ast.parse((ROOT / "cryoformer_nb" / "__init__.py").read_text())
    block = next(
        node
        for node in tree.body
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "_TYPE_CHECKING"
    )
    assert {a.name: node.module for node in block.body for a in node.names} == public_names()


def test_public_names_are_there():
    import cryoformer_nb

    for name in cryoformer_nb.__all__:
        assert getattr(cryoformer_nb, name).__name__.rpartition(".")[2] == name and name in dir(
            cryoformer_nb
        )


def test_modules_and_notebooks_are_one_to_one():
    modules = [module_of(p) for p in NOTEBOOKS if module_of(p)]
    assert len(set(modules)) == len(modules) and len({place(p) for p in NOTEBOOKS}) == len(
        NOTEBOOKS
    )
    assert [m.split(".")[0] for m in modules] == [
        p.parent.name for p in NOTEBOOKS if module_of(p)
    ], "a module lies in the folder of its notebook"
    made = {
        p.relative_to(ROOT / "cryoformer_nb").with_suffix("").as_posix().replace("/", ".")
        for p in (ROOT / "cryoformer_nb").rglob("*.py")
        if p.name not in ("__init__.py", "_modidx.py")
    }
    assert made == set(modules), "every module comes from a notebook"


@pytest.mark.parametrize("path", NOTEBOOKS + TUTORIALS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_notebook_form(path):
    listed = cells(path)
    first = "".join(listed[0]["source"])
    assert listed[0]["cell_type"] == "markdown" and re.match(r"# .+\n\s*\n> .+", first), (
        "a title and one line in a quotation open the notebook"
    )
    assert len(listed) <= 80, f"{len(listed)} cells; split the notebook"
    for source in code_cells(path):
        if not source.startswith("#| export"):
            continue
        body = tree(source).body
        kinds = {isinstance(node, (ast.Import, ast.ImportFrom)) for node in body}
        assert len(kinds) < 2, f"an exported cell holds imports or code, not both: {source[:80]}"
        assert len(source.split("\n")) <= 140, (
            f"an exported cell of {len(source.split(chr(10)))} lines; 25 are plenty: {source[:80]}"
        )


@pytest.mark.parametrize(
    "path",
    NOTEBOOKS + TUTORIALS + [ROOT / "nbs" / "index.ipynb"],
    ids=lambda p: f"{p.parent.name}-{p.stem}",
)
def test_stored_outputs_are_small(path):
    size = sum(len(json.dumps(c.get("outputs", []))) for c in cells(path))
    assert size < 200_000, (
        f"{size / 1e3:.0f} kB of stored outputs; draw fewer points or smaller pictures"
    )
    assert "application/vnd.jupyter.widget-state+json" not in path.read_text(encoding="utf-8"), (
        "widget state never goes into a notebook"
    )
    kinds = {kind for c in cells(path) for o in c.get("outputs", []) for kind in o.get("data", {})}
    assert "application/vnd.jupyter.widget-view+json" not in kinds, (
        "a stored widget is a dead box without its kernel: run the notebook with CRYOFORMER_WIDGETS=static"
    )


def test_tutorials_export_nothing():
    for path in TUTORIALS:
        assert not re.search(
            r"^#\|\s*(default_exp|export)", "\n".join(code_cells(path)), flags=re.M
        ), path.name


def tracked() -> list:
    try:
        names = subprocess.run(
            ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"],
            cwd=ROOT,
            capture_output=True,
            check=True,
            text=True,
        ).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"not a git checkout: {error}")
    return [ROOT / n for n in names if n and (ROOT / n).is_file()]


#: What git tracks and is no text.
BINARY = (".png", ".npz", ".npy", ".mrc", ".mrcs", ".cs", ".pkl", ".gif", ".ico")


def test_nothing_of_one_machine():
    here = r"(?<![\w.])/(?:wo" + r"rk|root|home|Users|farm|scratch|opt)/|/tmp/|(?<![\w.])[A-Z]:\\"
    host = (
        r"(?:https?|file)://\S*(?:/simple\b|pypi\S*mirror|artifactory|nexus|localhost|127\.0\.0\.1)"
    )
    for path in tracked():
        if path == Path(__file__).resolve() or path.suffix in BINARY:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            if len(line) > 20_000:
                continue  # base64 of figures
            found = re.search(f"{here}|{host}", line)
            around = found and line[max(0, found.start() - 40) : found.end() + 40]
            assert not found, (
                f"{path.relative_to(ROOT)}:{number} names a place of one machine: ...{around}..."
            )


def test_nothing_large():
    for path in tracked():
        assert path.stat().st_size < 1_500_000, (
            f"{path.relative_to(ROOT)} has {path.stat().st_size / 1e6:.1f} MB; large files stay out of git"
        )


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    "A copy of the repository in which nbdev has just exported and cleaned."
    nbdev_export = Path(sys.executable).with_name("nbdev_export")
    if not nbdev_export.exists():
        pytest.skip("nbdev is not installed: pip install -c constraints.txt -e '.[dev]'")
    copy = tmp_path_factory.mktemp("copy")
    for name in ("nbs", "cryoformer_nb"):
        shutil.copytree(
            ROOT / name,
            copy / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"),
        )
    for name in ("settings.ini", "setup.py", "_quarto.yml"):
        shutil.copy(ROOT / name, copy / name)
    for tool in ("nbdev_export", "nbdev_clean"):
        subprocess.run([nbdev_export.with_name(tool)], cwd=copy, check=True, capture_output=True)
    return copy


def test_export_is_in_sync(exported):
    for made in sorted((exported / "cryoformer_nb").rglob("*.py")):
        assert made.read_text() == (ROOT / made.relative_to(exported)).read_text(), (
            f"{made.relative_to(exported)} is stale; run nbdev_export"
        )


def test_notebooks_are_clean(exported):
    for path in NOTEBOOKS + TUTORIALS + [ROOT / "nbs" / "index.ipynb"]:
        assert (exported / path.relative_to(ROOT)).read_text() == path.read_text(), (
            f"{path.name} holds metadata or execution counts; run nbdev_clean"
        )


def readme_commands() -> list:
    "The lines of the README's shell blocks that install."
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:bash|sh)\n(.*?)^```", text, flags=re.M | re.S)
    return [
        line for block in blocks for line in block.split("\n") if line.startswith("pip install")
    ]


def test_readme_is_made_from_the_notebook():
    subprocess.run([sys.executable, ROOT / "tools" / "readme.py", "--check"], check=True)


def test_readme_has_two_commands():
    assert readme_commands() == [
        "pip install -c constraints.txt -e . && cryoformer demo",
        "pip install -c constraints.txt -e '.[dev]' && bash tools/test.sh",
    ]


def test_readme_has_no_blanks():
    assert "{{" not in (ROOT / "README.md").read_text(encoding="utf-8"), (
        "a number is still to be filled in, in nbs/index.ipynb"
    )


def test_readme_links_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text) + re.findall(r'src="([^"]+)"', text):
        if not re.match(r"[a-z]+:", target):
            assert (ROOT / target).exists(), f"README.md links to {target}, which is not there"


def test_settings_and_setup_agree():
    parser = ConfigParser(interpolation=None, delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    cfg, got = parser["DEFAULT"], {}
    import setuptools

    original, setuptools.setup = setuptools.setup, lambda **keys: got.update(keys)
    try:
        exec(
            compile((ROOT / "setup.py").read_text(), ROOT / "setup.py", "exec"),
            {"__file__": str(ROOT / "setup.py"), "__name__": "setup"},
        )
    finally:
        setuptools.setup = original
    assert (got["name"], got["version"], got["license"]) == (
        cfg["lib_name"],
        cfg["version"],
        "Apache-2.0",
    ) and cfg["license"] == "apache2"
    assert (
        got["install_requires"] == cfg["requirements"].split()
        and got["extras_require"]["dev"] == cfg["dev_requirements"].split()
    )
    assert got["entry_points"]["console_scripts"] == ["cryoformer=cryoformer_nb.command.cli:main"]
    assert "cryoformer_nb" in got["packages"]
    assert (
        f'__version__ = "{cfg["version"]}"' in (ROOT / "cryoformer_nb" / "__init__.py").read_text()
    )


def test_requirements_are_what_is_imported():
    "Every foreign module that exported code imports is declared, and nothing of the development tools is among them."
    parser = ConfigParser(interpolation=None, delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    declared = {
        re.split(r"[<>=]", r)[0].replace("-", "_").lower()
        for r in parser["DEFAULT"]["requirements"].split()
    }
    names = {"scikit_image": "skimage", "pyyaml": "yaml", "py3dmol": "py3Dmol"}
    allowed = (
        {names.get(d, d) for d in declared}
        | set(sys.stdlib_module_names)
        | {"cryoformer_nb", "tinycudann"}
    )
    for path in (ROOT / "cryoformer_nb").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found = [node.module]
            else:
                continue
            for name in found:
                assert name.split(".")[0] in allowed, (
                    f"{path.name} imports {name}, which settings.ini does not require"
                )


def test_licence_is_apache():
    text = (ROOT / "LICENSE").read_text()
    assert (
        "Apache License" in text
        and "Version 2.0, January 2004" in text
        and "END OF TERMS AND CONDITIONS" in text
    )


def test_site_lists_every_notebook():
    import yaml

    listed = json.dumps(yaml.safe_load((ROOT / "_quarto.yml").read_text()))
    for path in NOTEBOOKS + TUTORIALS:
        assert path.relative_to(ROOT / "nbs").as_posix() in listed, (
            f"_quarto.yml does not list {path.name}"
        )


def test_every_notebook_is_in_the_map():
    "CONTRIBUTING.md names every notebook, in the row of its folder."
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        row = next(
            (line for line in text.split("\n") if line.startswith(f"| `{path.parent.name}/`")), ""
        )
        assert f"`{path.stem}`" in row, (
            f"CONTRIBUTING.md does not name {path.stem} in the row of {path.parent.name}/"
        )
