"""Every page of the site in a real browser whose network is cut: what it asks for, what it links to, whether figures and equations are there."""

import json
import re
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest
from browsing import ROOT, Watched

VISIT = """async () => {
    const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
    const boxes = [...document.querySelectorAll('.figure-live')], bare = [];
    for (const box of boxes) {                                      // to each figure, as a reader would scroll
        box.scrollIntoView({ block: 'center' });
        let ok = false;
        for (let k = 0; k < 200 && !ok; k++) {
            const data = box.data || [];
            ok = !!box.querySelector('.main-svg') && data.length > 0 && (!data.some((t) => ['mesh3d', 'scatter3d', 'surface'].includes(t.type)) || !!box.querySelector('canvas'));
            if (!ok) await sleep(50);
        }
        if (!ok) bare.push(box.id);
    }
    const main = document.querySelector('main'), text = main.innerText;
    const plain = [...main.querySelectorAll('p, li, td, h1, h2, h3, figcaption, .description')].filter((e) => !e.closest('pre, code')).map((e) => {
        const copy = e.cloneNode(true); copy.querySelectorAll('.katex, code, pre, script').forEach((x) => x.remove()); return copy.textContent; });
    return {
        figures: boxes.length, bare,
        math: document.querySelectorAll('span.math').length, katex: document.querySelectorAll('.katex').length,
        bad_math: [...document.querySelectorAll('.katex-error')].map((e) => e.textContent.slice(0, 80)),
        raw_math: plain.filter((t) => /\\$\\$|\\\\\\(|\\\\\\[|\\$[^$\\s][^$]*\\$/.test(t)).map((t) => t.slice(0, 100)),
        links: [...document.querySelectorAll('a[href]')].map((a) => a.getAttribute('href')),
        sources: [...document.querySelectorAll('script[src], link[href], img[src]')].map((e) => e.getAttribute('src') || e.getAttribute('href')),
        images: [...document.images].filter((i) => !i.complete || !i.naturalWidth).map((i) => i.getAttribute('src')),
        ids: [...document.querySelectorAll('[id]')].map((e) => e.id),
        words: text.split(/\\s+/).length, title: document.querySelector('h1') ? document.querySelector('h1').innerText : '',
        sections: [...document.querySelectorAll('#quarto-sidebar .sidebar-item-section > .sidebar-item-container .menu-text')].map((e) => e.textContent),
        wide: document.documentElement.scrollWidth,
    };
}"""


@pytest.fixture(scope="module")
def walk(chromium, site, address):
    "What a visit to each page finds, by the page's path."
    found, watched = {}, Watched(chromium)
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site).as_posix()
        watched.page.set_viewport_size({"width": 1280, "height": 900})
        watched.visit(f"{address}/{name}")
        watched.page.wait_for_function(
            "!document.querySelector('span.math') || document.querySelector('.katex')",
            timeout=20_000,
        )
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


def test_every_notebook_has_its_page(walk):
    notebooks = [p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts]
    pages = {
        (
            p.parent.relative_to(ROOT / "nbs") / (re.sub(r"^\d+[a-z]?_", "", p.stem) + ".html")
        ).as_posix()
        for p in notebooks
    }
    assert pages == set(walk)
    assert all(page["title"] and page["words"] > 60 for page in walk.values()), {
        n: p["words"] for n, p in walk.items() if p["words"] <= 60 or not p["title"]
    }


def test_no_request_leaves_the_machine(walk):
    assert not offenders(walk, "foreign")
    foreign = {
        name: [s for s in page["sources"] if re.match(r"(https?:)?//", s)]
        for name, page in walk.items()
    }
    assert not {n: s for n, s in foreign.items() if s}


def test_no_console_error(walk):
    assert not offenders(walk, "errors")


def test_every_figure_is_drawn(walk):
    assert not offenders(walk, "bare") and not offenders(walk, "images")
    assert sum(page["figures"] for page in walk.values()) > 40


def test_math_is_rendered(walk):
    assert not offenders(walk, "raw_math") and not offenders(walk, "bad_math")
    assert not {n: (p["math"], p["katex"]) for n, p in walk.items() if p["katex"] < p["math"]}
    assert sum(page["katex"] for page in walk.values()) > 100


def test_no_link_is_broken(walk, site):
    broken = []
    for name, page in walk.items():
        for href in page["links"]:
            if re.match(r"[a-z]+:|//", href):
                continue
            path, anchor = urldefrag(urljoin(name, unquote(href)))
            path = path or name
            if path.endswith("/") or path == "":
                path += "index.html"
            if not (site / path).is_file():
                broken.append(f"{name}: {href}")
            elif anchor and path in walk and anchor not in walk[path]["ids"]:
                broken.append(f"{name}: {href} (no such anchor)")
    assert not broken, "\n".join(broken)


def test_links_that_leave_go_to_the_repository_or_a_reference(walk):
    hosts = {
        re.match(r"https?://([^/]+)", href)[1]
        for page in walk.values()
        for href in page["links"]
        if re.match(r"https?://", href)
    }
    assert hosts <= {
        "github.com",
        "arxiv.org",
        "doi.org",
        "www.rcsb.org",
        "www.ebi.ac.uk",
        "zenodo.org",
    }, hosts


def test_sidebar_has_the_layers(walk):
    import yaml

    contents = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))["website"][
        "sidebar"
    ]["contents"]
    wanted = [item["section"] for item in contents if isinstance(item, dict)]
    assert len(wanted) >= 8 and all(page["sections"] == wanted for page in walk.values())


def test_nothing_is_wider_than_a_phone(walk):
    assert not {name: page["narrow"] for name, page in walk.items() if page["narrow"] > 390}


def test_every_public_function_is_documented(walk, site):
    "Each exported public name has its anchor; a function's signature and source link stand below it."
    namespace = {}
    exec((ROOT / "cryoformer_nb" / "_modidx.py").read_text(encoding="utf-8"), namespace)
    missing, settings = [], namespace["d"]["settings"]
    for module, names in namespace["d"]["syms"].items():
        for name, (where, file) in names.items():
            short = name.removeprefix(module + ".")
            if (
                "." in short
                or short.startswith("_")
                or not (ROOT / "cryoformer_nb" / Path(file).name).exists()
            ):
                continue
            page, anchor = where.split("#")
            if page not in walk or anchor not in walk[page]["ids"]:
                missing.append(f"{page}#{anchor}")
            elif f"{settings['git_url']}/blob/{settings['branch']}/{file}" not in " ".join(
                walk[page]["links"]
            ):
                missing.append(f"{page}: no link to {file}")
    assert not missing, missing
    html = (site / "density.html").read_text(encoding="utf-8")
    assert (
        "<th>parameter</th>" in html
        and "gaussian_projection(" in re.sub(r"<[^>]+>", "", html)
        and "code-fold" in html
    )


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
    assert (
        "fsc" in page.locator("main").inner_text().lower()
        and not watched.errors
        and not watched.foreign
    )
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


def test_figures_answer(chromium, address):
    "A figure is live: plotly knows its points, and one that is turned or played changes."
    page = Watched(chromium).page
    page.goto(f"{address}/tutorials/reconstruct.html", wait_until="load")
    box = page.locator(".figure-live").nth(1)
    box.scroll_into_view_if_needed()
    page.wait_for_function("b => !!b.querySelector('.main-svg')", arg=box.element_handle())
    assert (
        box.evaluate(
            "async b => { await Plotly.relayout(b, {'xaxis.range': [0, 1]}); return b._fullLayout.xaxis.range[1]; }"
        )
        == 1
    )
    page.close()


OVERLAPS = """b => { const edge = b.getBoundingClientRect(), found = [];
    const texts = [...b.querySelectorAll('svg text')].map((t) => [t.textContent, t.getBoundingClientRect()]).filter(([, r]) => r.width > 0);
    texts.forEach(([s, r], k) => { if (r.left < edge.left - 3 || r.right > edge.right + 3) found.push(s + ' sticks out');
        for (const [o, q] of texts.slice(k + 1)) if (Math.min(r.right, q.right) - Math.max(r.left, q.left) > 3 && Math.min(r.bottom, q.bottom) - Math.max(r.top, q.top) > 4) found.push(s + ' over ' + o); });
    return found; }"""


@pytest.mark.parametrize(
    "name", ["monitor", "conventions", "pose_view", "tutorials/your_data", "tutorials/homogeneous"]
)
def test_figures_can_be_read_on_a_phone(chromium, address, name):
    "No title, tick or legend lies over another."
    page = Watched(chromium, 390, 844).page
    page.goto(f"{address}/{name}.html", wait_until="load")
    for box in page.locator(".figure-live").all():
        box.scroll_into_view_if_needed()
        page.wait_for_function("b => !!b.querySelector('.main-svg')", arg=box.element_handle())
        page.wait_for_timeout(400)  # a crowded figure is drawn again, wider
        assert not box.evaluate(OVERLAPS)
    page.close()


def test_llms_txt(site):
    text = (site / "llms.txt").read_text(encoding="utf-8")
    assert text.startswith("# cryoformer_nb\n\n> ")
    linked = re.findall(r"\]\(([^)]+)\)", text)
    assert len(linked) == len(set(linked)) and all((site / name).is_file() for name in linked)
    assert {n.removesuffix(".llms.md") for n in linked} == {
        p.relative_to(site).as_posix().removesuffix(".html") for p in site.rglob("*.html")
    }
    for name in linked:
        assert '"data":[' not in (site / name).read_text(encoding="utf-8"), (
            f"{name} holds a figure's numbers"
        )


def test_search_index_holds_no_figures(site):
    entries = json.loads((site / "search.json").read_text(encoding="utf-8"))
    assert not [e["href"] for e in entries if "bdata" in e["text"]]
