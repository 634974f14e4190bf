"""The widgets in a real JupyterLab, driven with mouse and keyboard, and what Python sees of it."""

import base64
import json
import os

import numpy as np
import pytest
import starfile
from browsing import ROOT
from lab import Notebook, code_cell

from cryoformer_nb import Config, simulate, train

SETUP = """import numpy as np, torch
from cryoformer_nb.imaging.density import gaussian_volume
from cryoformer_nb.show.molecule import view_volume
def molecule(box, angle=0.0):
    t = torch.linspace(0, 1, 40)
    c, s = np.cos(angle), np.sin(angle)
    turn = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float32)
    points = torch.stack([12 * torch.cos(7 * t), 12 * torch.sin(7 * t), 40 * t - 20], -1) @ turn.T
    return gaussian_volume(points, torch.ones(40), 3.0, box, 96 / box).numpy()
one, two = molecule(64), molecule(64, 0.5)
"""
FIGURE = "document.querySelector('.cf-view-volume .js-plotly-plot')"


@pytest.fixture
def opened(chromium, lab):
    "A function that opens a notebook of the given cells, has them run, and closes it in the end."
    made = []

    def start(name: str, *cells: str, wait: bool = True, first=None) -> Notebook:
        kernel = dict(name="python3", display_name="python3", language="python")
        content = dict(
            cells=[code_cell(source, f"cell-{k}") for k, source in enumerate(cells)],
            metadata=dict(kernelspec=kernel),
            nbformat=4,
            nbformat_minor=5,
        )
        (lab.folder / name).write_text(json.dumps(content))
        made.append(Notebook(chromium, lab, name))
        if first is not None:
            first(made[-1].page)
        made[-1].run_all()
        if wait:
            made[-1].wait()
            assert not made[-1].errors(), made[-1].errors()
        return made[-1]

    yield start
    for notebook in made:
        notebook.close()


def until(page, condition: str, seconds: float = 90.0):
    page.wait_for_function(condition, timeout=1000 * seconds)


def drawn(page, *places: str, seconds: float = 120.0):
    "Until the figures there are drawn and listen, as the canvas itself says."
    for css in places:
        until(page, f"() => document.querySelector('{css} [data-live=yes] .main-svg')", seconds)


def press(page, selector: str, key: str, times: int = 1):
    "Keys on a control that has been given the focus."
    page.locator(selector).first.focus()
    for _ in range(times):
        page.keyboard.press(key)


def choose(page, css: str, text: str):
    "A button of several; pressed again, as a person would, if the page moved under the pointer."
    button = page.locator(f"{css} button", has_text=text)
    for _ in range(3):
        button.click()
        page.wait_for_timeout(1000)
        if "mod-active" in button.get_attribute("class"):
            return
    raise AssertionError(f"{text} is not chosen after three clicks")


def test_view_volume_follows_its_controls(opened):
    notebook = opened(
        "viewer.ipynb",
        SETUP,
        "view = view_volume({'first': one, 'second': two}, pixel_size=1.5, colour=np.abs(one "
        "- two), label='difference')\nview",
    )
    page = notebook.page
    drawn(page, ".cf-view-volume")
    before = float(notebook.run("print(view.layers[0].level)"))
    vertices = page.evaluate(f"() => {FIGURE}.data[0].x.length")
    press(page, ".cf-threshold .noUi-handle", "ArrowRight", 12)
    until(page, f"() => {FIGURE}.data[0].x.length !== {vertices}")
    after = float(notebook.run("view.worker.wait(); print(view.layers[0].level)"))
    assert after > before and page.evaluate(f"() => {FIGURE}.data[0].x.length") < vertices, (
        "a higher contour encloses less"
    )
    choose(page, ".cf-unit", "map")
    until(
        page,
        "() => parseFloat(document.querySelector('.cf-threshold "
        f".widget-readout').textContent) - {after} < {0.05 * after}",
    )
    page.locator(".cf-map select").select_option(label="second")
    page.locator(".cf-visible input").uncheck()
    until(page, f"() => {FIGURE}.data[1].visible === false")
    page.locator(".cf-cut select").select_option(label="x")
    until(
        page,
        f"() => {{ const x = {FIGURE}.data[0].x; return Math.min(...x) > -2 || Math.max(...x) "
        f"< 2; }}",
    )
    assert notebook.run("print(view.cut, view.layers[1].visible)").split() == ["x", "False"]
    assert not notebook.watched.foreign


def test_view_volume_is_reached_with_the_keyboard(opened):
    "Tabulator moves through the controls, and each has a name for a screen reader."
    notebook = opened("keys.ipynb", SETUP, "view = view_volume(one, pixel_size=1.5)\nview")
    page = notebook.page
    drawn(page, ".cf-view-volume")
    page.locator(".cf-threshold .noUi-handle").focus()
    seen = set()
    for _ in range(14):
        page.keyboard.press("Tab")
        seen |= set(
            page.evaluate(
                "() => { const e = document.activeElement.closest('[class*=cf-]'); return e "
                "? [...e.classList].filter((c) => c.startsWith('cf-')) : []; }"
            )
        )
    assert {"cf-unit", "cf-view", "cf-cut"} <= seen, seen


REFUSE = """() => {
    const Stream = DecompressionStream;
    window.asked = 0;
    window.DecompressionStream = class {
        constructor(kind) {
            if (++window.asked < 3) throw new Error("refused");
            return new Stream(kind);
        }
    };
}"""
LOSE = f"""() => {{
    const canvas = {FIGURE}.querySelector('canvas'), kinds = ['webgl', 'webgl2'];
    const gl = kinds.map((kind) => canvas.getContext(kind)).find((found) => found);
    gl.getExtension('WEBGL_lose_context').loseContext();
    window.old = {FIGURE};
}}"""


def test_a_figure_that_fails_is_drawn_again(opened):
    "plotly.js fails twice, a change is lost on its way, the browser takes the drawing back."
    cell = "view = view_volume(one, pixel_size=1.5)\nview"
    notebook = opened("again.ipynb", SETUP, cell, first=lambda page: page.evaluate(REFUSE))
    page = notebook.page
    drawn(page, ".cf-view-volume")
    assert page.evaluate("() => asked") == 3, "drawn at the third attempt"
    notebook.run("view.fig._count += 1; view.fig.layout.title.text = 'after a lost one'")
    until(page, f"() => {FIGURE}.layout.title?.text === 'after a lost one'")
    page.evaluate(LOSE)
    until(page, "() => !old.isConnected")
    drawn(page, ".cf-view-volume")
    assert page.evaluate(f"() => {FIGURE}.layout.title.text") == "after a lost one"
    box = page.locator(".cf-view-volume canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    before = notebook.run("print(view.fig.layout.scene.camera.eye)")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 80, y + 30, steps=5)
    page.mouse.up()
    turned = f"{FIGURE}._fullLayout.scene._scene.getCamera().eye.x"
    for _ in range(40):
        if notebook.run("print(view.fig.layout.scene.camera.eye)") != before:
            break
        page.wait_for_timeout(250)
    eye = float(notebook.run("print(view.fig.layout.scene.camera.eye.x)"))
    assert abs(eye - page.evaluate(f"() => {turned}")) < 1e-3, "Python knows where the user stands"


def test_a_large_box_follows_its_slider(opened):
    "Box 128: the surface that Python holds is the one on the page."
    cell = "view = view_volume(molecule(128), pixel_size=0.75)\nview"
    notebook = opened("large.ipynb", SETUP, cell)
    page = notebook.page
    drawn(page, ".cf-view-volume")
    vertices = page.evaluate(f"() => {FIGURE}.data[0].x.length")
    before = float(notebook.run("print(view.layers[0].level)"))
    press(page, ".cf-threshold .noUi-handle", "ArrowRight", 3)
    until(page, f"() => {FIGURE}.data[0].x.length !== {vertices}")
    assert float(notebook.run("view.worker.wait(); print(view.layers[0].level)")) > before


SHOWN = """() => {
    const outputs = [...document.querySelectorAll('.jp-OutputArea-output')];
    const seen = outputs.filter((e) => e.checkVisibility());
    const words = seen.map((e) => e.textContent.trim()).join();
    return {
        widget: seen.some((e) => e.querySelector('.cf-panel')),
        figure: seen.some((e) => e.matches('.jp-RenderedPlotly')),
        words: /widget/.test(words),
    };
}"""
WIDGET = dict(widget=True, figure=False, words=False)
FIGURE_ONLY = dict(widget=False, figure=True, words=False)


def save(page) -> None:
    page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")


def reopened(page, lab, name: str) -> dict:
    "What is seen of a notebook that is opened anew."
    page.goto(f"{lab.address}/lab/tree/{name}?reset", wait_until="load")
    shown = ".jp-RenderedPlotly .main-svg, .jp-RenderedPlotly img[src]"  # a picture, if it has one
    until(page, f"() => document.querySelector('{shown}')")
    page.wait_for_timeout(3000)  # for whatever else may come
    return page.evaluate(SHOWN)


def test_a_stored_widget_is_a_figure_without_its_kernel(opened, lab):
    "Alive the widget is seen; in the notebook opened again, with a new kernel or none, the figure."
    cell = "view = view_volume({'first': one, 'second': two}, pixel_size=1.5)\nview"
    notebook = opened("stored.ipynb", SETUP, cell)
    page = notebook.page
    page.on("dialog", lambda dialog: dialog.accept())  # leave, whatever has not been saved
    drawn(page, ".cf-view-volume")
    assert page.evaluate(SHOWN) == WIDGET
    outputs = notebook.cells()[-1]["outputs"]
    assert "application/vnd.plotly.v1+json" in outputs[-1]["data"]
    assert len(json.dumps(outputs)) < 200_000
    save(page)
    page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    assert reopened(page, lab, "stored.ipynb") == FIGURE_ONLY, "a new kernel"
    save(page)  # plotly's renderer has added a picture of the figure
    assert (lab.folder / "stored.ipynb").stat().st_size < 200_000
    page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.route("**/api/sessions*", lambda route: route.abort())
    assert reopened(page, lab, "stored.ipynb") == FIGURE_ONLY, "no kernel"
    page.unroute("**/api/sessions*")


MOLECULE = """from cryoformer_nb.imaging.molecules import load_molecule
arm = load_molecule('arm')
atoms, weight = torch.tensor(arm.xyz[0]).float(), torch.tensor(arm.weight).float()
density = gaussian_volume(atoms, weight, 1.5, 64, 1.5).numpy()
view = view_volume(density, pixel_size=1.5, atoms=arm.xyz[0, ::2], backend='py3dmol')
view"""
COVERED = """(picture) => new Promise((done) => {
    const image = new Image();
    image.onload = () => {
        const { width, height } = image, flat = document.createElement('canvas');
        Object.assign(flat, { width, height });
        const to = flat.getContext('2d');
        to.drawImage(image, 0, 0);
        const { data } = to.getImageData(0, 0, width, height), rows = [];
        for (let k = 0; k < data.length; k += 4)
            if (data[k] < 240) rows.push(Math.floor(k / 4 / width));
        done((rows.at(-1) - rows[0]) / height);
    };
    image.src = 'data:image/png;base64,' + picture;
})"""


def test_view_volume_with_3dmol_needs_no_network(opened, site):
    "From the copy that came with the building of the site; the molecule fills the canvas."
    if not (ROOT / "tools" / "node_modules" / "3dmol").is_dir():
        pytest.skip("no copy of 3Dmol.js in tools/node_modules: python tools/docs.py installs it")
    notebook = opened("dmol.ipynb", SETUP, MOLECULE)
    canvas = notebook.page.locator(".cf-3dmol canvas").first
    canvas.wait_for(timeout=40_000)
    until(notebook.page, "() => document.querySelector('.cf-3dmol').dataset.turn")
    canvas.scroll_into_view_if_needed()
    picture = base64.b64encode(canvas.screenshot()).decode()
    assert 0.6 < notebook.page.evaluate(COVERED, picture) < 1
    before = notebook.run("print(view.layers[0].level)")
    press(notebook.page, ".cf-threshold .noUi-handle", "ArrowRight", 5)
    notebook.page.wait_for_timeout(1500)
    assert notebook.run("print(view.layers[0].level)") != before
    assert not notebook.watched.foreign
    assert not notebook.errors()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A cell that reads a small run with its particles, trained once for all tests."
    work = tmp_path_factory.mktemp("trained")
    star = simulate(work / "set", preset="arm", n=400, box=32, snr=0.5, seed=0)
    train(star, work / "run", epochs=3, config=Config(levels=6), progress=False)
    return f"""import json, numpy as np
from pathlib import Path
from cryoformer_nb import Config, Run, explore, train
work = Path({str(work)!r})
star, run = Path({str(star)!r}), Run.load(work / 'run')
"""


PLANE = "document.querySelector('.cf-plane .js-plotly-plot')"
SOLID = "document.querySelector('.cf-map3d .js-plotly-plot')"
PIXEL = f"""([x, y]) => {{
    const g = {PLANE}, r = g.getBoundingClientRect(), {{ xaxis, yaxis }} = g._fullLayout;
    return [r.left + xaxis._offset + xaxis.l2p(x), r.top + yaxis._offset + yaxis.l2p(y)];
}}"""


#: How often in a row the explorer must come up on a slow machine: 10 by hand.
TIMES = int(os.environ.get("CRYOFORMER_BROWSER_TIMES", 1))


def slow(page):
    "A processor six times slower."
    session = page.context.new_cdp_session(page)
    session.send("Emulation.setCPUThrottlingRate", dict(rate=6))


@pytest.mark.parametrize("time", range(TIMES))
def test_explorer_comes_up_first_on_a_slow_machine(opened, trained, time):
    "The first widget of a fresh kernel: both figures with their data, and they follow Python."
    cell = trained + "view = explore(run)\nview"
    notebook = opened(f"slow-{time}.ipynb", cell, first=slow)
    drawn(notebook.page, ".cf-plane", ".cf-map3d")
    counts = f"() => [{PLANE}.data[1].x.length, {SOLID}.data[0].x.length]"
    points, vertices = notebook.page.evaluate(counts)
    assert points == 400 and vertices > 100
    notebook.run("view.go_to(3)")
    until(notebook.page, f"() => /particle 3$/.test({SOLID}.layout.title.text)")
    assert not notebook.watched.foreign


def test_the_studio_is_one_instrument(opened, trained):
    "What is kept has its colour in the plane, images and map follow the place, undo goes back."
    notebook = opened(
        "studio.ipynb", trained, "from cryoformer_nb import studio", "view = studio(run)\nview"
    )
    page = notebook.page
    drawn(page, ".cf-plane", ".cf-map3d", ".cf-images")
    number = page.locator(".cf-map3d .cf-particle input")
    number.fill("7")
    number.press("Enter")
    first = "document.querySelector('.cf-images .annotation-text').textContent"
    until(page, f"() => {first} === 'particle 7' && /particle 7$/.test({SOLID}.layout.title.text)")
    page.locator(".cf-nearest").click()
    page.locator(".cf-name input").fill("around seven")
    page.locator(".cf-keep").click()
    until(page, f"() => {PLANE}.data[5].x.length === 200")
    assert page.locator(".cf-group-name input").input_value() == "around seven"
    page.locator(".cf-undo").click()
    until(page, f"() => {PLANE}.data[5].x.length === 0")
    page.locator(".cf-undo").click()
    page.locator(".cf-undo").click()
    until(page, f"() => {first} !== 'particle 7'")
    assert notebook.run("print(len(view.history.future), len(view.groups))").split() == ["3", "0"]
    said = "document.querySelector('.cf-studio .cf-status').textContent"
    page.locator(".cf-tint select").select_option(label="standard error")
    until(page, f"() => {said}.includes('half sets')")
    assert page.locator(".cf-tint select").input_value() == "one colour"
    page.locator(".cf-tabs .lm-TabBar-tab", has_text="Path").click()
    page.locator(".cf-save-page").click()
    until(page, f"() => {said}.includes('film saved as path.html')")
    assert not notebook.watched.foreign
    assert not notebook.errors()


def test_explorer_click_lasso_and_save(opened, trained, tmp_path):
    "A click decodes a particle's map, a lasso selects what lies inside, save writes just those."
    cell = "view = explore(run, truth=star.parent / 'truth')\nview"
    notebook = opened("explorer.ipynb", trained, cell)
    page = notebook.page
    drawn(page, ".cf-plane", ".cf-map3d")
    page.locator(".cf-plane").scroll_into_view_if_needed()
    plane = np.array(json.loads(notebook.run("print(json.dumps(view.plane.tolist()))")))
    target = int(np.argmax(plane[:, 0]))  # at the rim, where none hides another
    x, y = page.evaluate(PIXEL, plane[target].tolist())
    page.mouse.move(x - 30, y + 12)
    page.mouse.move(x, y, steps=6)
    until(page, f"() => {PLANE}._hoverdata?.[0]?.pointIndex === {target}")  # a click means it
    page.mouse.click(x, y)
    until(
        page,
        f"() => document.querySelector('.cf-status').textContent.includes('particle {target}')",
    )
    assert notebook.run(
        "view.worker.wait(); print(view.controls.particle.value, np.allclose(view.volume, "
        f"run.volume(run.latents[{target}]), atol=1e-4))"
    ).split() == [str(target), "True"]

    low, high = np.quantile(plane, (0.4, 1), axis=0)
    corners = [
        (low[0], low[1]),
        (high[0] + 0.1, low[1]),
        (high[0] + 0.1, high[1] + 0.1),
        (low[0], high[1] + 0.1),
    ]
    page.locator(".cf-mode button", has_text="lasso").click()
    until(page, f"() => {PLANE}._fullLayout.dragmode === 'lasso'")
    pixels = [page.evaluate(PIXEL, [float(a), float(b)]) for a, b in corners]
    page.mouse.move(*pixels[0])
    page.mouse.down()
    for corner in [*pixels[1:], pixels[0]]:
        page.mouse.move(*corner, steps=12)
    page.mouse.up()
    inside = np.flatnonzero((plane[:, 0] > low[0]) & (plane[:, 1] > low[1]))
    until(page, "() => parseInt(document.querySelector('.cf-count').textContent) > 0")
    selected = np.array(
        json.loads(notebook.run("print(json.dumps([int(k) for k in view.selected]))"))
    )
    assert abs(len(selected) - len(inside)) <= 3 and len(np.setxor1d(selected, inside)) <= 4, (
        "what lies inside the outline, but for points on the outline itself"
    )
    assert page.locator(".cf-count").inner_text().split()[0] == str(len(selected))

    path = tmp_path / "chosen.star"
    page.locator(".cf-file input").fill(str(path))
    page.locator(".cf-save").click()
    until(page, "() => document.querySelector('.cf-status').textContent.includes('saved')")
    saved = starfile.read(path)["particles"]
    assert [int(name.split("@")[0]) - 1 for name in saved["rlnImageName"]] == selected.tolist(), (
        "the rows of the star file are the selected particles"
    )
    page.locator(".cf-file input").fill("chosen.doc")
    page.locator(".cf-save").click()
    until(page, "() => document.querySelector('.cf-status').textContent.includes('expected')")
    page.locator(".cf-clear").click()
    until(page, "() => parseInt(document.querySelector('.cf-count').textContent) === 0")

    before = page.evaluate(f"() => {SOLID}.data[0].x.length")
    press(page, ".cf-frame .noUi-handle", "ArrowRight", 3)
    until(
        page,
        "() => document.querySelector('.cf-status').textContent.includes('map ') && "
        f"{SOLID}.data[0].x.length !== {before}",
    )
    assert not notebook.watched.foreign
    assert not notebook.errors()

    page.locator(".cf-path select").select_option(label="PC 1")
    press(page, ".cf-frame .noUi-handle", "Home")
    until(page, "() => document.querySelector('.cf-status').textContent.includes('map 1 of')")
    page.locator(".cf-play button").first.click()
    until(page, "() => /map ([4-9]|10) of/.test(document.querySelector('.cf-status').textContent)")
    page.locator(".cf-play button").first.click()  # pause
    page.wait_for_timeout(1500)
    shown = page.locator(".cf-frame .widget-readout").inner_text()
    page.wait_for_timeout(1500)
    assert page.locator(".cf-frame .widget-readout").inner_text() == shown, (
        "a paused player stays where it is"
    )
    assert notebook.run(
        "view.worker.wait(); print(view.controls.frame.value, np.allclose(view.volume, "
        "run.volume(view.path[view.controls.frame.value - 1]), atol=1e-4))"
    ).split() == [shown, "True"]
    assert not notebook.watched.foreign
    assert not notebook.errors()


def test_many_particles_are_points_when_zoomed(opened, trained):
    "A density of all; the points of the part that the mouse has opened; the density again."
    cell = "from cryoformer_nb.show.sides import Plane\nview = explore(run)\n"
    notebook = opened("many.ipynb", trained, cell + "view.drawn = Plane(view.cloud, 60)\nview")
    page = notebook.page
    drawn(page, ".cf-plane")
    page.locator(".cf-plane").scroll_into_view_if_needed()
    assert page.evaluate(f"() => {PLANE}.data[0].visible !== false")
    choose(page, ".cf-mode", "zoom")
    middle = json.loads(notebook.run("print(json.dumps(view.plane[7].tolist()))"))
    x, y = page.evaluate(PIXEL, middle)
    page.mouse.move(x - 15, y - 15)
    page.mouse.down()
    page.mouse.move(x + 15, y + 15, steps=6)
    page.mouse.up()
    until(page, f"() => {PLANE}.data[0].visible === false")
    shown = page.evaluate(f"() => Array.from({PLANE}.data[1].customdata)")
    assert 7 in shown and len(shown) <= 60
    assert notebook.run("print(view.drawn.rows.tolist())").strip() == str(shown)
    corner = page.evaluate(
        f"() => {{ const r = {PLANE}.querySelector('.nsewdrag').getBoundingClientRect(); "
        "return [r.left + 6, r.top + 6]; }"  # where no point is clicked
    )
    page.mouse.dblclick(*corner)
    until(page, f"() => {PLANE}.data[0].visible !== false")
    assert not notebook.watched.foreign
    assert not notebook.errors()


def test_training_is_shown_while_it_runs(opened, trained):
    "Loss and map move during the training; what stands there afterwards is its end."
    notebook = opened(
        "monitor.ipynb",
        trained + "from cryoformer_nb.show.training import show_training",
        "view = show_training(seconds=0.2)\nrun = train(star, work / 'watched', epochs=20, "
        "config=Config(levels=6), progress=False, callback=view)",
        wait=False,
    )
    page, seen = notebook.page, set()
    until(
        page,
        "() => /passes/.test((document.querySelector('.cf-training .cf-info') || {}).textContent)",
        120,
    )
    while notebook.busy():
        seen.add(page.locator(".cf-info").inner_text())
        page.wait_for_timeout(200)
    assert not notebook.errors(), notebook.errors()
    assert len(seen) > 2, "the line of text changes during the training"
    count, text = json.loads(
        notebook.run("import json; print(json.dumps([len(run.history), view.text()]))")
    )
    curve = "document.querySelector('.cf-training .js-plotly-plot')"
    until(page, f"() => {curve}.data[0].x.length === {count}")
    assert (
        page.locator(".cf-info").inner_text() == text
        and page.evaluate("() => document.querySelectorAll('.cf-training').length") == 1
    )
    assert not notebook.watched.foreign


POSES = """import torch
from types import SimpleNamespace
from cryoformer_nb.show.poses import show_poses
from cryoformer_nb.core.rotations import random_rotations, rotvec_to_matrix
g = torch.Generator().manual_seed(0)
R, t = random_rotations(200, g), torch.randn(200, 2, generator=g)
w, u = 0.3 * torch.randn(200, 3, generator=g), 3 * torch.randn(200, 2, generator=g)
snapshots = [
    dict(stage=s, rotations=rotvec_to_matrix(w / 2**k) @ R, shifts_px=t + u / 2**k)
    for k, s in enumerate(['given', 'align', 'refine', 'end'])
]
view = show_poses(SimpleNamespace(pose_snapshots=snapshots, poses=(R, t)))
view"""


def test_poses_follow_the_slider(opened):
    notebook = opened("poses.ipynb", "import json, numpy as np", POSES)
    page, fig = notebook.page, "document.querySelector('.jp-OutputArea .js-plotly-plot')"
    drawn(page, ".jp-OutputArea")
    press(page, ".cf-stage .noUi-handle", "ArrowLeft", 2)
    until(page, f"() => {fig}.data[2].x[0] === 1")
    assert page.locator(".cf-stage .widget-readout").inner_text() == "align"
    shown = page.evaluate(f"() => [Array.from({fig}.data[6].x).slice(0, 5), {fig}.data[2].y[0]]")
    directions, median = json.loads(
        notebook.run(
            "print(json.dumps([view.history.directions[1, :5, 0].tolist(), "
            "float(np.median(view.history.angles[1]))]))"
        )
    )
    assert np.allclose(shown[0], directions, atol=2e-3) and np.isclose(shown[1], median, atol=1e-3)
    assert not notebook.watched.foreign


CURVES = """from cryoformer_nb import show_fsc, show_particles
s = np.arange(33)
curves = show_fsc({'sharp': 1 / (1 + (s / 20)**6), 'soft': 1 / (1 + (s / 10)**6)}, pixel_size=1.5)
curves"""


def test_fsc_and_particles_follow_their_controls(opened, trained):
    "Another threshold, another resolution; a hidden curve leaves the table; the next particles."
    notebook = opened("looks.ipynb", trained, CURVES, "images = show_particles(run=run)\nimages")
    page = notebook.page
    drawn(page, ".cf-fsc", ".cf-particles")
    before = page.locator(".cf-table").inner_text()
    page.locator(".cf-fsc .cf-threshold button", has_text="0.5").click()
    until(page, "() => document.querySelector('.cf-table').innerText.includes('FSC = 0.5')")
    page.locator(".cf-curve input").nth(1).uncheck()
    until(page, "() => !document.querySelector('.cf-table').innerText.includes('soft')")
    assert (
        "soft" in before
        and f"{json.loads(notebook.run('print(json.dumps(curves.resolutions()))'))['sharp']:.2f}"
        in page.locator(".cf-table").inner_text()
    )
    images = "document.querySelector('.cf-particles .js-plotly-plot')"
    page.evaluate(
        f"() => {{ window.row = () => Array.from({images}._fullData[0].z[0]).join(); "
        f"window.before = row(); }}"
    )
    page.locator(".cf-next").click()
    until(page, "() => row() !== before")
    assert notebook.run("print(images.start)").strip() == "3"
    assert not notebook.watched.foreign
    assert not notebook.errors()
