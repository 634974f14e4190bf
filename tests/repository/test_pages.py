"""What the site's builders ask of the notebooks, checked without building them."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
EVERY = sorted((ROOT / "nbs").rglob("*.ipynb"))
NOTEBOOKS = [p for p in EVERY if ".ipynb_checkpoints" not in p.parts]
TUTORIALS = [p for p in NOTEBOOKS if p.parent.name == "tutorials"]
IMPORTS = (ast.Import, ast.ImportFrom)


def cells(path: Path) -> list:
    "Kind and source of every cell."
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(c["cell_type"], "".join(c["source"])) for c in found]


def named(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_first_cell_is_title_and_description(path):
    "The builders take title and description from the first cell and drop the rest of it."
    kind, source = cells(path)[0]
    lines = [line for line in source.split("\n") if line.strip()]
    rule = "expected '# title', an empty line and one '> line' alone in the first cell"
    assert kind == "markdown", rule
    assert lines[0].startswith("# "), rule
    assert lines[1].startswith("> "), rule
    assert len(lines) == 2, f"{rule}; put the text into a second cell"


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p not in TUTORIALS], ids=named)
def test_imports_stand_in_cells_of_their_own(path):
    "A cell with an import is executed when the pages are made, without the cells before it."
    for kind, source in cells(path):
        if kind != "code" or re.match(r"#\|\s*(export|eval: false)", source):
            continue
        if "nbdev_export()" in source:
            continue
        lines = source.split("\n")
        tree = ast.parse("\n".join("" if re.match(r"\s*[%!]", line) else line for line in lines))
        inside = any(isinstance(node, IMPORTS) for node in ast.walk(tree))
        alone = all(isinstance(node, IMPORTS) for node in tree.body)
        assert alone or not inside, f"imports and other code in one cell: {source[:100]!r}"


def exercises(path: Path) -> list:
    "The cells of each exercise, from its question to its solution."
    every = cells(path)

    def is_question(kind: str, source: str) -> bool:
        return kind == "markdown" and bool(re.search(r"^#+ Exercise \d", source, flags=re.M))

    def is_solution(kind: str, source: str) -> bool:
        return kind == "markdown" and source.startswith("<details>")

    starts = [k for k, cell in enumerate(every) if is_question(*cell)]
    found = []
    for a, b in zip(starts, [*starts[1:], len(every)]):
        ends = [k for k in range(a + 1, b) if is_solution(*every[k])]
        found.append(every[a : (ends[0] if ends else b - 1) + 1])
    return found


@pytest.mark.parametrize("path", TUTORIALS, ids=named)
def test_tutorial_has_three_exercises(path):
    found = exercises(path)
    assert len(found) >= 3, "a tutorial asks three questions (show/00_exercises says how)"
    for question, *between, (_, solution) in found:
        asked = question[1][:60]
        code = [source for kind, source in between if kind == "code"]
        changed = any(re.search(r"^\w+ = \.\.\.", c, flags=re.M) for c in code)
        assert changed, f"after the question, what to change (answer = ...): {asked}"
        checked = re.search(r"^check\(", code[-1], flags=re.M)
        assert checked, f"before the solution, check(...): {asked}"
        folded = solution.startswith("<details>") and solution.rstrip().endswith("</details>")
        assert folded, f"the solution is folded: {asked}"
        blocks = re.findall(r"^```python$", solution, flags=re.M)
        assert len(blocks) == 1, f"one block of code in the solution: {asked}"


def questions(path: Path) -> list:
    "(title, letters, source of the check, name of the answer, its letter) of each question."
    every, found = cells(path), []
    for k, (kind, source) in enumerate(every):
        title = re.match(r"### Question \d+: (.*)", source) if kind == "markdown" else None
        if title:
            name = re.search(r"^(\w+) = \.\.\.", every[k + 1][1], flags=re.M)[1]
            letter = re.search(rf'^{name} = "(.*)"$', every[k + 3][1], flags=re.M)[1]
            options = re.findall(r"^- \*\*(\w)\*\*: ", source, flags=re.M)
            found.append((title[1], options, every[k + 2][1], name, letter))
    return found


@pytest.mark.parametrize("path", TUTORIALS, ids=named)
def test_questions_are_solved_and_failed_on_purpose(path):
    "The right letter passes; each wrong one, no letter and no answer get their own words."
    from cryoformer_nb.show.exercises import check, choices

    asked = questions(path)
    assert len(asked) >= 4
    for title, options, source, name, letter in asked:
        tools = dict(check=check, choices=choices)
        found = {a: eval(source, tools | {name: a}) for a in (*options, "z", 7, ...)}
        assert letter in options and found[letter], f"{title}: {letter} is the right one"
        assert {found[a].state for a in found if a not in (letter, ...)} == {"Not yet"}, title
        hints = {found[a].message for a in options if a != letter}
        assert len(hints) == len(options) - 1 > 1, f"{title}: a hint for each wrong choice"
        assert "letters" in found["z"].message and found[...].state == "Not tried yet"


def test_there_are_sixty_checks_of_understanding():
    assert sum(len(exercises(path)) + len(questions(path)) for path in TUTORIALS) >= 60


@pytest.mark.parametrize("path", TUTORIALS, ids=named)
def test_checks_do_not_show_their_answers(path):
    "Their cells are folded in JupyterLab; the site and exported pages follow."
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and re.search(r"^check\(", source, flags=re.M):
            folded = cell["metadata"].get("jupyter", {}).get("source_hidden")
            assert folded, f"fold the cell of the check: {source[:60]}"


@pytest.mark.parametrize("path", TUTORIALS, ids=named)
def test_solutions_use_only_names_that_were_defined(path, tmp_path):
    "A solution runs after the cells above it, so the names that it uses must be theirs or its own."
    lines = []
    for kind, source in cells(path):
        fenced = re.search(r"<details>.*?^```python\n(.*?)^```", source, flags=re.M | re.S)
        if kind == "code":
            lines += ["" if re.match(r"\s*[%!]", line) else line for line in source.split("\n")]
        elif fenced:
            lines += fenced[1].split("\n")
    script = tmp_path / "tutorial.py"
    script.write_text("\n".join(lines), encoding="utf-8")
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821,F811", script]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def draws(cell: dict) -> bool:
    "Whether a picture is stored with it."
    kinds = [kind for output in cell.get("outputs", []) for kind in output.get("data", {})]
    return any(kind.startswith(("application/vnd.plotly", "image/")) for kind in kinds)


@pytest.mark.parametrize("path", TUTORIALS, ids=named)
def test_tutorial_starts_with_its_goal(path):
    start = " ".join(source for kind, source in cells(path)[:4] if kind == "markdown").lower()
    assert re.search(r"you will|goal|what you", start), (
        "a tutorial says at its top what the reader will be able to do"
    )


@pytest.mark.parametrize("path", TUTORIALS, ids=named)
def test_tutorial_has_a_picture_early(path):
    every = json.loads(path.read_text(encoding="utf-8"))["cells"]
    pictures = [k for k, cell in enumerate(every) if draws(cell)]
    assert pictures
    assert pictures[0] <= len(every) / 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_links_to_files_exist(path):
    "Links of the text, as seen from the notebook."
    for kind, source in cells(path):
        text = re.sub(r"^```.*?^```|`[^`]*`", "", source, flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)\s#]+)", text) if kind == "markdown" else ():
            there = re.match(r"[a-z]+:", target) or (path.parent / target).exists()
            assert there, f"{path.name} links to {target}, which is not there"


@pytest.fixture(scope="module")
def quarto() -> dict:
    return yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))


def test_quarto_file_is_plain(quarto):
    "Keys that Quarto knows, pages that exist."
    assert set(quarto) <= {"project", "format", "website", "metadata-files", "execute"}
    assert quarto["project"]["type"] == "website"
    for item in quarto["website"]["sidebar"]["contents"]:
        for page in item["contents"] if isinstance(item, dict) else [item]:
            assert (ROOT / "nbs" / page).is_file(), f"_quarto.yml lists {page}, which is not there"


def test_tutorials_have_one_order(quarto):
    "That of their numbers: in the folder, in their titles, in the sidebar and on the first page."
    names = [path.name for path in TUTORIALS]
    for number, path in enumerate(TUTORIALS, 1):
        assert path.name.startswith(f"{number:02d}_"), path.name
        assert cells(path)[0][1].startswith(f"# {number}. "), f"{path.name}: number in the title"
    items = quarto["website"]["sidebar"]["contents"]
    section = next(i for i in items if isinstance(i, dict) and i["section"] == "Tutorials")
    assert [Path(page).name for page in section["contents"]] == names
    listed = " ".join(source for _, source in cells(ROOT / "nbs" / "index.ipynb"))
    rows = re.findall(r"^\| (\d+) \| \[[^\]]*\]\(tutorials/([^)]*)\)", listed, flags=re.M)
    assert rows == [(str(k), name) for k, name in enumerate(names, 1)]


def test_links_of_the_navigation_bar_exist(quarto):
    bar = quarto["website"]["navbar"]
    for item in bar["left"] + bar["right"]:
        href = item["href"]
        there = href.startswith("https://") or (ROOT / "nbs" / href).is_file()
        assert there, f"_quarto.yml: the bar links to {href}, which is not there"


def stored(name: str) -> str:
    "What a page shows: its text, and the Markdown among its outputs."
    nb = json.loads((ROOT / "nbs" / name).read_text(encoding="utf-8"))
    outputs = [o for cell in nb["cells"] for o in cell.get("outputs", [])]
    texts = [o.get("data", {}).get("text/markdown", []) for o in outputs]
    return "\n".join("".join(t) for t in [*(cell["source"] for cell in nb["cells"]), *texts])


def test_page_of_commands_is_that_of_the_parser():
    from cryoformer_nb.command.arguments import COMMANDS

    page = stored("commands.ipynb")
    for name, command in COMMANDS.items():
        part = page.partition(f"## cryoformer {name}\n")[2].partition("\n## ")[0]
        plain = part.replace("`", "")
        assert part, f"{name} is not on the page: run nbs/commands.ipynb again"
        for option in command.options:
            text = option.settings.get("help", "").partition("%")[0]
            assert f"| `{option.names[0]}`" in part, f"{name}: {option.names[0]} is missing"
            assert text[:30] in plain, f"{name} {option.names[0]}: other words"


def test_page_of_settings_is_that_of_config():
    from dataclasses import fields

    from cryoformer_nb.model.config import Config

    page = stored("settings.ipynb")
    for field in fields(Config):
        value = {True: "on", False: "off"}.get(field.default) if field.type is bool else None
        row = f"| `{field.name}` | {value or field.default} |"
        assert row in page, f"run nbs/settings.ipynb again: {row}"


def test_glossary_has_a_hundred_terms_each_with_its_page():
    rows = re.findall(
        r"^\| \*\*(.+?)\*\* \| (.+?) \| \[.+?\]\((.+?)\) \|$", stored("glossary.ipynb"), re.M
    )
    assert len({term for term, _, _ in rows}) == len(rows) >= 100
    for term, _, target in rows:
        assert (ROOT / "nbs" / target).is_file(), term


PACKAGED = r"(plotly|katex|3dmol|jquery|require)[\w.-]*\.(js|css)$|\.woff2?$|\.min\.(js|css)$"


def test_no_third_party_script_is_committed():
    for folder in ("nbs", "tools", "cryoformer_nb", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if "node_modules" in path.parts or not path.is_file():
                continue
            foreign = re.search(PACKAGED, path.name, flags=re.I)
            assert not foreign, f"{path.name}: scripts and fonts come from packages"
