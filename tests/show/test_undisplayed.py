"""Panels that nobody looks at: in a plain process every public method works, before the widgets
exist and after, and the widgets show what was done before."""

import inspect

import numpy as np
import pytest

pytest.importorskip("ipywidgets")
pytest.importorskip("anywidget")

from cryoformer_nb import Run, explore, show_fsc, simulate, train, view_volume
from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.core.files import read_map
from cryoformer_nb.model.config import Config
from cryoformer_nb.show.panels import Panel, live

#: What `Panel` brings along; the parts that a panel fills in are called through it.
INHERITED = {name for name in vars(Panel) if not name.startswith("_")}


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    "No kernel, and nobody who asked for static figures."
    monkeypatch.delenv("CRYOFORMER_WIDGETS", raising=False)
    assert not live()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisplayed")
    star = simulate(root / "set", "arm", n=200, box=32, snr=0.3, seed=2)
    config = Config(levels=4, batch=16, queries=2)
    train(star, root / "run", epochs=1, config=config, progress=False)
    return Run.load(root / "run")


def ball(box=24, shift=0):
    "A soft ball in a box."
    z, y, x = np.indices((box, box, box)) - box // 2
    return np.exp(-((x - shift) ** 2 + y**2 + z**2) / 18).astype(np.float32)


def public_methods(panel) -> set:
    found = inspect.getmembers(type(panel), inspect.isfunction)
    return {name for name, _ in found if not name.startswith("_")} - INHERITED


def explorer_calls(folder):
    return dict(
        go_to=lambda p: p.go_to(7),
        show=lambda p: p.show(p.cloud.latents[3], "a place"),
        show_frame=lambda p: p.show_frame(2),
        set_path=lambda p: p.set_path("PC 1"),
        pick=lambda p: p.pick(),
        set_picked=lambda p: p.set_picked([p.cloud.latents[1], p.cloud.latents[2]]),
        set_tint=lambda p: p.set_tint("difference to the average"),
        forget=lambda p: p.forget(),
        select=lambda p: p.select([5, 3, 3]),
        select_polygon=lambda p: p.select_polygon([(-9, -9), (9, -9), (9, 9), (-9, 9)]),
        select_nearest=lambda p: p.select_nearest(20),
        save=lambda p: p.save(folder / "chosen.star"),
        save_map=lambda p: p.save_map(folder / "shown.mrc"),
        choose=lambda p: p.choose("y", "z 3"),
        set_level=lambda p: p.set_level(3.0),
        nearest=lambda p: p.nearest((0.0, 0.0)),
        map_figure=lambda p: p.map_figure(),
        plane_figure=lambda p: p.plane_figure(),
        say=lambda p: p.say("a word"),
        hear=lambda p: p.hear(dict(what="click", trace=1, point=5, x=0.0, y=0.0)),
        decode=lambda p: p.decode(p.latent),
        shown_map=lambda p: p.shown_map(),
        contour=lambda p: p.contour(),
        counted=lambda p: p.counted(),
        static=lambda p: p.static(),
        save_html=lambda p: p.save_html(folder / "page.html"),
    )


VOLUME_CALLS = dict(
    surface=lambda p: p.surface(p.layers[0]),
    figure=lambda p: p.figure(),
    change=lambda p: p.change(0, opacity=0.5),
    colour_by=lambda p: p.colour_by(None),
    cut_open=lambda p: p.cut_open("x", 0.1),
    look=lambda p: p.look("y"),
    eye=lambda p: p.eye(),
    redraw=lambda p: p.redraw(),
    say=lambda p: p.say(),
    describe=lambda p: p.describe(),
    static=lambda p: p.static(),
    save_html=None,
)
MOLECULE_CALLS = VOLUME_CALLS | dict(
    tint=lambda p: p.tint(),
    page=lambda p: p.page(),
    draw=lambda p: p.draw("trace"),
    reach=lambda p: p.reach(),
)


def every_panel(run, folder) -> dict:
    "name -> (a function that makes a panel, name of method -> call)."
    (folder / "3Dmol.js").write_text("window.$3Dmol = {}")
    volume = VOLUME_CALLS | dict(save_html=lambda p: p.save_html(folder / "page.html"))
    molecule = MOLECULE_CALLS | dict(save_html=volume["save_html"])
    atoms = np.array([[0.0, 0, 0], [3.8, 0, 0], [7, 2, 0]])
    js = str(folder / "3Dmol.js")
    return dict(
        explore=(lambda: explore(run), explorer_calls(folder)),
        volume=(lambda: view_volume(ball(), 2.0, colour=ball(shift=2), atoms=atoms), volume),
        molecule=(
            lambda: view_volume(ball(), 2.0, atoms=atoms, backend="py3dmol", js=js),
            molecule,
        ),
    )


EXPLORE = pytest.param("explore", marks=pytest.mark.slow)


@pytest.mark.parametrize("displayed", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", [EXPLORE, "volume", "molecule"])
def test_every_public_method_works(run, tmp_path, name, displayed):
    make, calls = every_panel(run, tmp_path)[name]
    panel = make()
    assert public_methods(panel) <= set(calls), "a public method is not tried here"
    for method, call in calls.items():
        panel = make()
        if displayed:
            _ = panel.widget
        try:
            if method == "save":
                panel.select([1, 2])
            call(panel)
        except Exception as error:
            pytest.fail(f"{name}.{method}: {type(error).__name__}: {error}")
        assert panel.built == displayed, f"{name}.{method} made widgets"
        if displayed:
            panel.worker.wait()


def test_the_explorer_does_what_it_is_told(run, tmp_path):
    view = explore(run)
    view.go_to(7)
    assert np.allclose(view.volume, run.volume(run.latents[7]), atol=1e-5)
    view.save_map(tmp_path / "seven.mrc")
    assert np.allclose(read_map(tmp_path / "seven.mrc")[0], view.volume, atol=1e-6)
    view.set_path("PC 1")
    view.show_frame(0)
    assert np.allclose(view.volume, run.volume(view.path[0]), atol=1e-5)
    view.pick()
    view.go_to(9)
    view.pick()
    view.set_path("picked points")
    assert np.allclose(view.path[-1], run.latents[9], atol=1e-5)
    view.select([5, 3, 3])
    assert view.selected.tolist() == [3, 5]
    view.choose("y", "z 3")
    assert np.allclose(view.plane[:, 1], run.latents[:, 2])
    assert "z 3" in view.static().layout.yaxis.title.text


@pytest.mark.parametrize(
    "call", [lambda p: p.go_to(999), lambda p: p.choose("x", "no"), lambda p: p.set_path("PC 99")]
)
def test_what_is_not_there_is_refused(run, call):
    with pytest.raises(InputError):
        call(explore(run))


def test_the_widget_shows_what_was_done_before(run):
    view = explore(run)
    view.choose("y", "z 3")
    view.set_path("PC 1")
    view.select([5, 3])
    view.go_to(7)
    view.set_level(3.0)
    _ = view.widget
    shown = view.controls
    assert shown.y.value == "z 3"
    assert shown.path.value == "PC 1"
    assert shown.particle.value == 7
    assert shown.threshold.value == pytest.approx(3.0)
    assert "<b>2</b>" in shown.count.value
    assert "particle 7" in view.map_fig.layout.title.text
    assert np.allclose(view.cloud_fig.data[1].selectedpoints, [3, 5])
    assert np.allclose(view.volume, run.volume(run.latents[7]), atol=1e-5)
    view.prefetch.wait()


def test_controls_follow_the_methods(run):
    view = explore(run)
    _ = view.widget
    view.choose("colour", "rlnDefocusU")
    view.set_path("PC 1")
    view.go_to(11)
    view.worker.wait()
    assert view.controls.colour.value == "rlnDefocusU"
    assert view.controls.path.value == "PC 1"
    assert view.controls.particle.value == 11
    assert "particle 11" in view.controls.status.value
    view.prefetch.wait()


def test_a_volume_shows_what_was_done_before():
    view = view_volume({"a": ball(), "b": ball(shift=3)}, 2.0, colour=ball(shift=2))
    view.change(0, level=0.4)
    view.change(1, visible=False)
    view.colour_by(None)
    view.look("x")
    view.cut_open("x", 0.0)
    _ = view.widget
    assert view.controls.threshold.value == pytest.approx(view.layers[0].in_unit(0.4, "σ"))
    assert view.controls.colouring.value == "one colour"
    assert view.controls.cutting.value == "x"
    assert view.fig.data[1].visible is False
    assert max(view.fig.data[0].x) < 2.0 + 1e-3, "cut open"
    assert view.fig.layout.scene.camera.eye.x == 2.0


# ------------------------------------------------------------------- names of other people

HOSTILE = "<img src=x onerror=alert(1)>"


def as_html(widget):
    "What widgets show as HTML."
    import ipywidgets

    if isinstance(widget, ipywidgets.HTML):
        yield widget.value
    for child in getattr(widget, "children", ()):
        yield from as_html(child)


def assert_harmless(panel):
    "Plotly shows an unknown tag as text, ipywidgets a description; what is HTML must be escaped."
    texts = list(as_html(panel.widget))
    assert any("&lt;img" in text for text in texts), "the name is not shown at all"
    assert not [text for text in texts if "<img" in text]


@pytest.mark.slow
def test_names_of_files_are_no_html(run):
    view = explore(run)
    _ = view.widget
    view.select([1, 2])
    view.controls.file.value = HOSTILE + ".doc"
    view.controls.save.click()
    assert_harmless(view)
    view.prefetch.wait()


def test_names_of_maps_are_no_html():
    assert_harmless(view_volume({HOSTILE: ball(), "b": ball(shift=2)}, 2.0))


def test_names_of_curves_are_no_html():
    assert_harmless(show_fsc({HOSTILE: (ball(), ball(shift=1))}, pixel_size=2.0))


def test_names_of_columns_are_no_html(run):
    cloud = explore(run, colours={HOSTILE: np.arange(200.0)}).cloud
    assert "<img" not in cloud.title(HOSTILE)
    assert "&lt;img" in cloud.title(HOSTILE)
