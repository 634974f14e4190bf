"""What the site's builders ask of the notebooks, checked without building: nbdev's documentation processing has traps that tools/docs.py and Quarto share."""

import ast
import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = [
    p for p in sorted((ROOT / "nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts
]
TUTORIALS = [p for p in NOTEBOOKS if p.parent.name == "tutorials"]
IMPORTS = (ast.Import, ast.ImportFrom)


def cells(path: Path) -> list:
    return [
        (c["cell_type"], "".join(c["source"]))
        for c in json.loads(path.read_text(encoding="utf-8"))["cells"]
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_first_cell_is_title_and_description(path):
    "The builders take title and description from the first cell and drop the rest of it."
    kind, source = cells(path)[0]
    lines = [line for line in source.split("\n") if line.strip()]
    assert (
        kind == "markdown"
        and lines[0].startswith("# ")
        and len(lines) == 2
        and lines[1].startswith("> ")
    ), (
        "expected '# title', an empty line and one '> line' alone in the first cell; put the text into a second cell"
    )


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p not in TUTORIALS], ids=lambda p: p.stem)
def test_imports_stand_in_cells_of_their_own(path):
    "A cell with an import is executed when the pages are made, without the cells before it."
    for kind, source in cells(path):
        if (
            kind != "code"
            or re.match(r"#\|\s*(export|eval: false)", source)
            or "nbdev_export()" in source
        ):
            continue
        tree = ast.parse(
            "\n".join(
                "" if line.lstrip().startswith(("%", "!")) else line for line in source.split("\n")
            )
        )
        inside = any(isinstance(node, IMPORTS) for node in ast.walk(tree))
        assert not inside or all(isinstance(node, IMPORTS) for node in tree.body), (
            f"imports and other code in one cell: {source[:100]!r}"
        )


def exercises(path: Path) -> list:
    "The cells of each exercise, from its question to its solution."
    found, every = [], cells(path)
    starts = [
        k
        for k, (kind, source) in enumerate(every)
        if kind == "markdown" and re.search(r"^#+ Exercise \d", source, flags=re.M)
    ]
    for a, b in zip(starts, [*starts[1:], len(every)]):
        end = next(
            (
                k
                for k in range(a + 1, b)
                if every[k][0] == "markdown" and every[k][1].startswith("<details>")
            ),
            b - 1,
        )
        found.append(every[a : end + 1])
    return found


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_tutorial_has_three_exercises(path):
    found = exercises(path)
    assert len(found) >= 3, "a tutorial asks three questions (notebook 06_exercises says how)"
    for question, *between, (_, solution) in found:
        code = [source for kind, source in between if kind == "code"]
        assert any(re.search(r"^\w+ = \.\.\.", c, flags=re.M) for c in code) and re.search(
            r"^check\(", code[-1], flags=re.M
        ), (
            f"after the question, what to change (answer = ...), and last check(...): {question[1][:60]}"
        )
        assert (
            solution.startswith("<details>")
            and solution.rstrip().endswith("</details>")
            and len(re.findall(r"^```python$", solution, flags=re.M)) == 1
        ), f"one solution, folded, with one block of code: {question[1][:60]}"


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_tutorial_starts_with_goal_and_picture(path):
    every = json.loads(path.read_text(encoding="utf-8"))["cells"]
    start = "".join("".join(c["source"]) for c in every[:4] if c["cell_type"] == "markdown").lower()
    assert re.search(r"you will|goal|what you", start), (
        "a tutorial says at its top what the reader will be able to do"
    )
    first = next(
        (
            k
            for k, c in enumerate(every)
            for o in c.get("outputs", [])
            if any(m.startswith(("application/vnd.plotly", "image/")) for m in o.get("data", {}))
        ),
        None,
    )
    assert first is not None and first <= len(every) / 2, "a picture early"


def test_quarto_file_is_plain():
    "Keys that Quarto knows; pages that exist; every section a layer."
    config = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    assert (
        set(config) <= {"project", "format", "website", "metadata-files", "execute"}
        and config["project"]["type"] == "website"
    )
    for item in config["website"]["sidebar"]["contents"]:
        for page in item["contents"] if isinstance(item, dict) else [item]:
            assert (ROOT / "nbs" / page).is_file(), f"_quarto.yml lists {page}, which is not there"


def test_no_third_party_script_is_committed():
    for folder in ("nbs", "tools", "cryoformer_nb", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if "node_modules" in path.parts or not path.is_file():
                continue
            assert not re.search(
                r"(plotly|katex|3dmol|jquery|require)[\w.-]*\.(js|css)$|\.woff2?$|\.min\.(js|css)$",
                path.name,
                flags=re.I,
            ), f"{path.name}: scripts and fonts come from packages"


def test_links_of_the_navigation_bar_exist():
    bar = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))["website"]["navbar"]
    for item in bar["left"] + bar["right"]:
        assert item["href"].startswith("https://") or (ROOT / "nbs" / item["href"]).is_file(), (
            f"_quarto.yml: the bar links to {item['href']}, which is not there"
        )
