"""Every page of the site in a browser whose network is cut: requests, links, figures, formulas."""

import json
import re
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest
import yaml
from browsing import ROOT, Watched

#: Goes to each figure as a reader would scroll, then collects what is on the page.
VISIT = """async () => {
    const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
    const solid = ['mesh3d', 'scatter3d', 'surface'];
    const drawn = (box) => {
        const data = box.data || [], deep = data.some((t) => solid.includes(t.type));
        if (!data.length || !box.querySelector('.main-svg')) return false;
        return !deep || !!box.querySelector('canvas');
    };
    const boxes = [...document.querySelectorAll('.figure-live')], bare = [];
    for (const box of boxes) {
        box.scrollIntoView({ block: 'center' });
        for (let k = 0; k < 200 && !drawn(box); k++) await sleep(50);
        if (!drawn(box)) bare.push(box.id);
    }
    const main = document.querySelector('main');
    const all = (selector, root = document) => [...root.querySelectorAll(selector)];
    const prose = all('p, li, td, h1, h2, h3, figcaption, .description', main)
        .filter((e) => !e.closest('pre, code'))
        .map((e) => {
            const copy = e.cloneNode(true);
            all('.katex, code, pre, script', copy).forEach((x) => x.remove());
            return copy.textContent;
        });
    const formula = /\\$\\$|\\\\\\(|\\\\\\[|\\$[^$\\s][^$]*\\$/;
    const source = (e) => e.getAttribute('src') || e.getAttribute('href');
    const heads = '#quarto-sidebar .sidebar-item-section > .sidebar-item-container .menu-text';
    return {
        figures: boxes.length,
        bare,
        terms: all('a.term').map((a) => a.getAttribute('href')),
        takes: document.querySelector('.page-notebook').innerText,
        math: all('span.math').length,
        katex: all('.katex').length,
        bad_math: all('.katex-error').map((e) => e.textContent.slice(0, 80)),
        raw_math: prose.filter((t) => formula.test(t)).map((t) => t.slice(0, 100)),
        links: all('a[href]').map((a) => a.getAttribute('href')),
        sources: all('script[src], link[href], img[src]').map(source),
        images: all('img').filter((i) => !i.complete || !i.naturalWidth).map(source),
        ids: all('[id]').map((e) => e.id),
        words: main.innerText.split(/\\s+/).length,
        title: document.querySelector('h1') ? document.querySelector('h1').innerText : '',
        sections: all(heads).map((e) => e.textContent),
        wide: document.documentElement.scrollWidth,
    };
}"""
FORMULAS = "!document.querySelector('span.math') || document.querySelector('.katex')"


@pytest.fixture(scope="module")
def walk(chromium, site, address):
    "What a visit to each page finds, by the page's path."
    found, watched = {}, Watched(chromium)
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site).as_posix()
        watched.page.set_viewport_size({"width": 1280, "height": 900})
        watched.visit(f"{address}/{name}")
        watched.page.wait_for_function(FORMULAS, timeout=20_000)
        found[name] = watched.page.evaluate(VISIT)
        watched.page.set_viewport_size({"width": 390, "height": 844})
        watched.page.wait_for_timeout(100)
        found[name] |= dict(
            narrow=watched.page.evaluate("document.documentElement.scrollWidth"),
            foreign=list(watched.foreign),
            errors=list(watched.errors),
        )
    watched.page.close()
    return found


def offenders(walk: dict, key: str) -> dict:
    return {name: page[key] for name, page in walk.items() if page[key]}


def test_built_without_a_warning(site):
    log = (site.parent / "log.txt").read_text()
    assert "warning" not in log, log


def page_of(notebook: Path) -> str:
    "nbs/imaging/02_projector.ipynb is imaging/projector.html."
    folder = notebook.parent.relative_to(ROOT / "nbs")
    return (folder / (re.sub(r"^\d+[a-z]?_", "", notebook.stem) + ".html")).as_posix()


def test_every_notebook_has_its_page(walk):
    notebooks = [p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts]
    assert {page_of(p) for p in notebooks} == set(walk)


def test_every_page_has_a_title_and_a_text(walk):
    assert not {name for name, page in walk.items() if not page["title"]}
    assert not {name: page["words"] for name, page in walk.items() if page["words"] <= 60}


def test_every_page_offers_its_notebook(walk, site):
    for name, page in walk.items():
        (link,) = {h for h in page["links"] if h.endswith(".ipynb") and ":" not in h}
        kept = json.loads((site / name).with_name(link).read_text(encoding="utf-8"))
        assert kept["cells"], name


def test_every_page_says_how_long_it_takes(walk):
    assert not [n for n, page in walk.items() if not re.match(r"About \d+ min ", page["takes"])]


def test_terms_are_linked_once_a_page(walk):
    linked = {name: page["terms"] for name, page in walk.items()}
    assert not linked["glossary.html"]
    assert not [name for name, terms in linked.items() if len(set(terms)) < len(terms)]
    assert sum(len(terms) > 0 for terms in linked.values()) > 0.9 * len(linked)
    assert len(set.union(*({t.split("#")[1] for t in terms} for terms in linked.values()))) > 80


def test_no_request_leaves_the_machine(walk):
    assert not offenders(walk, "foreign")
    sources = {(name, s) for name, page in walk.items() for s in page["sources"]}
    assert not {pair for pair in sources if re.match(r"(https?:)?//", pair[1])}


def test_no_console_error(walk):
    assert not offenders(walk, "errors")


def test_every_figure_is_drawn(walk):
    assert not offenders(walk, "bare")
    assert sum(page["figures"] for page in walk.values()) > 40


def test_every_picture_is_there(walk):
    assert not offenders(walk, "images")


def test_math_is_rendered(walk):
    assert not offenders(walk, "raw_math")
    assert not offenders(walk, "bad_math")
    assert not {n: (p["math"], p["katex"]) for n, p in walk.items() if p["katex"] < p["math"]}
    assert sum(page["katex"] for page in walk.values()) > 100


def broken(walk: dict, site: Path, name: str, href: str) -> bool:
    "Whether a link of a page to the site itself leads nowhere."
    if re.match(r"[a-z]+:|//", href):
        return False
    path, anchor = urldefrag(urljoin(name, unquote(href)))
    path = path or name
    if path.endswith("/"):
        path += "index.html"
    if not (site / path).is_file():
        return True
    return bool(anchor) and path in walk and anchor not in walk[path]["ids"]


def test_no_link_is_broken(walk, site):
    links = [(name, href) for name, page in walk.items() for href in page["links"]]
    assert [f"{name}: {href}" for name, href in links if broken(walk, site, name, href)] == []


REFERENCES = {"github.com", "arxiv.org", "doi.org", "www.rcsb.org", "www.ebi.ac.uk", "zenodo.org"}


def test_links_that_leave_go_to_the_repository_or_a_reference(walk):
    links = [href for page in walk.values() for href in page["links"]]
    assert {m[1] for m in (re.match(r"https?://([^/]+)", h) for h in links) if m} <= REFERENCES


def test_sidebar_has_the_layers(walk):
    quarto = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    contents = quarto["website"]["sidebar"]["contents"]
    wanted = [item["section"] for item in contents if isinstance(item, dict)]
    assert len(wanted) >= 9
    assert not [name for name, page in walk.items() if page["sections"] != wanted]


def test_nothing_is_wider_than_a_phone(walk):
    assert not {name: page["narrow"] for name, page in walk.items() if page["narrow"] > 390}


@pytest.fixture(scope="module")
def index() -> dict:
    "nbdev's index: where each exported name is documented and which file it lies in."
    namespace = {}
    exec((ROOT / "cryoformer_nb" / "_modidx.py").read_text(encoding="utf-8"), namespace)
    return namespace["d"]


def public(index: dict) -> list:
    "(page, anchor, file) of every public function, class and method."
    found = []
    for module, names in index["syms"].items():
        for name, (where, file) in names.items():
            parts = name.removeprefix(module + ".").split(".")
            if not any(part.startswith("_") for part in parts):
                found.append((*where.split("#"), file, len(parts)))
    return found


def test_every_public_name_is_documented(walk, index):
    "Each exported function and class has its anchor."
    names = [(page, anchor) for page, anchor, _, depth in public(index) if depth == 1]
    assert len(names) > 200
    assert [n for n in names if n[0] not in walk or n[1] not in walk[n[0]]["ids"]] == []


def test_every_page_links_to_its_source(walk, index):
    settings = index["settings"]
    blob = f"{settings['git_url']}/blob/{settings['branch']}"
    for page, file in {(page, file) for page, _, file, _ in public(index)}:
        assert f"{blob}/{file}" in " ".join(walk[page]["links"]), f"{page}: no link to {file}"


#: A page, a class on it, and methods that the notebook adds by @patch.
METHODS = ["model/config.html", "config", "config.updated", "config.preset", "config.load"]


def test_methods_are_listed_under_their_class(site):
    html = (site / METHODS[0]).read_text(encoding="utf-8")
    heads = re.findall(r'<h\d[^>]*data-anchor-id="([^"]+)"|<h\d[^>]* id="([^"]+)"', html)
    anchors = [a or b for a, b in heads]
    places = [next((k for k, a in enumerate(anchors) if a == name), -1) for name in METHODS[1:]]
    assert -1 not in places, anchors
    assert places == sorted(places)


def test_documentation_of_a_function(site):
    "Signature, table of parameters, folded code."
    html = (site / "imaging" / "density.html").read_text(encoding="utf-8")
    assert "<th>parameter</th>" in html
    assert "gaussian_projection(" in re.sub(r"<[^>]+>", "", html)
    assert "code-fold" in html


#: Of a colour, from 0 (black) to 1 (white).
LIGHTNESS = """(css) => [...document.querySelectorAll(css)].map((e) => {
    const { color, backgroundColor } = getComputedStyle(e);
    const light = (c) => c.match(/[\\d.]+/g).slice(0, 3).reduce((a, v) => a + Number(v) / 765, 0);
    return [light(color), light(backgroundColor)];
})"""


def test_dark_pages_can_be_read(chromium, address):
    "The switch of the bar makes letters light and paper dark; figures keep their white paper."
    watched = Watched(chromium)
    page = watched.page
    watched.visit(f"{address}/anatomy.html")
    assert page.evaluate(LIGHTNESS, "body")[0][1] > 0.9
    page.locator(".quarto-color-scheme-toggle:visible").first.click()
    page.wait_for_function("document.documentElement.classList.contains('quarto-dark')")
    page.wait_for_function(
        "getComputedStyle(document.body).backgroundColor !== 'rgb(255, 255, 255)'"
    )
    (body,) = page.evaluate(LIGHTNESS, "body")
    assert body[0] > 0.75 and body[1] < 0.2
    texts = page.evaluate(LIGHTNESS, "main h2, main p, main td, main a, main pre code")
    assert min(letters for letters, _ in texts) > 0.5
    assert {round(paper, 2) for _, paper in page.evaluate(LIGHTNESS, ".figure-live")} == {1.0}
    assert not watched.errors
    page.close()


def test_search_finds_fsc(chromium, address):
    watched = Watched(chromium)
    page = watched.page
    watched.visit(f"{address}/index.html")
    box = page.locator(".smalldocs-search input:visible").first
    box.click()
    box.press_sequentially("FSC", delay=30)
    page.wait_for_selector(".search-result")
    titles = page.locator(".search-result").all_inner_texts()
    assert any("fsc" in t.lower() for t in titles), titles
    page.locator(".search-result").first.click()
    page.wait_for_load_state("load")
    assert "fsc" in page.locator("main").inner_text().lower()
    assert not watched.errors
    assert not watched.foreign
    page.close()


def test_tutorials_fold_their_solutions(chromium, address, walk):
    "Solutions are there, closed, and open with a click."
    page = Watched(chromium).page
    folded = 0
    for name in [n for n in walk if n.startswith("tutorials/")]:
        page.goto(f"{address}/{name}", wait_until="load")
        for fold in page.locator("main details:not(.code-fold)").all():
            assert not fold.evaluate("d => d.open")
            fold.locator("summary").click()
            assert fold.evaluate("d => d.open") and fold.locator("pre").first.is_visible()
            folded += 1
    page.close()
    assert folded >= 3


ZOOM = """async (figure) => {
    await Plotly.relayout(figure, { 'xaxis.range': [0, 1] });
    return figure._fullLayout.xaxis.range[1];
}"""


def test_figures_answer(chromium, address):
    "A figure is live: it changes when it is told to."
    page = Watched(chromium).page
    page.goto(f"{address}/tutorials/reconstruct.html", wait_until="load")
    box = page.locator(".figure-live").nth(1)
    box.scroll_into_view_if_needed()
    page.wait_for_function("b => !!b.querySelector('.main-svg')", arg=box.element_handle())
    assert box.evaluate(ZOOM) == 1
    page.close()


#: Texts of a figure that lie over one another or leave it; boxes of lines may touch, letters not.
OVERLAPS = """(box) => {
    const edge = box.getBoundingClientRect(), found = [];
    const texts = [...box.querySelectorAll('svg text')]
        .map((t) => [t.textContent, t.getBoundingClientRect()])
        .filter(([, r]) => r.width > 0);
    const both = (r, q, low, high) => Math.min(r[high], q[high]) - Math.max(r[low], q[low]);
    texts.forEach(([s, r], k) => {
        if (r.left < edge.left - 3 || r.right > edge.right + 3) found.push(s + ' sticks out');
        for (const [o, q] of texts.slice(k + 1)) {
            const across = both(r, q, 'left', 'right'), down = both(r, q, 'top', 'bottom');
            if (across > 3 && down > 6) found.push(s + ' over ' + o);
        }
    });
    return found;
}"""
CROWDED = ["show/training", "core/conventions", "show/poses", "which_result", "imaging/noise"]
CROWDED += ["tutorials/your_data", "tutorials/homogeneous", "tutorials/heterogeneity"]


@pytest.mark.parametrize("name", CROWDED)
def test_figures_can_be_read_on_a_phone(chromium, address, name):
    "No title, tick, legend or button lies over another, and nothing has to be scrolled to."
    page = Watched(chromium, 390, 844).page
    page.goto(f"{address}/{name}.html", wait_until="load")
    for box in page.locator(".figure-live").all():
        box.scroll_into_view_if_needed()
        page.wait_for_function("b => !!b.querySelector('.main-svg')", arg=box.element_handle())
        page.wait_for_timeout(400)  # a crowded figure is drawn again, wider
        assert not box.evaluate(OVERLAPS)
        assert box.evaluate("b => b.parentElement.scrollWidth <= b.parentElement.clientWidth")
    page.close()


@pytest.fixture(scope="module")
def llms(site) -> str:
    return (site / "llms.txt").read_text(encoding="utf-8")


def test_llms_txt_names_every_page_once(site, llms):
    assert llms.startswith("# cryoformer_nb\n\n> ")
    linked = re.findall(r"\]\(([^)]+)\)", llms)
    assert len(linked) == len(set(linked))
    pages = {p.relative_to(site).as_posix().removesuffix(".html") for p in site.rglob("*.html")}
    assert {name.removesuffix(".llms.md") for name in linked} == pages


def test_pages_for_language_models_hold_no_figures(site, llms):
    for name in re.findall(r"\]\(([^)]+)\)", llms):
        text = (site / name).read_text(encoding="utf-8")
        assert '"data":[' not in text, f"{name} holds a figure's numbers"


def test_search_index_holds_no_figures(site):
    entries = json.loads((site / "search.json").read_text(encoding="utf-8"))
    assert not [e["href"] for e in entries if "bdata" in e["text"]]
