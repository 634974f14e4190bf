"""Build the site without Quarto: nbdev processes the notebooks, smalldocs renders the pages.

    python tools/docs.py              write _docs/
    python tools/docs.py --out DIR    write DIR/ (new, empty, or a site that this wrote)

Nothing is written into the tree but the site and tools/node_modules. Scripts and fonts come from
packages: plotly's from its wheel, KaTeX, 3Dmol and the fonts from the npm packages of
tools/package.json, installed at the first build. The pages ask no other host for anything.
"""

import argparse
import ast
import importlib.resources
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from functools import cached_property
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
ASSETS = Path(__file__).resolve().parent / "site"
IMPORTS = (ast.Import, ast.ImportFrom)
PLOTLY = "application/vnd.plotly.v1+json"
NPM_OPTIONS = ["--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]
NPM_OPTIONS += ["--loglevel=error", "--fetch-retries=1", "--fetch-timeout=60000"]


# ---------------------------------------------------------------- packages


def node_modules() -> Path:
    "The folder with the npm packages, installed if it is not there."
    folder = Path(os.environ.get("CRYOFORMER_NODE_MODULES", ROOT / "tools" / "node_modules"))
    names = json.loads((ROOT / "tools" / "package.json").read_text())["dependencies"]
    if all((folder / n).is_dir() for n in names):
        return folder
    if not shutil.which("npm"):
        sys.exit(
            f"docs: expected npm packages {', '.join(names)} in {folder}, "
            "found neither them nor npm; install Node.js"
        )
    command = ["npm", "install", "--prefix", str(ROOT / "tools"), *NPM_OPTIONS]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        print(
            f"docs: expected to install npm packages {', '.join(names)}, "
            f"found npm failing: {' '.join(done.stderr.split())[:300]}; check the network, "
            "or name a folder that holds them in CRYOFORMER_NODE_MODULES",
            file=sys.stderr,
        )
        sys.exit(3)
    return ROOT / "tools" / "node_modules"


def copy_packages(libs: Path, pages: list) -> None:
    "The scripts, styles and fonts that the pages use, into site_libs."
    npm, text = node_modules(), "".join(pages)
    for name in ("source-sans-3", "source-code-pro"):
        (libs / "fonts").mkdir(parents=True, exist_ok=True)
        package = npm / "@fontsource-variable" / name
        for style in ("normal", "italic"):
            shutil.copy(package / "files" / f"{name}-latin-wght-{style}.woff2", libs / "fonts")
        shutil.copy(package / "LICENSE", libs / "fonts" / f"{name}.LICENSE.txt")
    shutil.copytree(
        npm / "katex" / "dist",
        libs / "katex",
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("*.mjs", "katex.js", "katex.css", "*.md", "*.ttf", "*.woff"),
    )
    if "3dmol/3Dmol-min.js" in text:
        shutil.copytree(
            npm / "3dmol" / "build",
            libs / "3dmol",
            ignore=shutil.ignore_patterns("types", "*ui*", "*es6*", "3Dmol.js"),
        )
    if "plotly/plotly.min.js" in text:
        (libs / "plotly").mkdir(exist_ok=True)
        (libs / "plotly" / "plotly.min.js").write_bytes(
            (importlib.resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes()
        )
    shutil.copytree(ASSETS, libs / "cryoformer", dirs_exist_ok=True)


# ---------------------------------------------------------------- notebooks


def mixed(source: str) -> bool:
    "Whether a cell that is not exported holds imports and other code: nbdev would run it alone."
    lines = source.split("\n")
    tree = ast.parse("\n".join("" if re.match(r"\s*[%!]", line) else line for line in lines))
    inside = any(isinstance(node, IMPORTS) for node in ast.walk(tree))
    return inside and not all(isinstance(node, IMPORTS) for node in tree.body)


def is_public(node) -> bool:
    "A function or class with a name of its own."
    if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return False
    return not node.name.startswith("_")


def shown(cell: dict) -> list:
    """An exported cell as cells whose source nbdev shows (`exports`).

    One for each public function, so that each stands below its documentation."""
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        return [cell]
    if cell["metadata"].get("jupyter", {}).get("source_hidden"):
        return [dict(cell, source=f"#| code-fold: true\n#| code-summary: Check\n{source}")]
    if not re.match(r"#\|\s*export\s*\n", source):
        return [dict(cell, source=f"#| eval: false\n{source}") if mixed(source) else cell]
    lines, body = source.split("\n")[1:], ast.parse(source).body
    if all(isinstance(node, IMPORTS) for node in body):
        return [cell]
    ends = [node.end_lineno - 1 for node in body if is_public(node)]
    cuts = [0, *ends[:-1], len(lines)]
    made = []
    for k, (a, b) in enumerate(zip(cuts, cuts[1:])):
        part = "\n".join(lines[a:b]).strip("\n")
        name = f"{cell['id']}{k or ''}"
        outputs = cell["outputs"] if b == len(lines) else []
        made.append(dict(cell, id=name, source=f"#| exports\n{part}", outputs=outputs))
    return made


def copy_sources(work: Path) -> None:
    "What nbdev needs, in a folder of its own."
    for name in ("nbs", "cryoformer_nb"):
        shutil.copytree(
            ROOT / name,
            work / name,
            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "_proc"),
        )
    for name in ("settings.ini", "setup.py", "README.md"):
        shutil.copy(ROOT / name, work / name)
    for path in (work / "nbs").rglob("*.ipynb"):
        nb = json.loads(path.read_text(encoding="utf-8"))
        nb["cells"] = [part for cell in nb["cells"] for part in shown(cell)]
        path.write_text(json.dumps(nb), encoding="utf-8")


EMPTY = inspect.Parameter.empty
STARS = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


def annotation_text(annotation) -> str:
    "An annotation without the modules of its names."
    if annotation is EMPTY:
        return ""
    text = inspect.formatannotation(annotation).strip("'")
    return re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=\w)", "", text)


def parameter_text(parameter: inspect.Parameter) -> str:
    text, default = STARS.get(parameter.kind, "") + parameter.name, parameter.default
    kind = annotation_text(parameter.annotation)
    if kind:
        text += f": {kind}"
    if default is not EMPTY:
        value = getattr(default, "__name__", None) or repr(default)
        text += f" = {value}" if kind else f"={value}"
    return text


def signature_text(name: str, signature, width: int = 88) -> str:
    "A signature on one line, or one parameter a line where it would not fit."
    parts = [parameter_text(p) for p in signature.parameters.values()]
    result = annotation_text(signature.return_annotation)
    end = f") -> {result}" if result else ")"
    line = f"{name}({', '.join(parts)}{end}"
    if len(line) <= width:
        return line
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + end


def in_a_cell(text) -> str:
    "Text for a table of Markdown."
    return str(text).replace("|", "\\|").replace("\n", " ")


def parameter_table(documented: dict, known) -> str:
    "The parameters that have a comment, and what is returned."
    rows = []
    for name, entry in documented.items():
        comment = entry.get("docment")
        if isinstance(comment, str) and (name in known or name == "return"):
            label = "returns" if name == "return" else f"<code>{name}</code>"
            rows.append(f"| {label} | {in_a_cell(comment)} |")
    return "\n\n| parameter | meaning |\n|---|---|\n" + "\n".join(rows) if rows else ""


def behind(member):
    "The function of a method, a property or what is made of one."
    for name in ("func", "fget", "__func__", "__wrapped__"):
        member = getattr(member, name, None) or member
    return member


def method_table(cls: type) -> str:
    "The public methods and properties of a class; those added by @patch link to their headings."
    rows = []
    for name, member in vars(cls).items():
        function = behind(member)
        if name.startswith("_") or not inspect.isfunction(function):
            continue
        anchor = f"{cls.__name__}.{name}".lower()
        label = f'<code id="{anchor}">{name}</code>'  # where links to the method lead
        if inspect.getsource(function).lstrip().startswith("@patch"):
            label = f'<a href="#{anchor}"><code>{name}</code></a>'
        first = (inspect.getdoc(function) or "").split("\n\n")[0]
        rows.append(f"| {label} | {in_a_cell(first)} |")
    return "\n\n| method | what it does |\n|---|---|\n" + "\n".join(rows) if rows else ""


def renderer():
    "nbdev's show_doc with a short signature, tables of commented parameters and of methods."
    from fastcore.docments import MarkdownRenderer
    from nbdev.doclinks import NbdevLookup

    class PageRenderer(MarkdownRenderer):
        def __init__(self, sym, *args, **kwargs):
            self.methods = method_table(sym) if inspect.isclass(sym) else ""
            wrapped = isinstance(sym, (property, cached_property))
            super().__init__(behind(sym) if wrapped else sym, *args, **kwargs)

        def _repr_markdown_(self):
            source = (NbdevLookup().code(self.fn) or "").removesuffix("#LNone")
            text = "---\n\n"
            if source:
                text += f"[source]({source}){{.api-source}}\n\n"
            text += f"{'#' * self.title_level} {self.nm}\n\n"
            if self.sig:
                text += f"```python\n{signature_text(self.nm, self.sig)}\n```\n\n"
            text += self.docs or ""
            text += parameter_table(self.dm.dm, self.sig.parameters if self.sig else ())
            return text + self.methods + "\n"

    return PageRenderer


def process(work: Path) -> Path:
    "nbdev's processing: documentation, links, hidden cells taken out; returns the results' folder."
    os.chdir(work)
    sys.path.insert(0, str(work))
    import nbdev.doclinks
    import nbdev.serve
    import nbdev.showdoc

    nbdev.doclinks._build_modidx()
    nbdev.showdoc.BasicMarkdownRenderer = renderer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Path(nbdev.serve.proc_nbs(n_workers=0))


def live(figure: dict, number: int) -> str:
    "A stored plotly figure as HTML; site.js draws it when it comes into view."
    layout = figure.get("layout", {})
    height, width = layout.get("height", 450), layout.get("width")
    size = f"height:{height}px;" + (f"max-width:{width}px;" if width else "")
    parts = {k: figure[k] for k in ("data", "layout", "frames") if k in figure}
    data = json.dumps(parts, separators=(",", ":")).replace("</", "<\\/")
    box = f'<div class="figure-live" id="figure-{number}" style="{size}"></div>'
    script = f'<script type="application/json" data-figure="figure-{number}">{data}</script>'
    return f"{box}\n{script}"


UNFOLDED = "#| code-fold: show\n"


def finish(path: Path) -> None:
    "Outputs that smalldocs does not know, as HTML; widgets leave what they drew besides."
    nb, number = json.loads(path.read_text(encoding="utf-8")), 0
    for cell in nb["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if PLOTLY in data:
                number += 1
                output["data"] = {"text/html": live(data[PLOTLY], number), "text/plain": "Figure"}
            elif "application/vnd.jupyter.widget-view+json" in data:
                data.pop("application/vnd.jupyter.widget-view+json")
        if cell["cell_type"] == "code":  # nbdev unfolds the source of every function
            cell["source"] = "".join(cell["source"]).replace(UNFOLDED, "#| code-fold: true\n", 1)
    nb["metadata"].pop("widgets", None)
    path.write_text(json.dumps(nb), encoding="utf-8")


# ---------------------------------------------------------------- pages


def site_class(settings: dict):
    "smalldocs' Site, taught nbdev's names of pages and links."
    from smalldocs.site import Site, rel

    base, blob = (
        settings["doc_host"] + settings["doc_baseurl"],
        f"{settings['git_url']}/blob/{settings['branch']}",
    )

    class NotebookSite(Site):
        def read(self, src):
            page = super().read(src)
            page.out = page.out.with_name(str(page.front.get("output-file", page.out.name)))
            return page

        def find_page(self, target):
            return super().find_page(target) or next(
                (p for p in self.pages.values() if p.out == target), None
            )

        def resolve(self, href, page, record=True):
            if href.startswith(base + "/"):  # nbdev's links to documented names
                path, _, anchor = href[len(base) + 1 :].partition("#")
                found = self.find_page(PurePosixPath(path))
                if found is None:
                    self.broken.append((str(page.src) if page else "", href))
                    return href
                return rel(found.out, page) + (
                    f"#{anchor}" if anchor and not anchor.startswith("_") else ""
                )  # private names have no heading
            outside = re.match(r"((?:\.\./)+)([^#?]*)", href)
            depth = len(page.src.parent.parts) if page else 0
            if outside and outside[1].count("../") == depth + 1 and (ROOT / outside[2]).exists():
                return f"{blob}/{outside[2]}"  # files beside nbs/
            return super().resolve(href, page, record)

    return NotebookSite


KATEX = r"https://cdn\.jsdelivr\.net/npm/katex@[^/]+/dist"
DMOL = r"""https?://[^"'\s<>]*3Dmol[^"'\s<>]*\.js"""


def localise(text: str, offset: str) -> str:
    "A page with every script and style taken from site_libs."
    libs = f"{offset}site_libs"
    text = re.sub(KATEX, f"{libs}/katex", text)
    text = re.sub(DMOL, f"{libs}/3dmol/3Dmol-min.js", text)
    head = f'<link rel="stylesheet" href="{libs}/cryoformer/site.css">\n'
    head += f'<script src="{libs}/cryoformer/site.js" defer></script>\n'
    if 'class="figure-live"' in text:
        head = f'<script src="{libs}/plotly/plotly.min.js" defer></script>\n' + head
    return text.replace("</head>", head + "</head>", 1)


TITLE = r'(<header id="title-block-header".*?)(</header>)'


def minutes(notebook: Path) -> int:
    """How long a page takes, roughly: 180 words and three pieces of code a minute, three minutes an
    exercise and one a question; from ten minutes on in steps of five."""
    total = 0.0
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            total += 0 if source.startswith("#| hide") else 1 / 3
        else:
            total += len(source.split()) / 180
            total += 3 * len(re.findall(r"^### Exercise \d", source, flags=re.M))
            total += len(re.findall(r"^### Question \d", source, flags=re.M))
    return max(1, round(total)) if total < 10 else 5 * round(total / 5)


def with_notebook(text: str, notebook: Path) -> str:
    "A page that says below its title how long it takes, and offers its notebook."
    link = f'<a href="{notebook.name}" download>Download this notebook</a>'
    line = f'<p class="page-notebook">About {minutes(notebook)} min · {link}</p>'
    return re.sub(TITLE, lambda found: f"{found[1]}{line}{found[2]}", text, count=1, flags=re.S)


ENTRY = r"(<td[^>]*>\s*)(<strong>(.*?)</strong>)"
#: Words of the glossary that any text uses in their usual sense: links would only disturb.
USUAL = {
    "box",
    "head",
    "map",
    "mask",
    "mean",
    "motion",
    "origin",
    "screw",
    "shell",
    "shift",
    "stack",
}


def anchor_of(term: str) -> str:
    return "term-" + re.sub(r"\W+", "-", term.lower()).strip("-")


def with_anchors(text: str) -> tuple[str, dict]:
    "The glossary with an anchor at each term, and the anchor of each way to write a term."
    known = {}

    def mark(found):
        term = re.sub(r"<[^>]+>", "", found[3])
        plain = re.split(r"\s*\(", term)[0]
        short = re.findall(r"\(([A-Z]{2,})\)", term)
        names = [name.strip() for name in plain.split(",")] + short
        for name in names:
            if len(name) > 2 and name.lower() not in USUAL and not name[0].isdigit():
                known.setdefault(name, anchor_of(term))
        return f'{found[1]}<span id="{anchor_of(term)}">{found[2]}</span>'

    return re.sub(ENTRY, mark, text), known


CLOSED = {"a", "button", "code", "pre", "script", "style", "summary", "th", "h1", "h2", "h3", "h4"}
CLOSED |= {"h5", "h6", "nav", "svg", "header", "aside"}


def with_terms(text: str, known: dict, glossary: str) -> str:
    "A page on which each term of the glossary is a link where it is first used in running text."
    head, main, rest = text.partition("<main")
    names = sorted(known, key=len, reverse=True)
    # written as in the glossary, or with a capital at the start of a sentence, or in the plural
    words = [
        re.escape(n) if n[0].isupper() else f"[{n[0]}{n[0].upper()}]{re.escape(n[1:])}"
        for n in names
    ]
    pattern = re.compile(rf"(?<![\w/-])({'|'.join(words)})(s?)(?![\w-])")
    used, out, closed, inside = set(), [], [], 0

    def link(found):
        name = next(n for n in (found[1], found[1][0].lower() + found[1][1:]) if n in known)
        if known[name] in used:
            return found[0]
        used.add(known[name])
        return f'<a class="term" href="{glossary}#{known[name]}">{found[0]}</a>'

    for part in re.split(r"(<[^>]+>)", rest):
        tag = re.match(r"</?([a-z]+[1-6]?)", part)
        if tag and part.startswith("</"):
            if not closed:
                inside -= tag[1] in ("p", "li")
            elif closed[-1] == tag[1]:
                closed.pop()
        elif tag and (closed or tag[1] in CLOSED or 'class="math' in part):
            if (tag[1] in CLOSED or 'class="math' in part or tag[1] == closed[-1]) and part[
                -2
            ] != "/":
                closed.append(tag[1])
        elif tag:
            inside += tag[1] in ("p", "li")
        elif inside > 0 and not closed:
            part = pattern.sub(link, part)
        out.append(part)
    return head + main + "".join(out)


def llms_line(page) -> str:
    "A page and its description, as one item of a list."
    line = f"- [{page.title}]({page.out.with_suffix('.llms.md')})"
    description = page.meta.get("description")
    return f"{line}: {description}" if description else line


def llms_txt(site) -> str:
    "A map of the site for language models: what it is, how it is used, every page with its line."
    web, out, seen = site.project.website, [], set()
    for item in web["sidebar"]["contents"]:
        links = item["contents"] if isinstance(item, dict) else [item]
        pages = [p for p in (site.find_page(PurePosixPath(href)) for href in links) if p]
        seen |= {p.src for p in pages}
        if isinstance(item, dict):
            out += ["", f"## {item['section']}", ""]
        out += map(llms_line, pages)
    rest = [p for s, p in site.pages.items() if s not in seen]
    if rest:
        out += ["", "## More", "", *map(llms_line, rest)]
    intro = (ASSETS.parent / "llms_intro.md").read_text(encoding="utf-8").strip()
    head = f"# {web['title']}\n\n> {web['description']}\n\n{intro}\n\n"
    return head + "\n".join(out).strip() + "\n"


def rewrite(path: Path, change) -> str:
    "Change the text of a file; returns the new one."
    text = change(path.read_text(encoding="utf-8"))
    path.write_text(text, encoding="utf-8")
    return text


def link_terms(site, out: Path) -> None:
    "Links to the glossary, on all other pages."
    known = {}

    def anchored(text):
        text, found = with_anchors(text)
        known.update(found)
        return text

    rewrite(out / "glossary.html", anchored)
    for page in site.pages.values():
        path, offset = out / page.out, "../" * (len(page.out.parts) - 1)
        if path.name != "glossary.html":
            rewrite(path, lambda text, to=f"{offset}glossary.html": with_terms(text, known, to))


FIGURE = r'<div class="figure-live".*?</script>'


def render(proc: Path, out: Path, settings: dict) -> list:
    "All pages, into `out`; returns the warnings."
    from smalldocs.config import load

    project = load(proc)
    project.config["project"]["output-dir"] = str(out)
    project.config["website"]["llms-txt"] = True
    site = site_class(settings)(project, quiet=True)
    site.build()
    pages = []
    for page in site.pages.values():
        path, offset = out / page.out, "../" * (len(page.out.parts) - 1)
        shutil.copy(ROOT / "nbs" / page.src, path.with_name(page.src.name))

        def change(text, offset=offset, notebook=ROOT / "nbs" / page.src):
            return with_notebook(localise(text, offset), notebook)

        pages.append(rewrite(path, change))
        copy = path.with_suffix(".llms.md")
        if copy.exists():
            rewrite(copy, lambda text: re.sub(FIGURE, "(figure)", text, flags=re.S))
    link_terms(site, out)
    copy_packages(out / "site_libs", pages)
    for css in (out / "site_libs" / "themes").rglob("*.css"):  # fonts that come from elsewhere
        rewrite(css, lambda text: re.sub(r"@import\s+url\([^)]*\);?", "", text))
    (out / "llms.txt").write_text(llms_txt(site), encoding="utf-8")
    return [w for w in site.warnings if "output-file" not in w and "format.html" not in w]


def build(out: Path) -> list:
    "The whole site; returns smalldocs' warnings, broken links among them."
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        copy_sources(work)
        try:
            proc = process(work)
            from nbdev.config import get_config

            cfg = get_config()
            settings = {
                k: str(cfg[k]).rstrip("/") for k in ("doc_host", "doc_baseurl", "git_url", "branch")
            }
            for path in proc.rglob("*.ipynb"):
                finish(path)
            return render(proc, out, settings)
        finally:
            os.chdir(here)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=ROOT / "_docs", help="folder of the site (default: _docs)"
    )
    out = parser.parse_args().out.resolve()
    for name in ("nbdev", "smalldocs"):
        if importlib.util.find_spec(name) is None:
            sys.exit(
                f"docs: expected {name}, found none; pip install -c constraints.txt -e '.[dev]'"
            )
    for warning in build(out):
        print(f"warning: {warning}")
    print(f"{len(list(out.rglob('*.html')))} pages in {out}")


if __name__ == "__main__":
    main()
