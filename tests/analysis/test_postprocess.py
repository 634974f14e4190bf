"""Half maps of other programs, as files: where they lie, what is refused, what is found in them."""

import mrcfile
import numpy as np
import pytest
import torch

from cryoformer_nb.analysis.postprocess import half_maps, postprocess
from cryoformer_nb.command.cli import main
from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.core.files import mrc_info, read_map
from cryoformer_nb.core.fourier import fftc3, ifftc3
from cryoformer_nb.particles.masks import sphere_mask

BOX, PIXEL, START = 48, 1.4, (-24, -20, 8)


def halves(b_factor: float, noise: float, seed: int = 0) -> torch.Tensor:
    "Two half maps (2, D, D, D) of points blurred by a B factor, with noise of their own."
    rng = torch.Generator().manual_seed(seed)
    points = (torch.rand(BOX, BOX, BOX, generator=rng) < 0.05) & sphere_mask(BOX, 15)
    k = torch.fft.fftfreq(BOX, PIXEL)
    s2 = k[:, None, None] ** 2 + k[:, None] ** 2 + k**2
    signal = ifftc3(fftc3(points.float()) * torch.exp(-b_factor * s2 / 4))
    return signal + noise * torch.randn(2, BOX, BOX, BOX, generator=rng)


@pytest.fixture
def files(tmp_path, monkeypatch):
    "Half maps as other programs write them: placed by nstart or by the origin, of two types."
    monkeypatch.chdir(tmp_path)
    for k, half in enumerate(halves(90.0, 0.01).numpy(), start=1):
        with mrcfile.new(f"half{k}.mrc") as mrc:
            mrc.set_data(half.astype(np.float32 if k == 1 else np.float16))
            mrc.voxel_size = PIXEL
            mrc.nstart = START
    return ["half1.mrc", "half2.mrc"]


@pytest.mark.parametrize("b_factor", [50.0, 90.0, 150.0])
def test_known_falloff_is_found(b_factor):
    maps = halves(b_factor, 0.003).numpy()
    mask = sphere_mask(BOX, 19).float().numpy()
    found = postprocess(half_maps_like(maps, mask))
    assert found.b_factor == pytest.approx(-b_factor, rel=0.12)
    assert "Guinier" in found.source


def half_maps_like(maps, mask):
    from cryoformer_nb.analysis.postprocess import HalfMaps

    return HalfMaps(*maps, PIXEL, (0, 0, 0), mask, "a ball")


def test_maps_lie_where_the_half_maps_lie(files, capfd):
    assert main(["postprocess", *files, "--out", "sharp", "-q"]) == 0
    said = capfd.readouterr().out
    assert "masked: density of the average, soft edge of 5 px" in said
    assert "unmasked" in said
    for name in ("sharpened", "local_resolution", "mask"):
        with mrcfile.open(f"sharp/{name}.mrc") as mrc:
            assert mrc.data.shape == (BOX,) * 3
            assert mrc.voxel_size.x == pytest.approx(PIXEL)
            where = [mrc.header.origin[k] for k in "xyz"]
        assert np.allclose(where, np.multiply(START, PIXEL), atol=1e-4)
        assert np.allclose(mrc_info(f"sharp/{name}.mrc").origin, mrc_info(files[0]).origin)
    average = sum(read_map(f)[0] for f in files) / 2
    sharp, inside = read_map("sharp/sharpened.mrc")[0], sphere_mask(BOX, 15).numpy()
    assert np.corrcoef(sharp[inside], average[inside])[0, 1] > 0.5


def test_nothing_of_others_is_replaced(files):
    assert main(["postprocess", *files, "--out", "sharp", "-q"]) == 0
    assert main(["postprocess", *files, "--out", "sharp", "-q"]) == 2
    assert main(["postprocess", *files, "--out", "sharp", "-q", "--overwrite"]) == 0
    with open("sharp/notes.txt", "w") as file:
        file.write("mine")
    assert main(["postprocess", *files, "--out", "sharp", "-q", "--overwrite"]) == 2
    assert main(["postprocess", *files, "--out", ".", "-q", "--overwrite"]) == 2


def test_what_does_not_fit_is_refused(files):
    with mrcfile.new("other.mrc") as mrc:
        mrc.set_data(np.ones((32, 32, 32), np.float32))
        mrc.voxel_size = PIXEL
    with pytest.raises(InputError, match="one box"):
        postprocess(half_maps("half1.mrc", "other.mrc"))
    with pytest.raises(InputError, match="one box"):
        postprocess(half_maps(*files, mask="other.mrc"))
    with mrcfile.open("other.mrc", "r+") as mrc:
        mrc.voxel_size = 2 * PIXEL
    with pytest.raises(InputError, match="resample"):
        half_maps("half1.mrc", "other.mrc")


def test_a_map_without_fine_detail_is_not_sharpened():
    maps = halves(3000.0, 0.01).numpy()
    found = postprocess(half_maps_like(maps, sphere_mask(BOX, 19).float().numpy()))
    assert found.resolution > 10
    assert found.b_factor == 0
    assert "not sharpened" in str(found)
