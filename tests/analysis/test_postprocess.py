"""Half maps of other programs, as files: where they lie, what is refused, what is found in them."""

import mrcfile
import numpy as np
import pytest
import torch

from cryoformer_nb.analysis.postprocess import HalfMaps, half_maps, postprocess
from cryoformer_nb.command.cli import main
from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.core.files import mrc_info, read_map, write_map
from cryoformer_nb.core.fourier import fftc3, ifftc3
from cryoformer_nb.core.fsc import fsc
from cryoformer_nb.core.symmetry import symmetrised, symmetrised_halves, symmetry_group, turned_map
from cryoformer_nb.particles.consensus import consensus
from cryoformer_nb.particles.masks import sphere_mask
from cryoformer_nb.particles.particles import load_particles

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
    maps = half_maps(*files)
    huge = maps.first / maps.first.max() * np.float32(3e38)
    with pytest.raises(InputError, match="scale the maps"):
        postprocess(maps._replace(first=huge))
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


@pytest.mark.slow
def test_octahedral_symmetry_of_real_half_maps(shared):
    "Apoferritin: back-projected halves agree further once averaged over what they have."
    particles = load_particles(shared("real/apoferritin"))
    halves = [half.numpy() for half in consensus(particles).halves]
    before = fsc(*halves, particles.pixel_size).resolution_0143
    both = symmetrised_halves(*halves, particles.pixel_size, symmetry_group("O"))
    assert fsc(*both, particles.pixel_size).resolution_0143 < 0.95 * before
    with pytest.raises(InputError, match="symmetry of 3 turns"):
        symmetrised_halves(*halves, particles.pixel_size, symmetry_group("C3"))


def test_symmetry_by_the_command(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    group, maps = symmetry_group("C4"), halves(90.0, 0.0)[0]
    ring = symmetrised(maps, group)
    rng = np.random.default_rng(0)
    for k in (1, 2):
        noise = 0.02 * rng.normal(size=ring.shape).astype(np.float32)
        write_map(f"half{k}.mrc", ring + noise, PIXEL)
    words = ["postprocess", "half1.mrc", "half2.mrc", "-q", "--b-factor", "-50", "--out"]
    assert main([*words, "c4", "--symmetry", "C4"]) == 0
    sharp = read_map("c4/sharpened.mrc")[0]
    inside = sphere_mask(BOX, 20).numpy()
    assert np.allclose(sharp[inside], turned_map(sharp, group[1])[inside], atol=0.05 * sharp.max())
    assert main([*words, "c3", "--symmetry", "C3"]) == 2
    assert main([*words, "s4", "--symmetry", "S4"]) == 2
    assert "expected Cn or Dn" in capfd.readouterr().err
