"""The views of a training, of FSC curves, particles and poses as plain Python objects: each public
method works before the widgets exist and after, and the widgets show what the methods have made."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("ipywidgets")
pytest.importorskip("anywidget")

from cryoformer_nb import (
    Run,
    fsc,
    show_fsc,
    show_particles,
    show_poses,
    show_training,
    simulate,
    train,
)
from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.core.files import write_map
from cryoformer_nb.core.rotations import random_rotations, rotvec_to_matrix
from cryoformer_nb.model.config import Config
from cryoformer_nb.show.panels import LiveFigure, Panel


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    root = tmp_path_factory.mktemp("views")
    star = simulate(root / "set", "arm", n=200, box=32, snr=0.3, seed=2)
    config = Config(levels=4, batch=16, queries=2)
    return train(star, root / "run", epochs=3, config=config, progress=False)


def refined() -> SimpleNamespace:
    "A stand-in for a run that refined its poses: each stage halves the error."
    g = torch.Generator().manual_seed(0)
    R, t = random_rotations(50, g), torch.randn(50, 2, generator=g)
    turn, move = 0.3 * torch.randn(50, 3, generator=g), torch.randn(50, 2, generator=g)
    snapshots = [
        dict(stage=stage, rotations=rotvec_to_matrix(turn / 2**k) @ R, shifts_px=t + move / 2**k)
        for k, stage in enumerate(["given", "align", "refine", "end"])
    ]
    return SimpleNamespace(pose_snapshots=snapshots, poses=(R, t))


class Trainer:
    "What a training view asks of a trainer."

    def __init__(self, run):
        self.model = run.model
        self.particles = range(len(run.latents))
        self.history = run.history.to_dict("records")
        self.latents = torch.as_tensor(run.latents)
        self.model.encode = lambda rows: self.latents[rows]

    def batch(self, rows):
        return (rows,)


CURVES = {"sharp": np.linspace(1, 0.2, 17), "soft": np.linspace(1, 0, 17)}


def is_widget(value) -> bool:
    "A widget, a figure on the page, or a list of them."
    from ipywidgets import Widget

    kinds = (Widget, LiveFigure)
    if isinstance(value, list):
        return all(isinstance(item, kinds) for item in value)
    return isinstance(value, kinds)


def views(run) -> dict:
    "name -> (a fresh view, name of each of its public methods -> arguments)."
    look = (Trainer(Run(run.path)),)
    training = dict(text=(), refresh=(), draw=(), look=look)
    fsc = dict(resolutions=(), words=("soft",), table=())
    fsc |= dict(set_threshold=(0.5,), set_visible=("soft", False))
    particles = dict(pictures=(), move_to=(7,), move=(3,), set_resolution=(30.0,), show=([5, 2],))
    return {
        "training": (show_training(run), training),
        "a training to come": (show_training(), training),
        "fsc": (show_fsc(CURVES, pixel_size=1.5), fsc),
        "particles": (show_particles(run=run), particles),
        "poses": (show_poses(refined()), dict(show=(1,))),
    }


TRAINED = [pytest.param(name, marks=pytest.mark.slow) for name in ("training", "particles")]


@pytest.mark.parametrize("name", ["a training to come", "fsc", "poses", *TRAINED])
def test_every_public_method_works_before_and_after_display(name, run, tmp_path):
    view, calls = views(run)[name]
    calls = calls | dict(static=(), stored=(), keep=(), changed=())
    calls |= dict(save_html=(tmp_path / "view.html",))
    public = {method for method in dir(type(view)) if not method.startswith("_")}
    known = {"widget", "built", "build", "update", "kept", "start"}
    assert public - known == set(calls), "a method without a call"
    for method, arguments in calls.items():
        getattr(view, method)(*arguments)
    assert not view.built, "no method makes widgets"
    before = set(vars(view))
    assert view.widget is not None
    for method, arguments in calls.items():
        getattr(view, method)(*arguments)
    view._repr_mimebundle_()
    later = {name for name in set(vars(view)) - before if not is_widget(getattr(view, name))}
    assert not later, "state that only display makes"


def test_fsc_view_begins_with_its_state():
    view = show_fsc(CURVES, pixel_size=1.5)
    view.set_threshold(0.5)
    view.set_visible("soft", False)
    assert "soft" not in view.table()
    assert view.widget is not None
    assert view.levels.value == 0.5
    assert [box.value for box in view.boxes] == [True, False]
    assert "soft" not in view.resolution_table.value
    view.set_visible("soft", True)
    assert view.boxes[1].value
    assert "soft" in view.resolution_table.value


def test_fsc_view_keeps_a_threshold_of_ones_own():
    view = show_fsc(CURVES, pixel_size=1.5, threshold=0.3)
    assert view.widget is not None
    view.set_visible("soft", False)
    assert view.threshold == 0.3
    view.levels.value = 0.143
    assert view.threshold == 0.143


def test_particle_view_begins_with_its_state(run):
    view = show_particles(run=run, count=2)
    view.move_to(1000)
    assert view.start == 198, "the last that fill the rows"
    view.set_resolution(30.0)
    assert view.widget is not None
    assert view.first.value == 198
    assert view.filter.value == 30
    view.move(-8)
    assert view.first.value == 190
    assert view.fig.layout.annotations[0].text == "particle 190"


def test_pose_view_begins_with_its_state():
    view = show_poses(refined())
    assert view.stage == 3, "the last stage"
    view.show(1)
    assert view.static().layout.sliders[0].active == 1
    assert np.isclose(view.static().data[2].y[0], np.median(view.history.angles[1]))
    assert view.widget is not None
    assert view.slider.value == 1
    assert view.canvas.data[2].x[0] == 1


def test_training_view_follows_a_trainer_undisplayed(run):
    view = show_training()
    trainer = Trainer(Run(run.path))
    view(trainer)
    assert len(view.history) == len(trainer.history)
    assert view.sections.shape == (3, 32, 32)
    assert view.widget is not None
    assert view.info.value == view.text()


def test_training_view_is_refreshed_after_display(run):
    view = show_training(run)
    assert view.widget is not None
    view.history = view.history[:1]
    view.refresh()
    assert len(view.fig.data[0].y) == len(run.history)


def test_a_run_without_recorded_steps_is_waited_for():
    view = show_training(SimpleNamespace(history=pd.DataFrame(), mean=np.ones((8, 8, 8))))
    assert view.text().startswith("waiting")
    assert view.sections.shape == (3, 8, 8)


def test_half_maps_are_those_of_the_run(run):
    with pytest.raises(InputError, match="half1.mrc and half2.mrc"):
        show_fsc(run)
    with pytest.raises(InputError, match="half1.mrc and half2.mrc"):
        show_fsc(run.path)


def test_half_maps_need_no_more_than_a_folder(tmp_path):
    maps = np.random.default_rng(0).normal(size=(2, 16, 16, 16)).astype(np.float32)
    for number, volume in enumerate(maps, 1):
        write_map(tmp_path / f"half{number}.mrc", volume, 2.0)
    view = show_fsc(tmp_path)
    assert view.pixel_size == 2.0
    np.testing.assert_allclose(view.curves["no mask"], fsc(*maps, 2.0).value, atol=1e-6)


def test_resolutions_are_in_angstrom_only_where_a_file_or_the_user_says_so(tmp_path):
    "Either file has the pixel size; without any there are pixels, with two there is an error."
    a, b = np.random.default_rng(0).normal(size=(2, 16, 16, 16)).astype(np.float32)
    files = [tmp_path / "fine.mrc", tmp_path / "coarse.mrc"]
    for file, pixel_size in zip(files, (1.5, 2.0)):
        write_map(file, b, pixel_size)
    for pair in ((a, files[0]), (files[0], a), (files[0], files[0])):
        assert show_fsc(*pair).pixel_size == 1.5
    assert show_fsc({"arrays": (a, b), "a file": (a, files[0])}).pixel_size == 1.5
    assert show_fsc(a, files[0], pixel_size=3.0).pixel_size == 3.0
    view = show_fsc(a, a)
    assert view.pixel_size is None and view.resolutions() == {"no mask": 2.0}
    assert "beyond 2.00 pixels" in view.table() and "weight:700" not in view.table()
    assert view.static().layout.xaxis.title.text == "resolution (pixels)"
    with pytest.raises(InputError, match="found 1.5 A and 2 A"):
        show_fsc(*files)
    with pytest.raises(InputError, match="all curves.*found 1.5 A and 2 A"):
        show_fsc({"one": (a, files[0]), "two": (a, files[1])})


def test_a_curve_below_the_threshold_has_no_resolution():
    view = show_fsc({"noise": np.full(17, 0.1), "map": np.linspace(1, 0, 17)}, pixel_size=1.5)
    assert np.isinf(view.resolutions()["noise"]) and "none, it starts below" in view.table()
    assert "weight:700" in view.table()


def test_a_panel_without_widgets_is_the_base_of_all():
    for view in (show_training(), show_fsc(CURVES), show_poses(refined())):
        assert isinstance(view, Panel)
        assert not view.built
