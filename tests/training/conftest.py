"""What is made of the set `star` that a module simulates."""

import pytest

from cryoformer_nb.particles.consensus import consensus
from cryoformer_nb.particles.particles import load_particles


@pytest.fixture(scope="module")
def particles(star):
    return load_particles(star)


@pytest.fixture(scope="module")
def average(particles):
    return consensus(particles)
