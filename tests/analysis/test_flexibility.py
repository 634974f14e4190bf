"""Which parts move: the truth of a foreign set and of ours, and the maps of the command."""

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
from cryoformer_nb.imaging.simulator import simulate
from cryoformer_nb.imaging.truth import read_states, true_volumes


@pytest.fixture(scope="module", params=["adk", "arm"])
def truth(request, shared, tmp_path_factory):
    "The truth of adenylate kinase, made by another program, and of our swinging arm."
    if request.param == "adk":
        return shared("adk/truth")
    star = simulate(tmp_path_factory.mktemp("arm") / "set", "arm", n=500, box=32)
    return star.parent / "truth"


@pytest.mark.slow
def test_moving_voxels(truth):
    "Some parts move and others do not; the definition is the one of the notebook, voxel by voxel."
    moving, inside = moving_voxels(truth, 32)
    volumes = np.asarray(true_volumes(truth, read_states(truth), 32))
    most = volumes.max(0)
    solid = np.percentile(most[most > 0.1 * most.max()], 99)
    assert np.array_equal(inside, most > 0.1 * solid)
    assert np.array_equal(moving, inside & (volumes.std(0) > 0.1 * solid))
    assert 0.2 < moving.sum() / inside.sum() < 0.55
    true_deviation = flexibility_map(volumes[::40])
    area = flexibility_auc(truth, dict(density=true_deviation, mean=volumes.mean(0)))
    assert area["density"] > 0.98
    guess = np.random.default_rng(0).random(moving.shape)
    area = flexibility_auc(truth, dict(density=guess))
    assert area["density"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("settings, files", [((), 20), (("deformation_blocks=off",), 3)])
def test_command_writes_maps(tmp_path, monkeypatch, capsys, settings, files):
    monkeypatch.chdir(tmp_path)
    assert main("simulate set -n 200 --box 32".split()) == 0
    train = "train set/particles.star --out run --epochs 1 -q --set levels=4 queries=2 batch=16"
    assert main([*train.split(), *settings]) == 0
    capsys.readouterr()
    assert main("flexibility run --out maps -n 10 --truth set/truth".split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{files} maps")
    assert ("queries" in lines[-2]) == (files > 3)
    assert lines[-1].startswith("control")
    written = sorted((tmp_path / "maps").glob("*.mrc"))
    assert len(written) == files
    for path in written:
        with mrcfile.open(path) as m:
            assert m.data.shape == (32, 32, 32)
            assert m.data.dtype == np.float32
            assert float(m.voxel_size.x) == pytest.approx(3)
            assert np.isfinite(m.data).all(), path


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
    assert plain.density.shape == (4, 4, 4)
    assert plain.effect is None
    assert plain.queries is None
