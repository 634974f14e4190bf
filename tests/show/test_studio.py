"""The studio as a plain Python object: every method before and after its widgets exist, undo and
sessions give back what was there, and what does not fit is refused."""

import inspect
import json
import shutil

import numpy as np
import pytest

pytest.importorskip("ipywidgets")
pytest.importorskip("anywidget")

from cryoformer_nb import Run, studio
from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.show.explorer import Explorer
from cryoformer_nb.show.session import changes
from cryoformer_nb.show.studio import Studio

pytestmark = pytest.mark.slow


@pytest.fixture
def run(base) -> Run:
    return Run.load(base / "run")


def settled(view) -> bool:
    "Whether nothing is computed any more; a thread must not outlive a test."
    return all(w.wait() for w in (view.worker, view.imaging, view.prefetch, view.measuring))


def steps(view) -> list:
    "One of each kind of change."
    return [
        lambda: view.go_to(7),
        lambda: view.choose("y", "z 3"),
        lambda: view.choose("colour", "rlnDefocusU"),
        lambda: view.select([1, 2, 3]),
        lambda: view.keep_group("three", "#009E73"),
        lambda: view.change_group(0, name="a few", colour="#D55E00"),
        lambda: view.pick(),
        lambda: view.go_to(9),
        lambda: view.pick(),
        lambda: view.set_path("picked points"),
        lambda: view.show_frame(2),
        lambda: view.move_picked(0, 1),
        lambda: view.set_level(3.0),
        lambda: view.set_tint("deviation over the particles"),
        lambda: view.drop_picked(0),
        lambda: view.set_groups([]),
    ]


@pytest.mark.parametrize("displayed", [False, True], ids=["before", "after"])
def test_undo_gives_back_each_state(run, displayed):
    view = studio(run)
    if displayed:
        _ = view.widget
    seen = [view.state()]
    for step in steps(view):
        step()
        assert changes(seen[-1], view.state()), inspect.getsource(step)
        seen.append(view.state())
    for before in reversed(seen[:-1]):
        view.undo()
        assert view.state() == before, changes(view.state(), before)
    view.undo()
    assert view.state() == seen[0], "nothing is before the first"
    for after in seen[1:]:
        view.redo()
        assert view.state() == after, changes(view.state(), after)
    assert view.built == displayed
    assert settled(view)
    if displayed:
        assert view.controls.path.value == view.maps.name
        assert view.panes["redo"].disabled and not view.panes["undo"].disabled


def test_own_methods_are_all_tried_above_or_here(run, tmp_path):
    tried = "".join(inspect.getsource(function) for function in (steps, globals()["tried_here"]))
    own = {n for n, _ in inspect.getmembers(Studio, inspect.isfunction) if not n.startswith("_")}
    own = {n for n in own if getattr(Studio, n) is not getattr(Explorer, n, None)}
    own -= {"undo", "redo", "state", "build", "update", "changed"}
    assert all(f".{name}(" in tried for name in own), own
    tried_here(studio(run), tmp_path)


def tried_here(view, folder):
    assert view.near(3)[0] == view.near(1)[0]
    view.go_to(5)
    view.show_images()
    assert view.images.start == 5
    assert (view.save_path(folder / "film") / "movie.cxc").is_file()
    assert len(view.path_film().frames) == view.maps.n
    assert view.save_film(folder / "path.html") == view.save_film(folder / "path.html"), "again"
    file = view.save_session(folder / "a.json")
    view.go_to(6)
    view.open_session(file)
    assert view.number == 5
    view.put(view.history.past[0])


def test_a_session_is_for_its_run_and_its_file_for_sessions(run, tmp_path):
    view = studio(run)
    for step in steps(view)[:14]:
        step()
    file = view.save_session(tmp_path / "a.json")
    assert studio(run, session=file).state() == view.state()
    notes = tmp_path / "notes.json"
    notes.write_text('{"mine": 1}')
    with pytest.raises(InputError, match="notes.json"):
        view.save_session(notes)
    with pytest.raises(InputError, match="session"):
        view.open_session(notes)
    content = json.loads(file.read_text())
    content["state"]["x"] = "PC 99"
    file.write_text(json.dumps(content))
    before = view.state()
    with pytest.raises(InputError, match="PC 99"):
        view.open_session(file)
    assert view.state() == before, "what cannot be shown changes nothing"


def test_without_its_particles_it_says_so(base, tmp_path):
    shutil.copytree(base / "run", tmp_path / "run")
    shutil.copytree(base / "set", tmp_path / "set")
    run = Run.load(tmp_path / "run")
    run.checkpoint["particles"] |= dict(path=str(tmp_path / "gone.star"), origin=None)
    view = studio(run)
    _ = view.widget
    shown = view.panes["images"].children[0].value
    assert "no images" in shown and "gone.star" in shown
    view.go_to(3)
    view.undo()
    assert settled(view)


def test_names_are_no_html(run):
    view = studio(run)
    view.select([1])
    view.keep_group("<b>x</b>")
    _ = view.widget
    texts = [w.value for w in view.panes["groups"].children[0].children if hasattr(w, "value")]
    assert texts[1] == "<b>x</b>", "in a field, where it is text"
    assert not np.any(["<b>x" in t for t in texts[2:]])
    assert settled(view)
