"""The notebook that `cryoformer lab` makes: it runs without an error, and stays its user's."""

import json
import os
import shutil

import nbformat
import pytest

from cryoformer_nb.command.cli import main
from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.show.lab import made_for, write_lab


@pytest.fixture
def work(tmp_path, base, monkeypatch):
    "A folder with a set and a run, to stand in."
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base / "set", "set")
    shutil.copytree(base / "run", "runs/a.b")
    return tmp_path


def codes(path) -> list:
    cells = json.loads(path.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def refused(capfd, *argv, says) -> None:
    assert main(["lab", *argv]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and all(word in said for word in says), said


@pytest.mark.slow
def test_the_notebook_of_a_run_runs_without_an_error(work, monkeypatch):
    client = pytest.importorskip("nbclient")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(["lab", "runs/a.b", "--write"]) == 0
    path = work / "runs" / "a.b.ipynb"
    nb = nbformat.read(path, 4)
    nbformat.validate(nb)
    client.NotebookClient(nb, timeout=300, resources=dict(metadata=dict(path="runs"))).execute()
    shown = json.dumps(nb)
    for part in ("cf-studio", "cf-particles", "cf-training", "cf-view-volume"):
        assert part in shown, f"{part} is on the page"
    assert (work / "runs" / "a.b_maps" / "movie.cxc").is_file()
    assert (work / "runs" / "a.b_report.html").is_file()


@pytest.mark.slow
def test_the_notebook_of_particles_trains_once(work, monkeypatch):
    monkeypatch.chdir("set")
    path = write_lab("particles.star", minutes=0.02, box=16, invert=None)
    assert path.name == "particles.ipynb"
    assert "load_particles('particles.star', box=16)" in "".join(codes(path))
    trained = []
    for _ in range(2):
        space = {}
        for code in codes(path):
            exec(code, space)
        trained.append(os.stat("particles_run/checkpoint.pt").st_mtime_ns)
    assert trained[0] == trained[1], "trained once"


def test_what_a_user_has_written_stays(work, capfd):
    assert main(["lab", "runs/a.b", "--write"]) == 0
    path = work / "runs" / "a.b.ipynb"
    path.write_text(path.read_text().replace("## The run", "## My notes"))
    assert main(["lab", "runs/a.b", "--write"]) == 0
    assert "My notes" in path.read_text()
    assert main(["lab", "runs/a.b", "--write", "--overwrite"]) == 0
    assert "My notes" not in path.read_text()
    path.write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    refused(capfd, "runs/a.b", "--write", says=["a.b.ipynb", "--overwrite"])
    assert main(["lab", "set/particles.star", "--write", "--out", "mine.ipynb"]) == 0
    refused(capfd, "runs/a.b", "--write", "--out", "mine.ipynb", says=["mine.ipynb", "--overwrite"])
    assert made_for("mine.ipynb") == "set/particles.star"


@pytest.mark.parametrize(
    "argv, says",
    [
        (["nowhere", "--write"], ["nowhere", "expected"]),
        (["runs/a.b", "--write", "--out", "page.html"], [".ipynb"]),
        (["runs/a.b", "--write", "--box", "32"], ["box", "leave"]),
        (["set/particles.star", "--write", "--box", "33"], ["box"]),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(work, capfd, argv, says):
    refused(capfd, *argv, says=says)
    assert not list(work.rglob("*.ipynb")) and not (work / "page.html").exists()


def test_a_run_that_has_not_ended_is_refused(work):
    os.remove("runs/a.b/latents.npy")
    with pytest.raises(InputError, match="latents"):
        write_lab("runs/a.b")


def test_jupyterlab_is_asked_for_before_anything_is_written(work, capfd, monkeypatch):
    import cryoformer_nb.show.lab as lab

    monkeypatch.setattr(lab, "find_spec", lambda name: None)
    refused(capfd, "runs/a.b", says=["JupyterLab", "pip install", "--write"])
    assert not list(work.rglob("*.ipynb"))
    monkeypatch.setattr(lab, "find_spec", lambda name: name)
    started = []
    monkeypatch.setattr(lab.os, "execv", lambda program, words: started.append(words))
    assert main(["lab", "runs/a.b", "--jupyter=--no-browser --port=8890"]) == 0
    assert started.pop()[4:] == ["--no-browser", "--port=8890"]
    assert main(["lab", "runs/a.b"]) == 0
    assert started[0][1:3] == ["-m", "jupyterlab"] and started[0][3].endswith("a.b.ipynb")
