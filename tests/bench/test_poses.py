"""The benchmark of poses runs from the command line."""

import json

import pytest

from cryoformer_nb.command.cli import main
from cryoformer_nb.imaging.simulator import simulate


@pytest.mark.slow
def test_the_command_takes_a_set_with_its_truth(tmp_path, capsys):
    star = simulate(tmp_path / "set", "spike", n=120, box=24, snr=0.3, pose_noise=0.002)
    arguments = ["--particles", str(star), "--out", str(tmp_path), "-n", "100", "--box", "24"]
    assert main(["benchmark", "poses", *arguments]) == 0
    rows = json.loads((tmp_path / "poses.json").read_text())["rows"]
    assert rows[0]["start"] == "as given"
    assert rows[0]["given"] == pytest.approx(0.002**0.5 * 1.538, rel=0.2)
    assert len(rows) == 6
    assert "given (rad)" in capsys.readouterr().out
