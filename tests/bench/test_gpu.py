"""The benchmark of a GPU asks for one, and measures what it says on any device."""

import json

import pytest
import torch

from cryoformer_nb.bench.gpu import gpu
from cryoformer_nb.command.cli import main
from cryoformer_nb.model.config import Config


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_refused_in_one_line(tmp_path, capsys):
    assert main(["benchmark", "gpu", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_its_json_is_read_by_name(tmp_path):
    config = Config(device="cpu", batch=16, levels=4, hidden=16, queries=2)
    rows, text = gpu(tmp_path, boxes=(24,), n=60, config=config, steps=1)
    stored = json.loads((tmp_path / "gpu.json").read_text())
    assert stored["rows"][0]["ms_per_image"] == rows[0].ms_per_image > 0
    assert rows[0].loss_error < 1e-6
    assert [row.precision for row in rows] == ["float32", "bf16"]
    assert 0 < rows[1].loss_error < 1e-2
    assert "On the CPU, torch" in stored["notes"][0]
    assert "ms an image" in text
