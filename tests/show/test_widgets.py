"""Panels without a browser (tests/browser has one): their controls are driven from Python."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("ipywidgets")
pytest.importorskip("anywidget")

import cryoformer_nb
from cryoformer_nb import (
    Run,
    explore,
    load_particles,
    show_fsc,
    show_particles,
    show_training,
    simulate,
    train,
    view_volume,
)
from cryoformer_nb.command.cli import main
from cryoformer_nb.core.files import read_map, write_map
from cryoformer_nb.model.config import Config

PLOTLY, WIDGET = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A simulated set and a short run."
    root = tmp_path_factory.mktemp("widgets")
    star = simulate(root / "set", "arm", n=300, box=32, snr=0.3, seed=2)
    train(
        star, root / "run", epochs=2, config=Config(levels=4, batch=16, queries=2), progress=False
    )
    return root


def walk(widget):
    "A widget and all below it."
    yield widget
    for child in getattr(widget, "children", ()):
        yield from walk(child)


def classes(panel) -> set:
    return {
        c for w in walk(panel.widget) for c in getattr(w, "_dom_classes", ()) if c.startswith("cf-")
    }


def stored(panel) -> int:
    return len(json.dumps(panel._repr_mimebundle_()[PLOTLY]))


@pytest.mark.slow
def test_a_selection_becomes_a_star_file_that_can_be_trained_on(folder, monkeypatch):
    monkeypatch.chdir(folder)
    view = explore(folder / "run", truth=folder / "set" / "truth")
    _ = view.widget
    c, x = view.controls, view.plane[:, 0]
    middle = float(np.median(x))
    view.hear(dict(what="selected", xs=[middle, 1e3, 1e3, middle], ys=[-1e3, -1e3, 1e3, 1e3]))
    c.file.value = "set/half.star"
    c.save.click()
    chosen = np.flatnonzero(x > middle)
    assert f"<b>{len(chosen)}</b> of 300" in c.count.value
    assert "saved" in c.status.value
    whole = load_particles(folder / "set" / "particles.star")
    half = load_particles(folder / "set" / "half.star")
    names = whole.table["rlnImageName"].iloc[chosen]
    assert list(half.table["rlnImageName"]) == list(names)
    assert np.allclose(half.rotations, whole.rotations[chosen], atol=1e-5)
    assert np.array_equal(half.images([0, 1]), whole.images(chosen[:2]))
    assert half.pixel_size == whole.pixel_size
    for name in ("ind.npy", "ind.txt", "ind.pkl"):
        c.file.value = name
        c.save.click()
        assert (folder / name).exists()
    assert np.array_equal(np.load(folder / "ind.npy"), chosen)
    assert np.array_equal(np.loadtxt(folder / "ind.txt"), chosen)
    c.clear.click()
    c.save.click()
    assert "expected at least one particle" in c.status.value
    assert c.count.value.startswith("<b>0</b>")


@pytest.mark.slow
def test_what_is_clicked_is_what_is_shown(folder, monkeypatch):
    monkeypatch.chdir(folder)
    run = Run(folder / "run")
    view = explore(run)
    _ = view.widget
    view.hear(dict(what="click", trace=1, point=17, x=0.0, y=0.0))
    assert view.worker.wait()
    assert view.controls.particle.value == 17
    assert np.allclose(view.volume, run.volume(run.latents[17]), atol=1e-5)
    view.controls.save_map.click()
    assert "map saved" in view.message
    volume, pixel_size = read_map(folder / "particle_17.mrc")
    assert np.allclose(volume, view.volume, atol=1e-6)
    assert pixel_size == pytest.approx(run.pixel_size)
    for k in (1, 4, 10):
        view.controls.frame.value = k
        assert view.worker.wait()
        assert np.allclose(view.volume, run.volume(view.path[k - 1]), atol=1e-5)
    view.prefetch.wait()


def test_every_panel_has_classes_and_a_small_static_form(folder):
    run = Run(folder / "run")
    maps = run.volumes(run.latents[:2])
    panels = {
        view_volume(dict(a=maps[0], b=maps[1]), run.pixel_size, colour=maps[1]): {
            "cf-view-volume",
            "cf-threshold",
            "cf-unit",
            "cf-map",
            "cf-visible",
            "cf-opacity",
            "cf-colour",
            "cf-cut",
            "cf-cut-at",
            "cf-view-home",
            "cf-info",
        },
        explore(run): {
            "cf-explore",
            "cf-plane",
            "cf-map3d",
            "cf-x",
            "cf-y",
            "cf-colour",
            "cf-mode",
            "cf-particle",
            "cf-threshold",
            "cf-nearest",
            "cf-nearest-n",
            "cf-clear",
            "cf-save",
            "cf-file",
            "cf-count",
            "cf-path",
            "cf-pick",
            "cf-forget",
            "cf-play",
            "cf-frame",
            "cf-save-map",
            "cf-status",
        },
        show_training(run): {"cf-training", "cf-info", "cf-refresh"},
        show_fsc(maps[0], maps[1], pixel_size=3.0): {
            "cf-fsc",
            "cf-threshold",
            "cf-curve",
            "cf-table",
        },
        show_particles(run=run): {
            "cf-particles",
            "cf-particle",
            "cf-prev",
            "cf-next",
            "cf-lowpass",
        },
    }
    for panel, expected in panels.items():
        assert expected | {"cf-panel"} <= classes(panel), (
            type(panel).__name__,
            expected - classes(panel),
        )
        assert stored(panel) < 200_000, type(panel).__name__
        layout = panel.static().to_plotly_json()["layout"]
        axes = {
            n: v
            for n, v in (layout | layout.get("scene", {})).items()
            if n[1:5] == "axis" and isinstance(v, dict) and v.get("visible") is not False
        }
        for name, axis in axes.items():
            assert axis.get("title", {}).get("text"), (
                f"{type(panel).__name__}: {name} says neither what it is nor its unit"
            )
    assert not {
        n
        for n in ("view_volume", "explore", "show_training", "show_fsc", "show_particles")
        if n not in cryoformer_nb.__all__
    }


@pytest.mark.slow
def test_a_kernel_gets_widgets_and_stores_a_figure(folder, monkeypatch):
    "In a kernel a panel offers both forms, with CRYOFORMER_WIDGETS=static only its figure."
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    write_map(
        folder / "a.mrc", Run(folder / "run").volumes(Run(folder / "run").latents[:1])[0], 3.0
    )
    for setting, mimes in (("", {PLOTLY, WIDGET}), ("static", {PLOTLY})):
        monkeypatch.setenv("CRYOFORMER_WIDGETS", setting)
        nb = nbformat.v4.new_notebook(
            cells=[
                nbformat.v4.new_code_cell(
                    f"from cryoformer_nb import view_volume\nview_volume({str(folder / 'a.mrc')!r})"
                )
            ]
        )
        nbclient.NotebookClient(nb, timeout=120, store_widget_state=False).execute()
        (output,) = nb.cells[0].outputs
        assert (
            mimes <= set(output.data)
            and (WIDGET in output.data) == (WIDGET in mimes)
            and len(json.dumps(nb)) < 200_000
        )
        nbformat.write(nb, folder / f"nb{setting}.ipynb")
        assert main(["page", str(folder / f"nb{setting}.ipynb")]) == 0
        page = (folder / f"nb{setting}.html").read_text(encoding="utf-8")
        assert (
            "Plotly.newPlot" in page
            and "model_id" not in page
            and "cdn" not in page.split("</script>")[-1]
        )


def test_particle_view_finds_the_junk(folder):
    "The correlation with the reprojection tells particles from images of another particle."
    from cryoformer_nb.show.particles import correlation, reproject

    run = Run(folder / "run")
    particles = load_particles(folder / "set" / "particles.star")
    rows = np.arange(60)
    own = correlation(particles.images(rows), reproject(run, particles, rows))
    other = correlation(particles.images(rows), reproject(run, particles, np.roll(rows, 7)))
    assert own.mean() > other.mean() + 0.05


@pytest.mark.slow
def test_hundred_thousand_particles(folder):
    run, rng = Run(folder / "run"), np.random.default_rng(0)
    many = SimpleNamespace(
        latents=rng.normal(size=(120_000, 3)),
        volumes=lambda z: run.volumes(np.repeat(run.latents[:1], len(z), 0)),
        pixel_size=3.0,
        path=None,
        model=None,
    )
    view = explore(many, colours=dict(mine=rng.normal(size=120_000)))
    _ = view.widget
    assert len(view.cloud_fig.data[1].x) <= 10_000
    assert stored(view) < 200_000
    view.hear(dict(what="selected", xrange=[-1, 1], yrange=[-1, 1]))
    within = (np.abs(view.plane) < 1).all(1)
    assert np.array_equal(view.selected, np.flatnonzero(within))
    assert len(view.selected) > 40_000
    view.prefetch.wait()
