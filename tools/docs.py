"""Build the site without Quarto: nbdev's own processing of the notebooks, then smalldocs renders the pages that _quarto.yml lists.

    python tools/docs.py              write _docs/
    python tools/docs.py --out DIR    write DIR/ (new, empty, or a site that this wrote)

Nothing is written into the tree but the site and tools/node_modules. Scripts and fonts come from packages: plotly's from its wheel, KaTeX, 3Dmol and
the fonts from the npm packages of tools/package.json, installed at the first build. The pages ask no other host for anything.
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


# ---------------------------------------------------------------- packages


def node_modules() -> Path:
    "The folder with the npm packages, installed if it is not there."
    folder = Path(os.environ.get("CRYOFORMER_NODE_MODULES", ROOT / "tools" / "node_modules"))
    names = json.loads((ROOT / "tools" / "package.json").read_text())["dependencies"]
    if all((folder / n).is_dir() for n in names):
        return folder
    if not shutil.which("npm"):
        sys.exit(
            f"docs: expected npm packages {', '.join(names)} in {folder}, found neither them nor npm; install Node.js"
        )
    command = [
        "npm",
        "install",
        "--prefix",
        str(ROOT / "tools"),
        "--no-package-lock",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
        "--fetch-retries=1",
        "--fetch-timeout=60000",
    ]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        print(
            f"docs: expected to install npm packages {', '.join(names)}, found npm failing: {' '.join(done.stderr.split())[:300]}; check the network, or name a folder that holds them in CRYOFORMER_NODE_MODULES",
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
    "Whether a cell that is not exported holds imports and other code: nbdev would execute it, and it would lack what other cells define."
    tree = ast.parse(
        "\n".join(
            "" if line.lstrip().startswith(("%", "!")) else line for line in source.split("\n")
        )
    )
    return any(isinstance(node, IMPORTS) for node in ast.walk(tree)) and not all(
        isinstance(node, IMPORTS) for node in tree.body
    )


def shown(cell: dict) -> list:
    "An exported cell as cells whose source nbdev shows (`exports`), one for each public function, so that each stands below its documentation."
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        return [cell]
    if not re.match(r"#\|\s*export\s*\n", source):
        return [dict(cell, source=f"#| eval: false\n{source}") if mixed(source) else cell]
    lines, body = source.split("\n")[1:], ast.parse(source).body
    if all(isinstance(node, IMPORTS) for node in body):
        return [cell]
    public = [
        node
        for node in body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    ]
    cuts = [0, *(node.end_lineno - 1 for node in public[:-1]), len(lines)]
    parts = ["\n".join(lines[a:b]).strip("\n") for a, b in zip(cuts, cuts[1:])]
    return [
        dict(
            cell,
            id=f"{cell['id']}{k or ''}",
            source=f"#| exports\n{p}",
            outputs=cell["outputs"] if k == len(parts) - 1 else [],
        )
        for k, p in enumerate(parts)
    ]


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


def signature_text(name: str, signature, width: int = 88) -> str:
    "A signature on one line, or one parameter a line where it would not fit."
    plain = lambda a: (
        re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=\w)", "", inspect.formatannotation(a).strip("'"))
        if a is not inspect.Parameter.empty
        else ""
    )
    parts, stars = [], {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    for p in signature.parameters.values():
        kind, default = plain(p.annotation), p.default
        value = (
            ""
            if default is inspect.Parameter.empty
            else getattr(default, "__name__", None) or repr(default)
        )
        parts.append(
            stars.get(p.kind, "")
            + p.name
            + (f": {kind}" if kind else "")
            + ((" = " if kind else "=") + value if value else "")
        )
    end = (
        f") -> {plain(signature.return_annotation)}" if plain(signature.return_annotation) else ")"
    )
    line = f"{name}({', '.join(parts)}{end}"
    return (
        line if len(line) <= width else f"{name}(\n" + "".join(f"    {p},\n" for p in parts) + end
    )


def renderer():
    "nbdev's show_doc with a short signature and a table of the parameters that have a comment."
    from fastcore.docments import MarkdownRenderer
    from nbdev.doclinks import NbdevLookup

    def table(dm, known) -> str:
        cell = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
        names = [n for n in dm if n in known or n == "return"]
        comment = lambda n: dm[n].get("docment") if isinstance(dm[n].get("docment"), str) else ""
        rows = [
            f"| {'returns' if n == 'return' else f'<code>{n}</code>'} | {cell(comment(n))} |"
            for n in names
            if comment(n)
        ]
        return "\n\n| parameter | meaning |\n|---|---|\n" + "\n".join(rows) if rows else ""

    class PageRenderer(MarkdownRenderer):
        def __init__(self, sym, *args, **kwargs):
            super().__init__(
                getattr(sym, "func", sym) if isinstance(sym, cached_property) else sym,
                *args,
                **kwargs,
            )

        def _repr_markdown_(self):
            source = (NbdevLookup().code(self.fn) or "").removesuffix("#LNone")
            link = f"[source]({source}){{.api-source}}\n\n" if source else ""
            shown = f"```python\n{signature_text(self.nm, self.sig)}\n```\n\n" if self.sig else ""
            return f"---\n\n{link}{'#' * self.title_level} {self.nm}\n\n{shown}{self.docs or ''}{table(self.dm.dm, self.sig.parameters if self.sig else ())}\n"

    return PageRenderer


def process(work: Path) -> Path:
    "nbdev's processing: documentation of every exported function, links, hidden cells taken out. Returns the folder with the results."
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
    data = json.dumps(
        {k: figure[k] for k in ("data", "layout", "frames") if k in figure}, separators=(",", ":")
    ).replace("</", "<\\/")
    return f'<div class="figure-live" id="figure-{number}" style="{size}"></div>\n<script type="application/json" data-figure="figure-{number}">{data}</script>'


def finish(path: Path) -> None:
    "Outputs that smalldocs does not know, as HTML; widgets leave what they drew besides, if anything."
    nb, number = json.loads(path.read_text(encoding="utf-8")), 0
    for cell in nb["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if PLOTLY in data:
                number += 1
                output["data"] = {"text/html": live(data[PLOTLY], number), "text/plain": "Figure"}
            elif "application/vnd.jupyter.widget-view+json" in data:
                data.pop("application/vnd.jupyter.widget-view+json")
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


def localise(text: str, offset: str) -> str:
    "A page with every script and style taken from site_libs."
    text = re.sub(
        r"https://cdn\.jsdelivr\.net/npm/katex@[^/]+/dist", f"{offset}site_libs/katex", text
    )
    text = re.sub(
        r"""https?://[^"'\s<>]*3Dmol[^"'\s<>]*\.js""", f"{offset}site_libs/3dmol/3Dmol-min.js", text
    )
    head = f'<link rel="stylesheet" href="{offset}site_libs/cryoformer/site.css">\n<script src="{offset}site_libs/cryoformer/site.js" defer></script>\n'
    if 'class="figure-live"' in text:
        head = f'<script src="{offset}site_libs/plotly/plotly.min.js" defer></script>\n' + head
    return text.replace("</head>", head + "</head>", 1)


def llms_txt(site) -> str:
    "A map of the site for language models: what it is, how it is used, and every page with its one-line description."
    web, out, seen = site.project.website, [], set()
    line = lambda p: (
        f"- [{p.title}]({p.out.with_suffix('.llms.md')})"
        + (f": {p.meta['description']}" if p.meta.get("description") else "")
    )
    entry = lambda href: site.find_page(PurePosixPath(href))
    for item in web["sidebar"]["contents"]:
        pages = [p for p in map(entry, item["contents"] if isinstance(item, dict) else [item]) if p]
        seen |= {p.src for p in pages}
        if isinstance(item, dict):
            out += ["", f"## {item['section']}", ""]
        out += map(line, pages)
    rest = [p for s, p in site.pages.items() if s not in seen]
    if rest:
        out += ["", "## More", "", *map(line, rest)]
    intro = (ASSETS.parent / "llms_intro.md").read_text(encoding="utf-8").strip()
    return (
        f"# {web['title']}\n\n> {web['description']}\n\n{intro}\n\n" + "\n".join(out).strip() + "\n"
    )


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
        path = out / page.out
        text = localise(path.read_text(encoding="utf-8"), "../" * (len(page.out.parts) - 1))
        path.write_text(text, encoding="utf-8")
        pages.append(text)
        copy = path.with_suffix(".llms.md")
        if copy.exists():
            copy.write_text(
                re.sub(
                    r'<div class="figure-live".*?</script>',
                    "(figure)",
                    copy.read_text(encoding="utf-8"),
                    flags=re.S,
                ),
                encoding="utf-8",
            )
    copy_packages(out / "site_libs", pages)
    for css in (out / "site_libs" / "themes").rglob(
        "*.css"
    ):  # fonts that a theme takes from elsewhere
        css.write_text(
            re.sub(r"@import\s+url\([^)]*\);?", "", css.read_text(encoding="utf-8")),
            encoding="utf-8",
        )
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
