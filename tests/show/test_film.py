"""A film is what was asked for: so many frames of that size, which move and end where they began;
whatever is wrong is one line, and nothing is left of it."""

import resource
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import cryoformer_nb.show.film as show_film
from cryoformer_nb import InputError, film
from cryoformer_nb.command.cli import main
from cryoformer_nb.imaging.density import gaussian_volume

needs_extra = pytest.mark.skipif(
    not (find_spec("vtk") and find_spec("imageio_ffmpeg")),
    reason="the extra of films is not installed: pip install -c constraints.txt -e '.[film]'",
)
SMALL = dict(seconds=0.5, fps=16, size=96, progress=False)


class Swing:
    "What a film asks of a run, of a ball whose arm stands at the angle that the latent says."

    pixel_size, model = 6.0, None
    latents = np.random.default_rng(0).uniform(0, np.pi / 2, (200, 1))

    def volume(self, z) -> np.ndarray:
        arm = np.linspace(10, 36, 5)[:, None] * [np.cos(z[0]), np.sin(z[0]), 0]
        centres = torch.tensor(np.concatenate([np.zeros((1, 3)), arm]) - [10, 10, 0]).float()
        weights = torch.tensor([3.0, *np.ones(5)]).float()
        return gaussian_volume(centres, weights, 6.0, 16, self.pixel_size).numpy()

    def volumes(self, zs) -> np.ndarray:
        return np.stack([self.volume(z) for z in zs])


@pytest.fixture(scope="module")
def run() -> Swing:
    return Swing()


def frames_of(path) -> tuple[dict, np.ndarray]:
    "What a film says of itself, and its frames (n, y, x, 3)."
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(path))
    about = next(reader)
    shape = (*about["size"][::-1], 3)
    return about, np.stack([np.frombuffer(f, np.uint8).reshape(shape) for f in reader]).astype(int)


def apart(a, b) -> float:
    "How different two frames are."
    return float(np.abs(a - b).mean())


@needs_extra
@pytest.mark.slow
@pytest.mark.parametrize("turn", [0, 40, 360])
def test_a_film_moves_and_ends_where_it_began(run, tmp_path, turn):
    out = film(run, tmp_path / "film.mp4", turn=turn, **SMALL)
    about, frames = frames_of(out)
    assert about["fps"] == 16 and about["size"] == (96, 96) and len(frames) == 8
    steps = [apart(frames[k], frames[k - 1]) for k in range(8)]  # the first: from the last
    assert min(steps[1:]) > 0.1, "each frame shows something else"
    assert steps[0] < 1.5 * max(steps[1:]), "the last leads back to the first"
    back = max(apart(frames[k], frames[8 - k]) for k in (1, 2, 3))
    same = back < 0.1 * apart(frames[0], frames[4])
    assert same == (turn == 0), "the way back shows the same, unless the molecule turns"
    assert (frames[:, :8, :8] > 245).all(), "white paper"
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]


@needs_extra
@pytest.mark.slow
def test_a_still_is_the_first_frame(run, tmp_path):
    from PIL import Image

    out = film(run, tmp_path / "film.png", colour="plain", **SMALL)
    still = Image.open(out)
    assert still.size == (96, 96) and round(still.info["dpi"][0]) == 300
    moving = film(run, tmp_path / "film.mp4", colour="plain", **SMALL)
    assert apart(frames_of(moving)[1][0], np.asarray(still).astype(int)) < 3
    coloured = film(run, tmp_path / "coloured.png", **SMALL)
    assert apart(np.asarray(Image.open(coloured)).astype(int), np.asarray(still)) > 1


@needs_extra
def test_a_film_of_an_unproven_motion_says_so(tmp_path):
    from PIL import Image

    rest = Swing()
    tops = []
    for moving in (True, False):
        rest.verdict = SimpleNamespace(moving=moving)
        out = film(rest, tmp_path / f"{moving}.png", colour="plain", **SMALL)
        tops.append(np.asarray(Image.open(out))[:8].min())
    assert tops[0] == 255 and tops[1] < 150


def refused(capfd, work, *argv, says: str) -> None:
    "Status 2, one line with these words, and nothing new."
    before = sorted(work.rglob("*"))
    assert main(["film", *argv]) == 2
    error = capfd.readouterr().err.splitlines()
    assert len(error) == 1 and says in error[0], error
    assert sorted(work.rglob("*")) == before


@pytest.mark.parametrize(
    "words, says",
    [
        ("nothing --out a.mp4", "nothing"),
        ("RUN --out a.gif", "found '.gif'"),
        ("RUN --out a", "found 'no ending'"),
        ("RUN --out taken.mp4", "taken.mp4"),
        ("RUN --out folder.mp4", "folder.mp4"),
        ("RUN --out a.mp4 --size 1081", "1081"),
        ("RUN --out a.mp4 --size 10", "10"),
        ("RUN --out a.mp4 --fps 1000", "1000"),
        ("RUN --out a.mp4 --seconds 0.01", "0.01"),
        ("RUN --out a.mp4 --seconds 1e12", "1e+12"),
        ("RUN --out a.mp4 --seconds -1", "-1"),
        ("RUN --out a.mp4 --turn nan", "nan"),
        ("RUN --out a.mp4 --colour red", "red"),
        ("RUN --out a.mp4 --pc 99", "99"),
        ("RUN --out a.mp4 --latents no.npy", "no.npy"),
    ],
)
def test_what_is_wrong_is_one_line(capfd, base, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.mp4").write_text("years of work")
    (tmp_path / "folder.mp4").mkdir()
    argv = [str(base / "run") if word == "RUN" else word for word in words.split()]
    refused(capfd, tmp_path, *argv, says=says)
    assert (tmp_path / "taken.mp4").read_text() == "years of work"


@pytest.mark.parametrize("module", ["vtk", "imageio_ffmpeg"])
def test_without_the_extra_one_line_says_what_to_install(
    capfd, base, tmp_path, monkeypatch, module
):
    if module != "vtk":
        monkeypatch.setattr(show_film, "drawing", lambda: None)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    says = "pip install vtk imageio-ffmpeg"
    refused(capfd, tmp_path, str(base / "run"), "--out", "a.mp4", says=says)


@needs_extra
@pytest.mark.parametrize("level", ["1e9", "nan"])
def test_a_level_that_no_map_reaches_is_refused(capfd, base, tmp_path, monkeypatch, level):
    monkeypatch.chdir(tmp_path)
    refused(capfd, tmp_path, str(base / "run"), "--out", "a.mp4", "--level", level, says=level[:2])


@needs_extra
def test_an_interrupt_leaves_nothing(run, tmp_path, monkeypatch):
    drawn, calls = show_film.film_surface, []

    def stopped(*given):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return drawn(*given)

    monkeypatch.setattr(show_film, "film_surface", stopped)
    with pytest.raises(KeyboardInterrupt):
        film(run, tmp_path / "film.mp4", **SMALL)
    assert len(calls) == 3 and not list(tmp_path.iterdir())


@needs_extra
def test_a_full_disk_leaves_nothing(run, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))  # ffmpeg inherits it
    try:
        with pytest.raises(InputError, match="film.mp4: expected to write here, found 'ffmpeg"):
            film(run, tmp_path / "film.mp4", **SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
