"""What all tests of this folder need."""

import shutil
import signal

import pytest


@pytest.fixture(autouse=True)
def heard():
    """Signals reach these tests and their children, however pytest was started.

    A shell's background job ignores Ctrl-C, and `nohup` a hang-up; a command respects both."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in zip(numbers, before):
        signal.signal(number, handler)


@pytest.fixture
def work(base, tmp_path, monkeypatch):
    "Copies of the set and the run of `base`, to be damaged, where we are."
    shutil.copytree(base / "set", tmp_path / "set")
    shutil.copytree(base / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return tmp_path
