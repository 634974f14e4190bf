"""A run is lost neither to another run, nor to wrong options, nor to other particles."""

import os
import shutil
import signal
import threading
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch

import cryoformer_nb.training.results as results
import cryoformer_nb.training.train as loop
import cryoformer_nb.training.updates as updates
from cryoformer_nb.command.cli import main
from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.core.files import write_stack
from cryoformer_nb.core.outputs import hold_folder
from cryoformer_nb.particles.particles import load_particles
from cryoformer_nb.training.inference import particle_losses, run_particles
from cryoformer_nb.training.run import Run
from cryoformer_nb.training.steps import Trainer
from cryoformer_nb.training.train import train

SMALL = "--epochs 1 --set batch=16 queries=2 levels=4 hidden=16 encoder_width=32".split()
ON_DISK = [*SMALL[:-4], "memory_gb=0", *SMALL[-4:]]


def tree(folder) -> dict:
    return {
        p.relative_to(folder): p.read_bytes() if p.is_file() else None
        for p in Path(folder).rglob("*")
    }


def refused(capfd, *argv, says=()):
    "Status 2 and one line that holds `says`; returns the line."
    capfd.readouterr()
    status, error = main([str(a) for a in argv]), capfd.readouterr().err
    error = "\n".join(x for x in error.split("\n") if not x.startswith(("\r", "cryoformer: warn")))
    assert status == 2, error
    assert error.startswith("cryoformer: error: ") and error.count("\n") == 1, error
    for word in says:
        assert word in error, f"{word!r} is not in: {error}"
    return error


TRAIN = ["train", "set/particles.star", "--out", "run", "-q"]


@pytest.mark.parametrize(
    "more",
    [
        ["--seed", "-1"],
        ["--set", "latent_dim=0"],
        ["--box", "15"],
        ["--ind", "nowhere.npy"],
        ["--datadir", "nowhere", "--box", "64"],
        ["--half-sets"],
    ],
)
def test_a_run_that_cannot_start_leaves_the_old_one(capfd, work, more):
    blocks = starfile.read("set/particles.star")
    blocks["particles"]["rlnRandomSubset"] = 1
    starfile.write(blocks, "set/particles.star")
    before = tree("run")
    refused(capfd, *TRAIN, *SMALL, "--overwrite", *more)
    assert tree("run") == before


@pytest.mark.parametrize("place", ["statistics", "consensus", "Trainer", "set_clock"])
def test_whatever_stops_a_new_run_leaves_the_old_one(capfd, work, monkeypatch, place):
    "Up to its first checkpoint, and from then on the new run can be continued."

    def broken(*args, **kwargs):
        raise InputError("expected luck, found none")

    before = tree("run")
    if place == "statistics":
        monkeypatch.setattr("cryoformer_nb.particles.particles.Particles.statistics", broken)
    else:
        monkeypatch.setattr(loop, place, broken)
    refused(capfd, *TRAIN, *SMALL, "--overwrite", "--seed", "7", says=["luck"])
    monkeypatch.undo()
    os.chdir(work)
    if place != "set_clock":
        assert tree("run") == before
    else:
        assert Run("run").checkpoint["step"] == 0
        assert Run("run").config.seed == 7
        assert main([*TRAIN, "--epochs", "1", "--resume"]) == 0
    assert sorted(p.name for p in work.iterdir()) == ["run", "set"]


@pytest.mark.parametrize("more", [["--resume"], ["--overwrite"]])
def test_one_process_trains_into_a_folder(capfd, work, more):
    before = tree("run")
    with hold_folder("run"):
        options = ["--epochs", "2"] if more == ["--resume"] else SMALL
        refused(capfd, *TRAIN, *options, *more, says=["run", "another process"])
    assert tree("run") == before


def test_a_second_new_run_says_so(work, monkeypatch):
    "One becomes the run, the other says that it did not."
    real, epochs = loop.consensus, []

    def consensus(*args, **kwargs):
        if epochs:
            train("set/particles.star", "new", epochs=epochs.pop(), progress=False, overwrite=True)
        return real(*args, **kwargs)

    monkeypatch.setattr(loop, "consensus", consensus)
    for overwrite in (False, True):
        epochs.append(2)
        with pytest.raises(InputError, match="new.*meanwhile"):
            train("set/particles.star", "new", epochs=1, progress=False, overwrite=overwrite)
        run = Run("new")
        assert run.checkpoint["step"] == 2 * (len(run.latents) // run.config.batch)


def test_a_marker_is_not_put_into_a_folder_that_is_no_run(capfd, work):
    Path("home").mkdir()
    Path("home/thesis.txt").write_text("years of work")
    line = ["train", "set/particles.star", "--out", "home", "--resume"]
    refused(capfd, *line, says=["home", "checkpoint.pt"])
    assert [p.name for p in Path("home").iterdir()] == ["thesis.txt"]


def edit(change):
    blocks = starfile.read("set/particles.star")
    blocks["particles"] = change(blocks["particles"])
    starfile.write(blocks, "set/particles.star")


def restack(change):
    with mrcfile.open("set/particles.mrcs") as mrc:
        images = mrc.data.copy()
    os.remove("set/particles.mrcs")
    write_stack("set/particles.mrcs", change(images), 7.0)


@pytest.mark.parametrize(
    "change, more, word",
    [
        (lambda: edit(lambda rows: rows[::-1]), [], "order"),
        (lambda: edit(lambda rows: rows.assign(rlnAngleRot=rows.rlnAngleRot + 1)), [], "poses"),
        (lambda: edit(lambda rows: rows.assign(rlnDefocusU=rows.rlnDefocusU + 1)), [], "CTF"),
        (lambda: restack(lambda images: images[::-1]), [], "grey values"),
        (lambda: None, ["--pixel-size", "1.0"], "1 A"),
        (lambda: np.save("some.npy", np.arange(60)), ["--ind", "some.npy"], "60"),
        (lambda: np.save("some.npy", np.arange(120)[::-1]), ["--ind", "some.npy"], "order"),
        (lambda: None, ["--invert"], "contrast"),
        (lambda: None, ["--box", "8"], "box 8"),
    ],
)
def test_resume_compares_what_it_continues(capfd, work, change, more, word):
    change()
    before = tree("run")
    refused(capfd, *TRAIN, "--resume", "--epochs", "2", *more, says=["--resume", word])
    assert tree("run") == before


def test_resume_finds_the_same_set_elsewhere(work):
    os.rename("set", "moved")
    os.mkdir("stars")
    os.rename("moved/particles.star", "stars/same.star")
    line = ["train", "stars/same.star", "--datadir", "moved", "--out", "run", "--resume"]
    assert main([*line, "--epochs", "2"]) == 0


def test_older_checkpoints_are_looked_at_but_not_resumed(capfd, work):
    "They know less of their particles, no contrast, and saw images with offset and scale."
    state = torch.load("run/checkpoint.pt", weights_only=True)
    kept = ("path", "count", "box", "pixel_size")
    state["particles"] = {name: state["particles"][name] for name in kept}
    del state["contrast"], state["evidence"], state["config"]["contrast"]
    settings = Path("run/config.yaml").read_text().replace("contrast: true\n", "")
    Path("run/config.yaml").write_text(settings)
    torch.save(state, "run/checkpoint.pt")
    run = Run("run")
    assert np.isfinite(run.volume(run.latents[0])).all() and (run.contrast == 1).all()
    refused(capfd, *TRAIN, "--resume", "--epochs", "2", says=["--resume", "earlier version"])


#: Functions in which a signal comes, and where they are looked up.
PLACES = dict(advance=Trainer, latents=results, snapshot=updates, update_support=loop)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("place", PLACES)
def test_a_signal_leaves_a_checkpoint_and_the_truth(capfd, work, monkeypatch, number, place):
    "In a step, while results are written: what the message says continues to the same end."
    line = ["train", "set/particles.star", "--out", "new", "-q", *SMALL, "--poses", "table"]
    assert main([*line[:3], "whole", *line[4:]]) == 0
    real, calls = getattr(PLACES[place], place), []

    def sent(*args):
        calls.append(place)
        if len(calls) == (1 if place != "advance" else 4):
            signal.raise_signal(number)
        return real(*args)

    monkeypatch.setattr(PLACES[place], place, sent)
    capfd.readouterr()
    assert main(line) == 128 + number
    monkeypatch.undo()
    os.chdir(work)
    said = capfd.readouterr().err.strip().split("\n")[-1]
    again = "cryoformer train set/particles.star --out new --epochs 1.0 --quiet --resume"
    assert said == f"cryoformer: interrupted; '{again}' continues"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert main(again.split()[1:]) == 0
    for name in ("latents.npy", "mean.mrc"):
        assert Path("new", name).read_bytes() == Path("whole", name).read_bytes()
    ends = [Run(p).checkpoint for p in ("new", "whole")]
    assert all(torch.equal(a, ends[1]["model"][k]) for k, a in ends[0]["model"].items())
    stages = [[(s["stage"], s["step"]) for s in end["snapshots"]] for end in ends]
    assert stages[0] == stages[1]


def test_a_signal_before_training_says_that_nothing_is_there(capfd, work, monkeypatch):
    def sent(*args, **kwargs):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(loop, "consensus", sent)
    before = tree(work)
    assert main([*TRAIN, *SMALL, "--overwrite"]) == 143
    assert "nothing to continue" in capfd.readouterr().err
    assert tree(work) == before


def test_a_second_signal_waits_for_the_checkpoint(capfd, work, monkeypatch):
    real = Trainer.save

    def impatient(self, path):
        signal.raise_signal(signal.SIGINT)
        real(self, path)
        signal.raise_signal(signal.SIGTERM)

    def sent(*args):
        monkeypatch.setattr(Trainer, "save", impatient)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(results, "latents", sent)
    assert main(["train", "set/particles.star", "--out", "new", *SMALL]) == 130
    assert "--resume' continues" in capfd.readouterr().err
    assert Run("new").checkpoint["step"] == 7


def test_a_diverged_run_keeps_its_last_good_checkpoint(capfd, work, monkeypatch):
    def diverge(self, *args):
        self.model.base.data.fill_(float("nan"))
        raise InputError("expected a finite loss, found nan")

    monkeypatch.setattr(Trainer, "record", diverge)
    monkeypatch.setattr(Trainer, "is_finite", Trainer.is_finite)
    line = ["train", "set/particles.star", "--out", "new", "-q", *SMALL]
    refused(capfd, *line[:-6], "--set", *line[-5:], "--epochs", "9", says=["finite loss"])
    assert all(value.isfinite().all() for value in Run("new").checkpoint["model"].values())


def test_a_folder_that_is_removed_under_a_run(work):
    "Said at the next line of the history, and nothing is written into what took its place."

    def remove(trainer):
        shutil.rmtree("new")
        Path("new").mkdir()

    with pytest.raises(InputError, match="new.*removed or replaced"):
        train("set/particles.star", "new", epochs=9, progress=False, callback=remove)
    assert not list(Path("new").iterdir())


@pytest.mark.parametrize("harm", ["truncated", "removed", "rewritten"])
def test_a_stack_that_shrinks_under_a_run(capfd, work, monkeypatch, harm):
    "An ordinary error, not a signal that kills the process, and what was trained is kept."
    real = loop.fit

    def fit(*args, **kwargs):
        if harm == "truncated":
            os.truncate("set/particles.mrcs", 5000)
        elif harm == "rewritten":
            Path("set/particles.mrcs").write_bytes(b"years of work")
        else:
            Path("set/particles.mrcs").unlink()
            monkeypatch.setattr("cryoformer_nb.particles.stacks.Stacks.limit", 0)
        return real(*args, **kwargs)

    monkeypatch.setattr(loop, "fit", fit)
    line = ["train", "set/particles.star", "--out", "new", "-q", *ON_DISK]
    if harm == "removed":  # an open file can be read to its end
        assert main(line) in (0, 2)
    else:
        refused(capfd, *line, says=["particles.mrcs", "truncated"])
        assert Run("new").checkpoint["step"] == 0


def test_particles_of_a_run_are_found_from_anywhere(work, monkeypatch):
    "By absolute paths; where they have moved, by the folder they are in now."
    os.mkdir("images")
    os.mkdir("elsewhere")
    os.rename("set/particles.mrcs", "images/particles.mrcs")
    np.save("some.npy", np.arange(100, 20, -1))
    options = ["--datadir", "images", "--ind", "some.npy", "--box", "12", "--no-invert"]
    options += ["--set", "base_resolution=4"]
    assert main(["train", "set/particles.star", "--out", "new", *SMALL, *options]) == 0
    expected = particle_losses(Run("new"))
    monkeypatch.chdir("elsewhere")
    run = Run.load("../new")
    assert np.array_equal(particle_losses(run), expected)
    assert len(run_particles(run)) == 80
    os.rename("../images", "../pictures")
    with pytest.raises(InputError, match="particles.mrcs.*datadir="):
        run_particles(Run("../new"))
    moved = Run.load("../new", datadir="../pictures")
    assert np.array_equal(particle_losses(moved), expected)
    os.rename("../set/particles.star", "../pictures/particles.star")
    assert np.array_equal(particle_losses(Run.load("../new", datadir="../pictures")), expected)
    os.remove("../pictures/particles.star")
    with pytest.raises(InputError, match="particles.star.*datadir="):
        run_particles(Run("../new"))


def test_half_sets_are_found_too(work):
    assert main([*TRAIN, *SMALL, "--half-sets", "--overwrite"]) == 0
    half = Run("run/half2")
    assert len(run_particles(half)) == len(half.latents) == 60


def test_other_threads_train_too(work):
    "Signals are for the main thread; a run in another one leaves them alone."
    found = []
    thread = threading.Thread(
        target=lambda: found.append(train("set/particles.star", "new", epochs=1, progress=False))
    )
    thread.start()
    thread.join()
    assert len(found[0].latents) == 120


def test_particles_loaded_twice_have_one_fingerprint(work):
    from cryoformer_nb.particles.identity import fingerprint

    a, b = (load_particles("set/particles.star") for _ in range(2))
    assert fingerprint(a) == fingerprint(b)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_signal_on_the_way_out_does_not_deny_the_run(capfd, work, monkeypatch, overwrite):
    "Measured before: 'training had not begun', beside a run that was complete."
    real = loop.train_one

    def late(*args, **kwargs):
        real(*args, **kwargs)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(loop, "train_one", late)
    out = ["--out", "run", "--overwrite"] if overwrite else ["--out", "new"]
    assert main(["train", "set/particles.star", *out, *SMALL]) == 143
    assert "--resume' continues" in capfd.readouterr().err
