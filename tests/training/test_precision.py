"""`precision=bf16`: what is computed in it, what never is, and that results do not tell."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cryoformer_nb.analysis.metrics import score
from cryoformer_nb.imaging.simulator import simulate
from cryoformer_nb.model.config import Config
from cryoformer_nb.training.steps import Trainer
from cryoformer_nb.training.train import train

SMALL = Config(levels=4, log2_table=10, blocks=1, hidden=16, encoder_width=32)
HALF = replace(SMALL, precision="bf16")

#: Settings that lead through other networks, partitions and projectors.
WAYS = [
    {},
    dict(readout="ffn"),
    dict(deformation_blocks=False),
    dict(projector="slice", interpolation="nearest"),
    dict(projector="ray", batch=4),
    dict(domain="fourier", projector="slice"),
]

#: Parts of the names of operations on positions, tables, maps, transforms and the optimizer.
NEVER = ("fft", "floor", "embedding_bag", "grid_sampler", "index_add", "softplus", "adam")


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("sets") / "arm", n=400, box=24, snr=0.3, seed=3)


class Seen(TorchDispatchMode):
    "Notes the operations in which bfloat16 takes part, and refuses it where it must not be."

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        if any(x.dtype == torch.bfloat16 for x in tensors):
            name = str(func)
            assert not any(part in name for part in NEVER), name
            assert all(x.layout == torch.strided for x in tensors), f"{name}: a sparse product"
            self.names.add(name)
        return out


def seen(trainer: Trainer) -> set:
    "The operations of a step in which bfloat16 takes part."
    with Seen() as mode:
        trainer.advance(0.5)
    return mode.names


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_networks_compute_in_it_and_nothing_else_does(particles, average, way):
    trainer = Trainer(particles, replace(HALF, **way), average)
    layers = {"aten.mm.default", "aten.addmm.default"}
    assert seen(trainer) & layers
    found = [*trainer.model.state_dict().values(), *(p.grad for p in trainer.model.parameters())]
    found += tree_leaves(trainer.optimizer.state_dict())
    found += trainer.model.features() if trainer.model.confined else []
    found += [trainer.model.encode(*trainer.batch(range(4))), trainer.losses[-1]]
    kinds = {x.dtype for x in found if torch.is_tensor(x) and x.is_floating_point()}
    assert kinds == {torch.float32}


def test_float32_is_what_it_was(particles, average):
    assert not seen(Trainer(particles, SMALL, average))


def test_gradients_point_where_those_of_float32_do(particles, average):
    "Within the rounding of 8 bits, in each part of the model."
    found = []
    for config in (SMALL, HALF):
        trainer = Trainer(particles, config, average)
        with torch.no_grad():
            trainer.model.grid.table.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
        trainer.objective(trainer.rows_of(0), 0.5)[0].backward()
        own = {}
        for name, parameter in trainer.model.named_parameters():
            own.setdefault(name.partition(".")[0], []).append(parameter.grad.flatten())
        found.append({part: torch.cat(grads) for part, grads in own.items()})
    for name, expected in found[0].items():
        off = (found[1][name] - expected).norm() / expected.norm()
        assert off < 0.05, name


@pytest.mark.parametrize("first, then", [(SMALL, HALF), (HALF, SMALL)])
def test_a_checkpoint_continues_in_the_other_precision(particles, average, tmp_path, first, then):
    trainer = Trainer(particles, first, average)
    trainer.advance(0.5)
    trainer.save(tmp_path / "checkpoint.pt")
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    again = Trainer(particles, then, average)
    again.restore(state)
    for own, stored in zip(again.model.state_dict().items(), state["model"].items()):
        assert own[0] == stored[0]
        assert torch.equal(own[1], stored[1])
    assert abs(again.advance(0.5) / trainer.advance(0.5) - 1) < 1e-2


@pytest.mark.slow
def test_quality_is_that_of_float32_within_the_spread_of_seeds(star, tmp_path):
    found = {}
    for config in (SMALL, HALF):
        for seed in (1, 2):
            out = tmp_path / f"{config.precision}{seed}"
            run = train(star, out, epochs=5, config=replace(config, seed=seed), progress=False)
            said = score(run, star.parent / "truth")
            found.setdefault(config.precision, []).append((said["latent_r2"], said["mean_fsc"]))
    full, half = np.array(found["float32"]), np.array(found["bf16"])
    assert full[:, 0].min() > 0.5, "the motion is seen"
    assert (abs(half.mean(0) - full.mean(0)) <= np.ptp(full, 0)).all(), (full, half)
