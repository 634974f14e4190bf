"""The widgets in a real JupyterLab, driven with mouse and keyboard, and the result looked at on the Python side."""
import json
import time

import numpy as np
import pytest
import starfile

from browsing import ROOT
from lab import Notebook

SETUP = """import numpy as np, torch
from cryoformer_nb.density import gaussian_volume
from cryoformer_nb.viewer import view_volume
def molecule(box, angle=0.0):
    t = torch.linspace(0, 1, 40)
    turn = torch.tensor([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]], dtype=torch.float32)
    points = torch.stack([12 * torch.cos(7 * t), 12 * torch.sin(7 * t), 40 * t - 20], -1) @ turn.T
    return gaussian_volume(points, torch.ones(40), 3.0, box, 96 / box).numpy()
one, two = molecule(64), molecule(64, 0.5)
"""
FIGURE = "document.querySelector('.cf-view-volume .js-plotly-plot')"


@pytest.fixture
def opened(chromium, lab):
    "A function that opens a notebook of the given cells, has them run, and closes it in the end."
    made = []
    def start(name: str, *cells: str) -> Notebook:
        code = [dict(cell_type="code", id=f"cell-{k}", metadata={}, source=source, outputs=[], execution_count=None) for k, source in enumerate(cells)]
        (lab.folder / name).write_text(json.dumps(dict(cells=code, metadata=dict(kernelspec=dict(name="python3", display_name="python3", language="python")), nbformat=4, nbformat_minor=5)))
        made.append(Notebook(chromium, lab, name))
        made[-1].run_all()
        made[-1].wait()
        assert not made[-1].errors(), made[-1].errors()
        return made[-1]
    yield start
    for notebook in made: notebook.close()


def until(page, condition: str, seconds: float = 45.0):
    page.wait_for_function(condition, timeout=1000 * seconds)


def press(page, selector: str, key: str, times: int = 1):
    "Keys on a control that has been given the focus."
    page.locator(selector).first.focus()
    for _ in range(times): page.keyboard.press(key)


def test_view_volume_follows_its_controls(opened):
    notebook = opened("viewer.ipynb", SETUP, "view = view_volume({'first': one, 'second': two}, pixel_size=1.5, colour=np.abs(one - two), label='difference')\nview")
    page = notebook.page
    until(page, f"() => {FIGURE} && {FIGURE}.querySelector('canvas')")
    before = float(notebook.run("print(view.layers[0].level)"))
    vertices = page.evaluate(f"() => {FIGURE}.data[0].x.length")
    press(page, ".cf-threshold .noUi-handle", "ArrowRight", 12)
    until(page, f"() => {FIGURE}.data[0].x.length !== {vertices}")
    after = float(notebook.run("view.worker.wait(); print(view.layers[0].level)"))
    assert after > before and page.evaluate(f"() => {FIGURE}.data[0].x.length") < vertices, "a higher contour encloses less"
    page.locator(".cf-unit button", has_text="map").click()
    until(page, f"() => parseFloat(document.querySelector('.cf-threshold .widget-readout').textContent) - {after} < {0.05 * after}")
    page.locator(".cf-map select").select_option(label="second")
    page.locator(".cf-visible input").uncheck()
    until(page, f"() => {FIGURE}.data[1].visible === false")
    page.locator(".cf-cut select").select_option(label="x")
    until(page, f"() => {{ const x = {FIGURE}.data[0].x; return Math.min(...x) > -2 || Math.max(...x) < 2; }}")
    assert notebook.run("print(view.cut, view.layers[1].visible)").split() == ["x", "False"]
    assert not notebook.watched.foreign


def test_view_volume_is_reached_with_the_keyboard(opened):
    "Tabulator moves through the controls, and each has a name for a screen reader."
    notebook = opened("keys.ipynb", SETUP, "view = view_volume(one, pixel_size=1.5)\nview")
    page = notebook.page
    until(page, f"() => {FIGURE} && {FIGURE}.querySelector('canvas')")
    page.locator(".cf-threshold .noUi-handle").focus()
    seen = set()
    for _ in range(14):
        page.keyboard.press("Tab")
        seen |= set(page.evaluate("() => { const e = document.activeElement.closest('[class*=cf-]'); return e ? [...e.classList].filter((c) => c.startsWith('cf-')) : []; }"))
    assert {"cf-unit", "cf-view", "cf-cut"} <= seen, seen


def test_a_new_threshold_of_a_large_box_comes_soon(opened):
    "Box 128. The stated second is for a quiet machine; the test allows for a busy one and prints what it saw."
    notebook = opened("large.ipynb", SETUP, "view = view_volume(molecule(128), pixel_size=0.75)\nview")
    page = notebook.page
    until(page, f"() => {FIGURE} && {FIGURE}.querySelector('canvas')")
    vertices = page.evaluate(f"() => {FIGURE}.data[0].x.length")
    start = time.perf_counter()
    press(page, ".cf-threshold .noUi-handle", "ArrowRight", 3)
    until(page, f"() => {FIGURE}.data[0].x.length !== {vertices}")
    took = time.perf_counter() - start
    print(f"{took:.2f} s from the key to the new surface")
    assert took < 8


def test_a_widget_adds_little_to_the_stored_notebook(opened):
    notebook = opened("stored.ipynb", SETUP, "view = view_volume({'first': one, 'second': two}, pixel_size=1.5)\nview")
    outputs = notebook.cells()[-1]["outputs"]
    assert len(json.dumps(outputs)) < 200_000 and any("application/vnd.plotly.v1+json" in o["data"] for o in outputs), "the static form is stored beside the widget"


def test_view_volume_with_3dmol_needs_no_network(opened):
    "The other backend, from a local copy of 3Dmol.js."
    script = ROOT / "tools" / "node_modules" / "3dmol" / "build" / "3Dmol-min.js"
    if not script.is_file(): pytest.skip("no copy of 3Dmol.js in tools/node_modules: python tools/docs.py installs it")
    notebook = opened("dmol.ipynb", SETUP, f"view = view_volume(one, pixel_size=1.5, backend='py3dmol', js={str(script)!r})\nview")
    until(notebook.page, "() => !!document.querySelector('.cf-3dmol canvas')", 40)
    before = notebook.run("print(view.layers[0].level)")
    press(notebook.page, ".cf-threshold .noUi-handle", "ArrowRight", 5)
    notebook.page.wait_for_timeout(1500)
    assert notebook.run("print(view.layers[0].level)") != before
    assert not notebook.watched.foreign and not notebook.errors()


TRAIN = """import tempfile
from pathlib import Path
from cryoformer_nb import Config, load_particles, simulate, train
from cryoformer_nb.explorer import explore
work = Path(tempfile.mkdtemp())
star = simulate(work / 'set', preset='arm', n=400, box=32, snr=0.5, seed=0)
run = train(star, work / 'run', epochs=3, config=Config(levels=6), progress=False)
"""
PLANE = "document.querySelector('.cf-plane .js-plotly-plot')"
PIXEL = f"""([x, y]) => {{ const g = {PLANE}, r = g.getBoundingClientRect(), l = g._fullLayout;
    return [r.left + l.xaxis._offset + l.xaxis.l2p(x), r.top + l.yaxis._offset + l.yaxis.l2p(y)]; }}"""


def test_explorer_click_lasso_and_save(opened, tmp_path):
    "A click on a particle decodes its map; a lasso selects what lies inside; save writes just those particles."
    notebook = opened("explorer.ipynb", "import numpy as np, json\n" + TRAIN, "view = explore(run, truth=star.parent / 'truth')\nview")
    page = notebook.page
    until(page, f"() => {PLANE} && {PLANE}.querySelector('canvas, .main-svg') && document.querySelector('.cf-map3d canvas')", 40)
    page.locator(".cf-plane").scroll_into_view_if_needed()
    page.wait_for_timeout(1500)
    plane = np.array(json.loads(notebook.run("print(json.dumps(view.plane.tolist()))")))
    target = int(np.argmax(plane[:, 0]))                       # at the rim, where none hides another
    x, y = page.evaluate(PIXEL, plane[target].tolist())
    page.mouse.move(x - 30, y + 12)
    page.mouse.move(x, y, steps=6)
    page.wait_for_timeout(600)
    page.mouse.click(x, y)
    until(page, f"() => document.querySelector('.cf-status').textContent.includes('particle {target}')")
    assert notebook.run(f"view.worker.wait(); print(view.particle.value, np.allclose(view.volume, run.volume(run.latents[{target}]), atol=1e-4))").split() == [str(target), "True"]

    low, high = np.quantile(plane, (0.4, 1), axis=0)
    corners = [(low[0], low[1]), (high[0] + .1, low[1]), (high[0] + .1, high[1] + .1), (low[0], high[1] + .1)]
    page.locator(".cf-mode button", has_text="lasso").click()
    pixels = [page.evaluate(PIXEL, [float(a), float(b)]) for a, b in corners]
    page.mouse.move(*pixels[0])
    page.mouse.down()
    for corner in [*pixels[1:], pixels[0]]: page.mouse.move(*corner, steps=12)
    page.mouse.up()
    inside = np.flatnonzero((plane[:, 0] > low[0]) & (plane[:, 1] > low[1]))
    until(page, "() => parseInt(document.querySelector('.cf-count').textContent) > 0")
    selected = np.array(json.loads(notebook.run("print(json.dumps([int(k) for k in view.selected]))")))
    assert abs(len(selected) - len(inside)) <= 3 and len(np.setxor1d(selected, inside)) <= 4, "what lies inside the outline, but for points on the outline itself"
    assert page.locator(".cf-count").inner_text().split()[0] == str(len(selected))

    path = tmp_path / "chosen.star"
    page.locator(".cf-file input").fill(str(path))
    page.locator(".cf-save").click()
    until(page, "() => document.querySelector('.cf-status').textContent.includes('saved')")
    saved = starfile.read(path)["particles"]
    assert [int(name.split("@")[0]) - 1 for name in saved["rlnImageName"]] == selected.tolist(), "the rows of the star file are the selected particles"
    page.locator(".cf-file input").fill("chosen.doc")
    page.locator(".cf-save").click()
    until(page, "() => document.querySelector('.cf-status').textContent.includes('expected')")
    page.locator(".cf-clear").click()
    until(page, "() => parseInt(document.querySelector('.cf-count').textContent) === 0")

    before = page.evaluate("() => document.querySelector('.cf-map3d .js-plotly-plot').data[0].x.length")
    press(page, ".cf-frame .noUi-handle", "ArrowRight", 3)
    until(page, f"() => document.querySelector('.cf-status').textContent.includes('map ') && document.querySelector('.cf-map3d .js-plotly-plot').data[0].x.length !== {before}")
    assert not notebook.watched.foreign and not notebook.errors()
