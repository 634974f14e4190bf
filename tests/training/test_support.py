"""The support follows the maps, and says so when there are none."""

import pytest
import torch

from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.training.updates import filled_support


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_maps_without_density_are_an_error_in_one_line(value):
    with pytest.raises(InputError, match="found none"):
        filled_support(torch.full((8, 8, 8), value))
