"""The names in a checkpoint are a file format: runs of earlier versions must load."""

import pytest
import torch

from cryoformer_nb.imaging.projector import lattice_coordinates
from cryoformer_nb.model.config import Config
from cryoformer_nb.model.fourier_model import build_model
from cryoformer_nb.model.poses import make_poses

BOX = 16
BUFFERS = "bounds reference noise width_px scale unsplat envelope smooth".split()
FOURIER = "amplitude circle octants start".split()


def layers(name: str, *numbers: int) -> list:
    "Weight and bias of the linear layers with these places in an `mlp`."
    return [f"{name}.{k}.{kind}" for k in numbers for kind in ("weight", "bias")]


def attention(name: str) -> list:
    kinds = "in_proj_weight in_proj_bias out_proj.weight out_proj.bias".split()
    return [f"{name}.{kind}" for kind in kinds]


def block(name: str) -> list:
    "A decoder block."
    both = attention(f"{name}.inter") + attention(f"{name}.cross")
    return layers(f"{name}.norms", 0, 1, 2) + both + layers(f"{name}.feed", 0, 2)


FIELD = ["grid.table", *layers("field", 0, 2)]
BLOCKS = [
    "transformer.queries",
    *layers("transformer.tokens", 0, 2),
    *[name for k in range(3) for name in block(f"transformer.blocks.{k}")],
]
REGION = [
    f"transformer.region.{part}.{kind}"
    for part in ("norm", "query", "key", "value")
    for kind in ("weight", "bias")
]
OUT = layers("transformer.out", 0, 1)
CANONICAL = ["encoder.points", "encoder.gain", *layers("encoder.net", 0, 2, 4, 6)]
IMAGE = ["encoder.gain", *layers("encoder.net", *range(0, 21, 2))]
TRANSFORMER = BLOCKS + REGION + OUT
DOT = ["base", *BUFFERS, *FIELD, *TRANSFORMER, *CANONICAL]

VARIANTS = {
    "default": (Config(), DOT),
    "fourier": (
        Config(domain="fourier", projector="slice"),
        ["base", *BUFFERS, *FOURIER, *FIELD, *TRANSFORMER, *CANONICAL],
    ),
    "the paper's encoder and readout": (
        Config(encoder="image", readout="ffn"),
        ["base", *BUFFERS, *FIELD, *TRANSFORMER, *layers("readout.net", 0, 2), *IMAGE],
    ),
    "no spatial attention": (
        Config(spatial_attention=False),
        ["base", *BUFFERS, *FIELD, *BLOCKS, *OUT, *layers("readout.net", 0, 2), *CANONICAL],
    ),
    "no blocks": (
        Config(deformation_blocks=False),
        ["base", *BUFFERS, *FIELD, *layers("readout.net", 0, 2, 4), *CANONICAL],
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_in_the_state_of_a_model(variant):
    config, expected = VARIANTS[variant]
    distance = lattice_coordinates(BOX).norm(dim=-1).reshape(BOX, BOX, BOX)
    noise = torch.ones(BOX, BOX // 2 + 1)
    model = build_model(config, distance < 6, torch.exp(-(distance**2) / 12), noise, 1.0)
    assert list(model.state_dict()) == expected


@pytest.mark.parametrize("kind, learnt", [("given", []), ("refine", []), ("table", ["correction"])])
def test_names_in_the_state_of_poses(kind, learnt):
    poses = make_poses(kind, torch.eye(3).expand(4, 3, 3), torch.zeros(4, 2), BOX)
    assert set(poses.state_dict()) == {"rotations", "shifts_px", *learnt}


@pytest.mark.parametrize("kind", ["encoder", "residual"])
def test_names_in_the_state_of_pose_networks(kind):
    poses = make_poses(kind, torch.eye(3).expand(4, 3, 3), torch.zeros(4, 2), BOX)
    network = ["encoder.features.gain", *layers("encoder.features.net", *range(0, 21, 2))]
    names = {"rotations", "shifts_px", *network}
    assert names <= set(poses.state_dict())
