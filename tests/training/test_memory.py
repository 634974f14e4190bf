"""What a training does with memory that it frees."""

import platform
from pathlib import Path

import pytest
import torch

from cryoformer_nb.training.train import memory_kept

STATM = Path("/proc/self/statm")


def resident() -> float:
    "MiB of this process, in pages of 4 kB."
    return int(STATM.read_text().split()[1]) / 256


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or not STATM.exists(), reason="not glibc")
def test_memory_is_kept_within_and_given_back_after():
    with memory_kept():
        pass  # what is free now goes back
    before = resident()
    torch.ones(1 << 26)
    assert resident() - before < 100, "an array of 256 MiB goes back at once"
    with memory_kept():
        torch.ones(1 << 26)
        assert resident() - before > 200
    assert resident() - before < 100
