"""Write README.md from nbs/index.ipynb, without Quarto: hidden cells and directives dropped, links turned to the repository root.

python tools/readme.py           write README.md
python tools/readme.py --check   exit status 1 if README.md is not what the notebook gives
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTICE = "<!-- Made from nbs/index.ipynb by tools/readme.py: edit the notebook, then run `python tools/readme.py`. -->\n"


def link(match: re.Match) -> str:
    "A link of the notebook, as seen from the repository root."
    before, target, after = match.groups()
    if re.match(r"[a-z]+:|#|/", target):
        return match.group(0)
    return before + (target[3:] if target.startswith("../") else f"nbs/{target}") + after


def markdown(source: str) -> str:
    "A markdown cell, its links mended; code blocks are left alone."
    parts = re.split(r"(^```.*?^```)", source, flags=re.M | re.S)
    for k in range(0, len(parts), 2):
        parts[k] = re.sub(r"(\]\()([^)\s]+)(\))", link, parts[k])
        parts[k] = re.sub(r'(<img [^>]*src=")([^"]+)(")', link, parts[k])
    return "".join(parts)


def code(cell: dict) -> str:
    "A code cell and its printed or plain-text output; empty if hidden."
    source = "".join(cell["source"])
    directives, lines = [], source.split("\n")
    while lines and lines[0].startswith("#|"):
        directives.append(lines.pop(0)[2:].strip())
    if (
        any(d.split(":")[0] in ("hide", "exporti") or d == "include: false" for d in directives)
        or not "".join(lines).strip()
    ):
        return ""
    text = (
        ""
        if "echo: false" in directives
        else "```python\n" + "\n".join(lines).strip("\n") + "\n```\n"
    )
    for output in cell.get("outputs", []):
        shown = (
            output.get("text")
            or output.get("data", {}).get("text/markdown")
            or output.get("data", {}).get("text/plain", "")
        )
        if shown:
            text += "\n" + "".join(
                f"    {line}\n" for line in "".join(shown).rstrip("\n").split("\n")
            )
    return text


def readme(notebook: Path = ROOT / "nbs" / "index.ipynb") -> str:
    "The text of README.md."
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    parts = [
        markdown("".join(c["source"]))
        if c["cell_type"] == "markdown"
        else code(c)
        if c["cell_type"] == "code"
        else ""
        for c in cells
    ]
    return NOTICE + "\n" + "\n\n".join(p.strip("\n") for p in parts if p.strip()) + "\n"


if __name__ == "__main__":
    path = ROOT / "README.md"
    if sys.argv[1:] == ["--check"]:
        if not path.exists() or path.read_text(encoding="utf-8") != readme():
            sys.exit(
                "README.md: expected what nbs/index.ipynb gives, found another text; run `python tools/readme.py`"
            )
    else:
        path.write_text(readme(), encoding="utf-8")
