"""Which parts move: the truth of a foreign set, and the maps that the command writes."""

from types import SimpleNamespace

import mrcfile
import numpy as np
import pytest

from cryoformer_nb.analysis.flexibility import (
    attention_volumes,
    flexibility,
    flexibility_auc,
    flexibility_map,
    moving_voxels,
)
from cryoformer_nb.command.cli import main
from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.imaging.truth import true_volumes


def test_moving_voxels_of_adk(shared):
    "The lid and the AMP-binding domain move, the core does not; the definition is the one of the docstring, voxel by voxel."
    truth = shared("adk/truth")
    moving, inside = moving_voxels(truth, 32)
    volumes = np.asarray(
        true_volumes(truth, np.rint(np.load(truth / "labels.npy")).astype(int), 32)
    )
    most = volumes.max(0)
    solid = np.percentile(most[most > 0.1 * most.max()], 99)
    assert np.array_equal(inside, most > 0.1 * solid) and np.array_equal(
        moving, inside & (volumes.std(0) > 0.1 * solid)
    )
    assert 0.25 < moving.sum() / inside.sum() < 0.55
    assert (
        flexibility_auc(truth, dict(density=flexibility_map(volumes[::40]), mean=volumes.mean(0)))[
            "density"
        ]
        > 0.99
    )
    assert flexibility_auc(truth, dict(density=np.random.default_rng(0).random(moving.shape)))[
        "density"
    ] == pytest.approx(0.5, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("settings, files", [((), 20), (("deformation_blocks=off",), 3)])
def test_command_writes_maps(tmp_path, capsys, settings, files):
    assert main(["simulate", str(tmp_path / "set"), "-n", "200", "--box", "32"]) == 0
    assert (
        main(
            [
                "train",
                str(tmp_path / "set" / "particles.star"),
                "--out",
                str(tmp_path / "run"),
                "--epochs",
                "1",
                "-q",
                "--set",
                "levels=4",
                "queries=2",
                "batch=16",
                *settings,
            ]
        )
        == 0
    )
    capsys.readouterr()
    assert (
        main(
            [
                "flexibility",
                str(tmp_path / "run"),
                "--out",
                str(tmp_path / "maps"),
                "-n",
                "10",
                "--truth",
                str(tmp_path / "set" / "truth"),
            ]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0].startswith(f"{files} maps")
        and ("queries" in lines[-2]) == (files > 3)
        and lines[-1].startswith("control")
    )
    written = sorted((tmp_path / "maps").glob("*.mrc"))
    assert len(written) == files
    for path in written:
        with mrcfile.open(path) as m:
            assert (
                m.data.shape == (32, 32, 32)
                and m.data.dtype == np.float32
                and float(m.voxel_size.x) == pytest.approx(3)
                and np.isfinite(m.data).all()
            )


def test_attention_needs_regions():
    run = SimpleNamespace(
        config=SimpleNamespace(deformation_blocks=False, domain="real"),
        model=object(),
        latents=np.zeros((5, 2)),
        volumes=lambda z: np.zeros((len(z), 4, 4, 4)),
    )
    with pytest.raises(InputError, match="domain=real"):
        attention_volumes(run, run.latents[0])
    plain = flexibility(SimpleNamespace(latents=run.latents, volumes=run.volumes), 3)
    assert plain.density.shape == (4, 4, 4) and plain.effect is None and plain.queries is None
