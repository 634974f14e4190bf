"""Write README.md from nbs/index.ipynb: hidden cells dropped, links seen from the repository root.

python tools/readme.py           write README.md
python tools/readme.py --check   exit status 1 if README.md is not what the notebook gives
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTICE = (
    "<!-- Made from nbs/index.ipynb by tools/readme.py: "
    "edit the notebook, then run `python tools/readme.py`. -->\n"
)


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
        parts[k] = re.sub(r'(<(?:img|source) [^>]*src(?:set)?=")([^"]+)(")', link, parts[k])
    return "".join(parts)


def plain(output: dict) -> str:
    "What an output shows as text, indented."
    data = output.get("data", {})
    kinds = (output.get("text"), data.get("text/markdown"), data.get("text/plain"))
    text = "".join(next(filter(None, kinds), "")).rstrip("\n")
    return "".join(f"    {line}\n" for line in text.split("\n")) if text else ""


def code(cell: dict) -> str:
    "A code cell and its printed or plain-text output; empty if hidden."
    directives, lines = [], "".join(cell["source"]).split("\n")
    while lines and lines[0].startswith("#|"):
        directives.append(lines.pop(0)[2:].strip())
    hidden = {"hide", "exporti"} & {d.split(":")[0] for d in directives}
    if hidden or "include: false" in directives or not "".join(lines).strip():
        return ""
    source = "\n".join(lines).strip("\n")
    text = "" if "echo: false" in directives else f"```python\n{source}\n```\n"
    for output in cell.get("outputs", []):
        if shown := plain(output):
            text += "\n" + shown
    return text


def readme(notebook: Path = ROOT / "nbs" / "index.ipynb") -> str:
    "The text of README.md."
    parts, kinds = [], {"markdown": lambda c: markdown("".join(c["source"])), "code": code}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] in kinds:
            parts.append(kinds[cell["cell_type"]](cell).strip("\n"))
    return NOTICE + "\n" + "\n\n".join(filter(None, parts)) + "\n"


if __name__ == "__main__":
    path = ROOT / "README.md"
    if sys.argv[1:] == ["--check"]:
        if not path.exists() or path.read_text(encoding="utf-8") != readme():
            sys.exit(
                "README.md: expected what nbs/index.ipynb gives, found another text; "
                "run `python tools/readme.py`"
            )
    else:
        path.write_text(readme(), encoding="utf-8")
