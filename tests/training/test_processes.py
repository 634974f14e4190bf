"""Two processes train the run of one, and continue each other's."""

import subprocess
import sys

import numpy as np
import pytest

from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.core.processes import Group
from cryoformer_nb.imaging.simulator import simulate
from cryoformer_nb.model.config import Config
from cryoformer_nb.training.run import Run
from cryoformer_nb.training.steps import check_group
from cryoformer_nb.training.train import train

SMALL = dict(batch=9, queries=2, levels=4, hidden=16, encoder_width=32, poses="refine")

SCRIPT = f"""
import sys
from pathlib import Path
from cryoformer_nb.model.config import Config
from cryoformer_nb.training.train import train

star, out, config = sys.argv[1], Path(sys.argv[2]), Config(**{SMALL})
train(star, out / "two", epochs=2, config=config, progress=False)
train(star, out / "from one", epochs=2, resume=True, progress=False)
train(star, out / "from two", epochs=1, config=config, progress=False)
try:
    train(star, out / "two", epochs=1, config=config, progress=False)
except Exception as error:
    print(type(error).__name__, flush=True)
"""


def off(run: Run, other: Run) -> float:
    "How far latents and mean maps are from each other's, relative to their spread."
    latents = abs(run.latents - other.latents).max() / other.latents.std()
    return max(latents, abs(run.mean - other.mean).max() / other.mean.std())


@pytest.mark.slow
def test_two_processes_train_the_run_of_one(tmp_path):
    "A batch of nine is not even shared evenly; poses, contrasts and the support are updated."
    star = simulate(tmp_path / "set", "arm", n=240, box=16, pixel_size=7.0, snr=1.0, seed=1)
    one = train(star, tmp_path / "one", epochs=2, config=Config(**SMALL), progress=False)
    train(star, tmp_path / "from one", epochs=1, config=Config(**SMALL), progress=False)
    again = tmp_path / "again"
    train(star, again, epochs=1, config=Config(**SMALL), progress=False)
    again = train(star, again, epochs=2, resume=True, progress=False)

    (tmp_path / "two.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = [str(part) for part in (tmp_path / "two.py", star, tmp_path)]
    done = subprocess.run([*launch, *words], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert done.stdout.count("InputError") == 2, "a folder that is taken, in both"

    two = Run(tmp_path / "two")
    for name in ("step", "updates", "passes"):
        assert two.checkpoint[name] == one.checkpoint[name]
    assert off(two, one) < 0.02
    assert np.allclose(two.history.loss, one.history.loss, rtol=1e-3)
    assert np.allclose(two.contrast, one.contrast, atol=1e-3)
    assert off(Run(tmp_path / "from one"), again) < 0.02
    moved = train(star, tmp_path / "from two", epochs=2, resume=True, progress=False)
    assert off(moved, again) < 0.02


def test_more_processes_than_images_of_a_step_are_refused():
    check_group(Group(0, 8), 8)
    with pytest.raises(InputError, match="raise batch or start fewer"):
        check_group(Group(0, 9), 8)
