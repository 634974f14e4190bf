"""The repository keeps its own rules: layers, generated files in step, nothing of one machine."""

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
#: The layers, in the order in which data flow: a folder imports itself and those before it.
LAYERS = ["core", "imaging", "particles", "model", "training", "analysis", "show"]
LAYERS += ["bench", "command"]
NOTEBOOKS = sorted(p for layer in LAYERS for p in (ROOT / "nbs" / layer).glob("[0-9]*.ipynb"))
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
    lines = source.split("\n")
    return ast.parse("\n".join("" if re.match(r"\s*[%!?]", line) else line for line in lines))


def imported(source: str) -> set:
    "Modules of the package that a cell imports, by `import` or by a string given to importlib."
    found = set()
    for node in ast.walk(tree(source)):
        if isinstance(node, ast.ImportFrom):
            found |= modules_of_from(node)
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.startswith("cryoformer_nb.")}
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"):
            given = [a.value for a in node.args if isinstance(a, ast.Constant)]
            found |= {v for v in given if str(v).startswith("cryoformer_nb.")}
    return {name.removeprefix("cryoformer_nb.") for name in found}


def modules_of_from(node: ast.ImportFrom) -> set:
    "Modules that `from .. import ..` names: the module itself, or what it takes from a folder."
    package, *parts = (node.module or "").split(".")
    if package != "cryoformer_nb":
        return set()
    if len(parts) == 2:
        return {".".join(parts)}
    public = public_names()
    names = [a.name for a in node.names if not a.name.startswith("__")]
    return {public.get(name) or ".".join([*parts, name]) for name in names}


def called(node: ast.Call) -> str:
    return getattr(node.func, "id", getattr(node.func, "attr", ""))


def public_names() -> dict:
    "The names importable from the top, and the module each lives in."
    import cryoformer_nb

    return cryoformer_nb._PUBLIC


def named(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_imports_flow_down(path):
    rule = f"folders {', '.join(LAYERS)}, numbers inside a folder"
    for source in code_cells(path):
        for module in imported(source):
            assert module in PLACE, f"{path.name} imports {module}, which no notebook exports"
            if module == module_of(path):
                assert "#| export" not in source, f"{path.name} exports an import of itself"
            else:
                assert PLACE[module] < place(path), (
                    f"{path.parent.name}/{path.name} imports {module}; "
                    f"a notebook imports only what stands above it: {rule}"
                )


def test_editors_see_the_public_names():
    "The names under TYPE_CHECKING are those that are importable, from the same modules."
    body = ast.parse((ROOT / "cryoformer_nb" / "__init__.py").read_text()).body
    conditions = [node for node in body if isinstance(node, ast.If)]
    block = next(n for n in conditions if getattr(n.test, "id", "") == "_TYPE_CHECKING")
    assert {a.name: node.module for node in block.body for a in node.names} == public_names()


def test_public_names_are_there():
    import cryoformer_nb

    for name in cryoformer_nb.__all__:
        assert getattr(cryoformer_nb, name).__name__.rpartition(".")[2] == name
        assert name in dir(cryoformer_nb)


def test_modules_and_notebooks_are_one_to_one():
    modules = {p: module_of(p) for p in NOTEBOOKS if module_of(p)}
    assert len(set(modules.values())) == len(modules), "two notebooks export one module"
    assert len({place(p) for p in NOTEBOOKS}) == len(NOTEBOOKS), "two notebooks have one number"
    for path, module in modules.items():
        assert module.split(".")[0] == path.parent.name, "a module lies in its notebook's folder"
    package = ROOT / "cryoformer_nb"
    files = [p for p in package.rglob("*.py") if p.name not in ("__init__.py", "_modidx.py")]
    made = {".".join(p.relative_to(package).with_suffix("").parts) for p in files}
    assert made == set(modules.values()), "every module comes from a notebook"


#: Lines of an exported cell: 25 are plenty, the longest is a script for the browser.
MOST_LINES = 66


@pytest.mark.parametrize("path", NOTEBOOKS + TUTORIALS, ids=named)
def test_notebook_form(path):
    listed = cells(path)
    assert listed[0]["cell_type"] == "markdown"
    opening = "".join(listed[0]["source"])
    assert re.match(r"# .+\n\s*\n> .+", opening), "a title and one line in a quotation come first"
    assert len(listed) <= 80, f"{len(listed)} cells; split the notebook"
    for source in code_cells(path):
        if not source.startswith("#| export"):
            continue
        kinds = {isinstance(node, (ast.Import, ast.ImportFrom)) for node in tree(source).body}
        assert len(kinds) < 2, f"an exported cell holds imports or code, not both: {source[:80]}"
        count = len(source.split("\n"))
        assert count <= MOST_LINES, f"an exported cell of {count} lines: {source[:80]}"


@pytest.mark.parametrize("path", [*NOTEBOOKS, *TUTORIALS, ROOT / "nbs" / "index.ipynb"], ids=named)
def test_stored_outputs_are_small(path):
    size = sum(len(json.dumps(c.get("outputs", []))) for c in cells(path))
    assert size < 200_000, (
        f"{size / 1e3:.0f} kB of stored outputs; draw fewer points or smaller pictures"
    )
    state = "application/vnd.jupyter.widget-state+json"
    assert state not in path.read_text(encoding="utf-8"), "widget state is never stored"
    kinds = {kind for c in cells(path) for o in c.get("outputs", []) for kind in o.get("data", {})}
    assert "application/vnd.jupyter.widget-view+json" not in kinds, (
        "a stored widget is a dead box without its kernel: "
        "run the notebook with CRYOFORMER_WIDGETS=static"
    )


def test_tutorials_export_nothing():
    for path in TUTORIALS:
        assert not re.search(
            r"^#\|\s*(default_exp|export)", "\n".join(code_cells(path)), flags=re.M
        ), path.name


def tracked() -> list:
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"not a git checkout: {error}")
    return [ROOT / n for n in done.stdout.split("\0") if n and (ROOT / n).is_file()]


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
        size = path.stat().st_size
        assert size < 1_500_000, (
            f"{path.relative_to(ROOT)} has {size / 1e6:.1f} MB; large files stay out of git"
        )


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    "A copy of the repository in which nbdev has just exported and cleaned."
    nbdev_export = Path(sys.executable).with_name("nbdev_export")
    if not nbdev_export.exists():
        pytest.skip("nbdev is not installed: pip install -c constraints.txt -e '.[dev]'")
    copy = tmp_path_factory.mktemp("copy")
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in ("nbs", "cryoformer_nb"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignore)
    for name in ("settings.ini", "setup.py", "_quarto.yml"):
        shutil.copy(ROOT / name, copy / name)
    for tool in ("nbdev_export", "nbdev_clean"):
        subprocess.run([nbdev_export.with_name(tool)], cwd=copy, check=True, capture_output=True)
    return copy


def test_export_is_in_sync(exported):
    for made in sorted((exported / "cryoformer_nb").rglob("*.py")):
        name = made.relative_to(exported)
        assert made.read_text() == (ROOT / name).read_text(), f"{name} is stale; run nbdev_export"


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


def settings() -> dict:
    parser = ConfigParser(interpolation=None, delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


@pytest.fixture
def set_up(monkeypatch) -> dict:
    "What setup.py hands to setuptools."
    import setuptools

    got, path = {}, ROOT / "setup.py"
    monkeypatch.setattr(setuptools, "setup", lambda **keys: got.update(keys))
    exec(compile(path.read_text(), path, "exec"), {"__file__": str(path), "__name__": "setup"})
    return got


def test_settings_and_setup_agree(set_up):
    cfg = settings()
    assert set_up["name"] == cfg["lib_name"]
    assert set_up["version"] == cfg["version"]
    assert (set_up["license"], cfg["license"]) == ("Apache-2.0", "apache2")
    assert set_up["install_requires"] == cfg["requirements"].split()
    for extra in ("dev", "film"):
        assert set_up["extras_require"][extra] == cfg[f"{extra}_requirements"].split()
    command = set_up["entry_points"]["console_scripts"]
    assert command == ["cryoformer=cryoformer_nb.command.cli:main"]
    for layer in LAYERS:
        assert f"cryoformer_nb.{layer}" in set_up["packages"]
    top = (ROOT / "cryoformer_nb" / "__init__.py").read_text()
    assert f'__version__ = "{cfg["version"]}"' in top


def foreign_imports(path: Path) -> set:
    "Top-level names of the absolute imports of a module."
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


def test_requirements_are_what_is_imported():
    "Exported code imports what is required to run or an extra, and no development tools."
    cfg = settings()
    wanted = (cfg["requirements"] + " " + cfg["film_requirements"]).split()
    required = [re.split(r"[<>=]", r)[0] for r in wanted]
    names = {"scikit_image": "skimage", "pyyaml": "yaml", "py3dmol": "py3Dmol", "pillow": "PIL"}
    allowed = {names.get(r, r) for r in (r.replace("-", "_").lower() for r in required)}
    allowed |= set(sys.stdlib_module_names) | {"cryoformer_nb", "tinycudann"}
    for path in (ROOT / "cryoformer_nb").rglob("*.py"):
        for name in foreign_imports(path):
            assert name in allowed, f"{path.name} imports {name}: settings.ini lacks it"


def test_licence_is_apache():
    text = (ROOT / "LICENSE").read_text()
    for words in ("Apache License", "Version 2.0, January 2004", "END OF TERMS AND CONDITIONS"):
        assert words in text


def test_site_lists_every_notebook():
    import yaml

    listed = json.dumps(yaml.safe_load((ROOT / "_quarto.yml").read_text()))
    for path in NOTEBOOKS + TUTORIALS:
        name = path.relative_to(ROOT / "nbs").as_posix()
        assert name in listed, f"_quarto.yml does not list {name}"


def test_every_notebook_is_in_the_map():
    "CONTRIBUTING.md names every notebook, in the row of its folder."
    lines = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("\n")
    for path in NOTEBOOKS:
        layer = path.parent.name
        row = next((line for line in lines if line.startswith(f"| `{layer}/`")), "")
        assert f"`{path.stem}`" in row, (
            f"CONTRIBUTING.md does not name {path.stem} in the row of {layer}/"
        )
