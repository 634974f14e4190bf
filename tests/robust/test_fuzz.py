"""Damaged files and arguments: each is right, or refused in one line with status 2."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FUZZING = Path(__file__).with_name("fuzzing.py")


def failures(seed: int, cases: int) -> list:
    "What went wrong in so many cases, in a process of its own with one thread."
    argv = [sys.executable, FUZZING, "--seed", str(seed), "--cases", str(cases)]
    done = subprocess.run(argv, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines, done.stderr
    assert lines[-1].get("cases") == cases, done.stderr
    assert lines[-1].get("right", 0) > cases / 20, "most are refused, but some must be right"
    return [(line["wrong"], line["damage"], line["argv"]) for line in lines[:-1]]


@pytest.mark.slow
def test_four_hundred_cases():
    assert failures(1, 400) == []


@pytest.mark.slow
@pytest.mark.fuzz
@pytest.mark.parametrize("seed", range(2, 12))
def test_four_thousand_cases(seed):
    assert failures(seed, 400) == []
