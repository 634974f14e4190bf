"""Runs that are killed at random moments end with the numbers of a run that never was.

`pytest -m fuzz` kills at 20 moments; what runs by default, at a few. A server that has imported
everything forks a process for each attempt, which is what makes this cheap."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch

from cryoformer_nb.training.run import Run

ROOT = Path(__file__).parents[2]
SERVER = """
import json, os, sys, time
import torch._dynamo  # the first optimizer of a process asks for it
import cryoformer_nb.analysis.latent, cryoformer_nb.imaging.simulator, cryoformer_nb.training.train
from cryoformer_nb.command.cli import main
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if not child:
        said = os.open("said", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os._exit(main(job["argv"]))
    if job["signal"]:
        time.sleep(job["delay"])
        os.kill(child, job["signal"])
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
SOFT = {signal.SIGINT: 130, signal.SIGTERM: 143}
SETTINGS = "batch=12 queries=2 levels=3 hidden=16 encoder_width=16 checkpoint_minutes=0".split()


@pytest.fixture(scope="module")
def attempt(tmp_path_factory):
    "A function that runs a command, and sends it a signal after a delay; returns its status."
    folder = tmp_path_factory.mktemp("kill")
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )

    def attempt(argv, number=0, delay=0.0) -> int:
        job = dict(argv=[str(a) for a in argv], signal=int(number), delay=delay)
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        return int(server.stdout.readline())

    attempt.folder = folder
    set_ = ["simulate", "set", "-n", "96", "--box", "16", "--pixel-size", "7", "--snr", "1"]
    assert attempt(set_) == 0
    yield attempt
    server.stdin.close()
    server.wait()


@pytest.fixture(scope="module")
def whole(attempt):
    "A run that nobody stops, for each way of learning poses, and the seconds that it takes."
    found = {}

    def whole(poses):
        if poses not in found:
            start = time.perf_counter()
            assert attempt(line(f"whole-{poses}", poses)) == 0
            run = Run(attempt.folder / f"whole-{poses}")
            found[poses] = run, time.perf_counter() - start
        return found[poses]

    return whole


def line(out, poses) -> list:
    options = ["--epochs", "4", "--poses", poses, "--set", *SETTINGS]
    return ["train", "set/particles.star", "--out", out, *options]


def same(a: Run, b: Run) -> None:
    "Networks, latents, maps and poses are equal to the last bit."
    for name in ("latents.npy", "mean.mrc"):
        assert (a.path / name).read_bytes() == (b.path / name).read_bytes(), name
    assert all(map(torch.equal, a.checkpoint["model"].values(), b.checkpoint["model"].values()))
    assert all(map(np.array_equal, a.poses, b.poses))
    stars = [starfile.read(run.path / "poses.star")["particles"] for run in (a, b)]
    assert stars[0].equals(stars[1])
    assert list(a.history.step) == list(b.history.step)


def stopped_and_resumed(attempt, whole, poses, out, signals, random) -> int:
    "Send each of the signals after a random time, go on as one is told, compare the ends."
    reference, seconds = whole(poses)
    argv, sent = line(out, poses), 0
    for number in signals:
        status = attempt(argv, number, random.uniform(0.02, seconds))
        if status == 0:
            break  # it was quicker
        sent += 1
        assert status == SOFT.get(number, -number), (attempt.folder / "said").read_text()
        started = (attempt.folder / out / "checkpoint.pt").exists()
        if number in SOFT:
            said = (attempt.folder / "said").read_text().strip().split("\n")[-1]
            assert ("--resume' continues" in said) == started or argv[-1] == "--resume", said
            if "'" in said:
                assert shlex.split(said.split("'")[1])[:2] == ["cryoformer", "train"]
                argv = shlex.split(said.split("'")[1])[1:]
        elif started:
            argv = [*line(out, poses)[:6], "--resume"]
    if status:
        assert attempt(argv) == 0, (attempt.folder / "said").read_text()
    same(Run(attempt.folder / out), reference)
    assert not list(attempt.folder.rglob(".tmp*")), "cleared by the next"
    return sent


def test_killed_runs_end_as_if_they_had_not_been(attempt, whole):
    random = np.random.default_rng(1)
    sent = 0
    for k, number in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGKILL)):
        signals = [number, signal.SIGKILL] if k == 1 else [number]
        sent += stopped_and_resumed(attempt, whole, "table", f"run{k}", signals, random)
    assert sent, "at least one came in time"


@pytest.mark.slow
@pytest.mark.fuzz
@pytest.mark.parametrize("seed", range(20))
def test_runs_killed_at_twenty_moments(attempt, whole, seed):
    random = np.random.default_rng([2, seed])
    poses = ("given", "table", "refine", "encoder")[seed % 4]
    kinds = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    signals = [kinds[seed % 3], kinds[(seed + seed // 3) % 3]]
    stopped_and_resumed(attempt, whole, poses, f"seed{seed}", signals, random)


def killed_results(attempt, argv, out, moments, random) -> None:
    "A result is there as a whole or not at all, and the next attempt clears what is left."
    start = time.perf_counter()
    assert attempt([*argv, f"whole-{out}"]) == 0
    seconds = time.perf_counter() - start
    expected = sorted(p.name for p in (attempt.folder / f"whole-{out}").iterdir())
    kinds = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    for k in range(moments):
        name, number = f"{out}{k}", kinds[k % 3]
        status = attempt([*argv, name], number, random.uniform(0.02, seconds))
        assert status in (0, SOFT.get(number, -number))
        place = attempt.folder / name
        if place.exists():
            assert sorted(p.name for p in place.iterdir()) == expected
        if number in SOFT:
            assert not list(attempt.folder.rglob(".tmp*"))
        assert attempt([*argv[:1], "--overwrite", *argv[1:], name]) == 0
        assert not list(attempt.folder.rglob(".tmp*"))


SIMULATE = "simulate -n 96 --box 16 --pixel-size 7".split()


def test_killed_sets_are_whole_or_not_there(attempt):
    killed_results(attempt, SIMULATE, "set", 2, np.random.default_rng(3))


@pytest.mark.slow
@pytest.mark.fuzz
def test_sets_and_maps_killed_at_many_moments(attempt, whole):
    random = np.random.default_rng(4)
    killed_results(attempt, SIMULATE, "many", 10, random)
    maps = ["volumes", str(whole("given")[0].path), "-n", "40", "--out"]
    killed_results(attempt, maps, "maps", 10, random)
