"""Fixtures for the cross-checks: small files of our own, and foreign data beside the repository."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
FIXTURES = ROOT / "tests" / "fixtures"


def pytest_collection_modifyitems(config, items):
    "Thousands of damaged inputs are tried when they are asked for, `-m fuzz`, and only then."
    if "fuzz" not in config.option.markexpr:
        fuzz = [item for item in items if item.get_closest_marker("fuzz")]
        items[:] = [item for item in items if item not in fuzz]
        config.hook.pytest_deselected(items=fuzz)


@pytest.fixture(scope="session")
def shared():
    "A function from a relative path to the foreign file, skipping the test where it is absent."

    def find(relative: str) -> Path:
        path = SHARED / relative
        if not path.exists():
            pytest.skip(
                "foreign test data not found: "
                f"expected {relative} in a folder shared/data beside the repository"
            )
        return path

    return find


@pytest.fixture(scope="session")
def fixtures() -> Path:
    "The folder of small files that tools/fixtures.py wrote: they are in every clone."
    return FIXTURES


@pytest.fixture(scope="session")
def generator():
    "tools/fixtures.py as a module: what is in the fixtures, written down without the package."
    path = ROOT / "tools" / "fixtures.py"
    spec = importlib.util.spec_from_file_location("fixture_generator", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    "A folder with a small set and a run on it, made once, to be read or copied."
    from cryoformer_nb.command.cli import main

    folder = tmp_path_factory.mktemp("base")
    options = "-n 120 --box 16 --pixel-size 7 --snr 1 --seed 1".split()
    small = "--epochs 1 --set batch=16 queries=2 levels=4 hidden=16 encoder_width=32".split()
    assert main(["simulate", str(folder / "set"), *options]) == 0
    star, run = str(folder / "set" / "particles.star"), str(folder / "run")
    assert main(["train", star, "--out", run, *small]) == 0
    return folder
