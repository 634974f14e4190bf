"""The backend tcnn, without a GPU: a stand-in with the interface of tinycudann.

Its forward and backward loop over single numbers, in the float32 arithmetic of tiny-cuda-nn's
include/tiny-cuda-nn/common_device.h (grid_scale, grid_resolution, grid_index, pos_fract) and
include/tiny-cuda-nn/encodings/grid.h (sizes and offsets of the tables, kernel_grid; 6ee3546).
A test marked gpu compares with the real one.
"""

import ctypes
import ctypes.util
import sys
import types
import warnings
from itertools import product

import numpy as np
import pytest
import torch

from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.imaging.projector import lattice_coordinates
from cryoformer_nb.model import hash_volume
from cryoformer_nb.model.config import Config
from cryoformer_nb.model.fourier_model import build_model
from cryoformer_nb.model.hash_volume import (
    HashGrid,
    csr_parts,
    fixed_encoding,
    growth_factor,
    level_layout,
    load_tinycudann,
    tinycudann_for,
)

f32 = np.float32
CUDA = torch.device("cuda")


def c_library():
    "exp2f and log2f of the C library, which sizes the tables of a built tiny-cuda-nn."
    name = ctypes.util.find_library("m")
    if name is None:
        return None
    library = ctypes.CDLL(name)
    for function in (library.exp2f, library.log2f):
        function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
    return library


C = c_library()


def exp2f(x) -> f32:
    return f32(C.exp2f(float(x))) if C else f32(2.0 ** float(x))


def log2f(x) -> f32:
    return f32(C.log2f(float(x))) if C else f32(np.log2(float(x)))


def reference_layout(levels, base, log2_size, growth):
    "Scale, resolution and first entry of each level, and the number of all entries."
    layout, offset = [], 0
    for level in range(levels):
        scale = exp2f(f32(level) * log2f(f32(growth))) * f32(base) - f32(1)
        resolution = int(np.ceil(scale)) + 1
        layout.append((scale, resolution, offset))
        offset += min((resolution**3 + 7) // 8 * 8, 1 << log2_size)
    return layout, offset


def reference_index(place, resolution, size):
    stride = resolution**3 if resolution <= 0x659 else 0xFFFFFFFF
    if size < stride:
        index = 0
        for q, prime in zip(place, (1, 2654435761, 805459861)):
            index ^= (q * prime) & 0xFFFFFFFF
        return index % size
    return (place[0] + place[1] * resolution + place[2] * resolution**2) % size


def contributions(point, layout, total):
    "(level, entry, weight, derivative of the weight by the point) of all corners, one by one."
    ends = [offset for _, _, offset in layout[1:]] + [total]
    for level, ((scale, resolution, offset), end) in enumerate(zip(layout, ends)):
        position = [f32(float(scale) * float(x) + 0.5) for x in point]  # fmaf rounds once
        low = [int(np.floor(p)) for p in position]
        part = [f32(p - f32(q)) for p, q in zip(position, low)]
        for steps in product((0, 1), repeat=3):
            each = [p if s else f32(1) - p for p, s in zip(part, steps)]
            place = [q + s for q, s in zip(low, steps)]
            slopes = []
            for axis in range(3):
                others = [w for k, w in enumerate(each) if k != axis]
                slopes.append((1 if steps[axis] else -1) * scale * others[0] * others[1])
            entry = offset + reference_index(place, resolution, end - offset)
            yield level, entry, each[0] * each[1] * each[2], slopes


class ScalarLoops(torch.autograd.Function):
    @staticmethod
    def forward(ctx, points, params, layout, total, features):
        ctx.save_for_backward(points, params)
        ctx.rest = layout, total, features
        table = params.detach().numpy().reshape(total, features)
        out = np.zeros((len(points), len(layout), features), f32)
        for k, point in enumerate(points.detach().numpy()):
            for level, entry, weight, _ in contributions(point, layout, total):
                out[k, level] += weight * table[entry]
        return torch.from_numpy(out.reshape(len(points), -1))

    @staticmethod
    def backward(ctx, grad):
        points, params = ctx.saved_tensors
        layout, total, features = ctx.rest
        table = params.detach().numpy().reshape(total, features)
        grad = grad.numpy().reshape(len(points), len(layout), features)
        by_points, by_table = np.zeros((len(points), 3), f32), np.zeros_like(table)
        for k, point in enumerate(points.detach().numpy()):
            for level, entry, weight, slopes in contributions(point, layout, total):
                by_table[entry] += weight * grad[k, level]
                by_points[k] += f32(grad[k, level] @ table[entry]) * np.array(slopes, f32)
        return torch.from_numpy(by_points), torch.from_numpy(by_table.ravel()), None, None, None


class Encoding(torch.nn.Module):
    "tinycudann.Encoding on the CPU: one flat parameter `params`, points (k, 3) to features."

    KNOWN = {
        "otype",
        "n_levels",
        "n_features_per_level",
        "log2_hashmap_size",
        "base_resolution",
        "per_level_scale",
        "interpolation",
    }
    made = []  # the settings that were asked for

    def __init__(self, n_input_dims, encoding_config, seed=1337, dtype=None):
        super().__init__()
        assert n_input_dims == 3
        assert dtype is torch.float32, "the default is half precision"
        assert set(encoding_config) == self.KNOWN, "tiny-cuda-nn ignores words it does not know"
        assert encoding_config["otype"] == "HashGrid"
        assert encoding_config["interpolation"] == "Linear"
        c = encoding_config
        self.features = c["n_features_per_level"]
        self.layout, self.total = reference_layout(
            c["n_levels"], c["base_resolution"], c["log2_hashmap_size"], c["per_level_scale"]
        )
        self.params = torch.nn.Parameter(torch.zeros(self.total * self.features))
        self.made.append(c)

    def forward(self, x):
        assert self.params.shape == (self.total * self.features,)
        assert self.params.dtype == torch.float32
        return ScalarLoops.apply(x.float(), self.params, self.layout, self.total, self.features)


@pytest.fixture
def stand_in(monkeypatch):
    "tinycudann that runs on the CPU, wherever it is asked for."
    module = types.ModuleType("tinycudann")
    module.Encoding = Encoding
    Encoding.made.clear()

    def chosen(backend, device):
        return None if backend == "torch" else module

    monkeypatch.setattr(hash_volume, "tinycudann_for", chosen)
    return module


@pytest.fixture
def fresh(monkeypatch):
    "The module is looked for again, before and after."
    load_tinycudann.cache_clear()
    yield monkeypatch
    load_tinycudann.cache_clear()


def warned(ask, times=3) -> list:
    "What asking says, and what it answers, several times."
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        answers = [ask() for _ in range(times)]
    return answers, [str(w.message) for w in said]


@pytest.mark.skipif(C is None, reason="expected a C library with exp2f, found none")
@pytest.mark.parametrize("levels, base, log2_size", [(16, 16, 15), (8, 4, 12), (16, 16, 19)])
def test_layout_is_that_of_the_c_library(levels, base, log2_size):
    "At every finest resolution: also 20, 25, 26, 30, 31, 32 and 54, where a last bit decides."
    for finest in range(base, 513):
        growth = growth_factor(levels, base, finest)
        expected, total = reference_layout(levels, base, log2_size, growth)
        layout = level_layout(levels, base, finest, log2_size)
        offsets = np.cumsum([0, *[level.entries for level in layout]])
        assert offsets.tolist() == [offset for *_, offset in expected] + [total], finest
        for level, (scale, resolution, _) in zip(layout, expected):
            assert level.scale == pytest.approx(float(scale), rel=1e-6)  # log2f errs in a last bit
            assert level.dense == (resolution**3 <= level.entries), finest
            assert not level.dense or level.resolution == resolution, finest


@pytest.mark.parametrize("finest", [32, 54, 64])
def test_values_and_gradients(stand_in, finest):
    g = torch.Generator().manual_seed(finest)
    grids = [HashGrid(16, 2, 15, 16, finest, backend) for backend in ("torch", "tcnn")]
    grids[0].table.data.normal_(generator=g)
    grids[1].load_state_dict(grids[0].state_dict())
    points = torch.rand(6, 3, generator=g)
    weight = torch.randn(6, 32, generator=g)
    found = []
    for grid in grids:
        x = points.clone().requires_grad_()
        out = grid(x)
        by_point, by_table = torch.autograd.grad((out * weight).sum(), (x, grid.table))
        found.append((out.detach(), by_table, by_point))
    assert Encoding.made, "the stand-in was not asked"
    assert Encoding.made[0]["per_level_scale"] == growth_factor(16, 16, finest)
    for name, ours, theirs in zip(("value", "table", "points"), *found):
        scale = ours.abs().max()
        assert torch.allclose(ours / scale, theirs / scale, atol=3e-5), name


def test_a_table_is_the_flat_parameter(stand_in):
    "[level][entry][feature]: ours, flattened, is what their module calls `params`."
    grid = HashGrid(4, 2, 8, 4, 16, "torch")
    grid.table.data.normal_()
    theirs = Encoding(3, hash_volume.tcnn_config(*grid.settings), dtype=torch.float32)
    theirs.load_state_dict({"params": grid.state_dict()["table"].flatten()})
    points = torch.rand(5, 3)
    assert torch.allclose(theirs(points), grid(points), atol=1e-5)


def small_model(backend):
    config = Config(
        levels=3, log2_table=8, base_resolution=4, hidden=8, blocks=1, queries=2, encoder_width=8
    )
    config = Config(**{**vars(config), "backend": backend})
    distance = lattice_coordinates(16).norm(dim=-1).reshape(16, 16, 16)
    torch.manual_seed(0)
    start = torch.exp(-(distance**2) / 12)
    return build_model(config, distance < 4, start, torch.ones(16, 9), 1.0)


def test_checkpoints_are_exchanged_both_ways(stand_in):
    "A model of either backend has the same names, loads in the other and gives the same map."
    z = torch.randn(1, 4)
    models = {backend: small_model(backend) for backend in ("torch", "tcnn")}
    for new, old in (("torch", "tcnn"), ("tcnn", "torch")):
        first, second = models[old], models[new]
        assert [*first.state_dict()] == [*second.state_dict()]
        first.grid.table.data.normal_()
        second.load_state_dict(first.state_dict())
        assert torch.allclose(second.volumes(z), first.volumes(z), atol=1e-5)
    parameters = [dict(m.named_parameters()).keys() for m in models.values()]
    assert parameters[0] == parameters[1], "the encoding's own table is none of the model's"


def test_fixed_points(stand_in):
    grids = [HashGrid(4, 2, 8, 4, 16, backend) for backend in ("torch", "tcnn")]
    points, table = torch.rand(40, 3), torch.randn_like(grids[0].table)
    out = [fixed_encoding(grid, points)(table) for grid in grids]
    assert torch.allclose(*out, atol=1e-5)


def test_three_features_are_left_to_torch(stand_in):
    HashGrid(4, 3, 8, 4, 16)(torch.rand(2, 3))
    assert not Encoding.made


@pytest.mark.parametrize(
    "backend, device, warns", [("auto", "cuda", 1), ("tcnn", "cuda", 1), ("tcnn", "cpu", 1),
                               ("auto", "cpu", 0), ("torch", "cuda", 0)]
)  # fmt: skip
@pytest.mark.parametrize("error", [ImportError("No module"), OSError("Unknown capability")])
def test_one_warning_where_it_is_absent(fresh, backend, device, warns, error):
    def absent(name):
        raise error

    fresh.setattr(hash_volume.importlib, "import_module", absent)
    answers, said = warned(lambda: tinycudann_for(backend, torch.device(device)))
    assert answers == [None] * 3
    assert len(said) == warns
    assert all(str(error) in text and "pip install git+https" in text for text in said)


@pytest.mark.parametrize("backend", ["auto", "tcnn"])
def test_taken_on_a_gpu_only(fresh, backend):
    module = types.ModuleType("tinycudann")
    fresh.setitem(sys.modules, "tinycudann", module)
    assert warned(lambda: tinycudann_for(backend, CUDA)) == ([module] * 3, [])
    assert warned(lambda: tinycudann_for(backend, torch.device("cpu"))) == ([None] * 3, [])


@pytest.mark.parametrize("finest, refused", [(32, True), (20, True), (64, False)])
def test_checkpoints_of_the_earlier_layout(tmp_path, finest, refused):
    "Written and read as a run does; version 1 is what PyTorch wrote before the grid had one."
    state = HashGrid(finest=finest).state_dict()
    assert state._metadata[""]["version"] == 2
    state._metadata[""]["version"] = 1
    torch.save(dict(model=state), tmp_path / "old.pt")
    state = torch.load(tmp_path / "old.pt", weights_only=True)["model"]
    if refused:
        with pytest.raises(InputError, match="earlier one with .* level 15; train again"):
            HashGrid(finest=finest).load_state_dict(state)
    else:
        HashGrid(finest=finest).load_state_dict(state)


def test_matrices_that_torch_cannot_count_are_refused():
    with pytest.raises(InputError, match="at most 2147483647 elements"):
        csr_parts(types.SimpleNamespace(nnz=2**31))


@pytest.mark.gpu
@pytest.mark.parametrize("finest", [32, 54, 64, 128])
def test_the_real_one(fresh, finest):
    "tinycudann on a GPU: value and gradients as torch computes them."
    if not torch.cuda.is_available() or tinycudann_for("auto", CUDA) is None:
        pytest.skip("expected tinycudann and a GPU, found none")
    grids = [HashGrid(16, 2, 15, 16, finest, backend).cuda() for backend in ("torch", "tcnn")]
    grids[0].table.data.normal_()
    grids[1].load_state_dict(grids[0].state_dict())
    points, found = torch.rand(1000, 3, device="cuda"), []
    for grid in grids:
        x = points.clone().requires_grad_()
        out = grid(x)
        by_point, by_table = torch.autograd.grad(out.square().sum(), (x, grid.table))
        found.append((out.detach(), by_table, by_point))
    for name, ours, theirs in zip(("value", "table", "points"), *found):
        close = torch.isclose(ours, theirs, atol=1e-3 * ours.abs().max().item(), rtol=1e-3)
        assert close.float().mean() > 0.999, name  # points on a face have two gradients
