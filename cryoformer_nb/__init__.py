"""Continuous heterogeneous cryo-EM reconstruction from notebooks: particle images in, a moving molecule out."""

__version__ = "0.1.0"

import os as _os
from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

# libgomp's threads wait for one another by spinning for milliseconds. On a machine that does
# anything else at the same time that is ruinous: two trainings side by side on two cores took 4
# times as long each as alone, and up to 30 times; with a short spin, twice, and alone about the
# same. Read when torch is first imported.
if "OMP_WAIT_POLICY" not in _os.environ:
    _os.environ.setdefault("GOMP_SPINCOUNT", "2000")

#: The public names and the module each lives in, imported when first asked for, so that
#: `cryoformer --help` is instant.
_PUBLIC = {
    "InputError": "core.conventions",
    "fsc": "core.fsc",
    "simulate": "imaging.simulator",
    "Particles": "particles.particles",
    "load_particles": "particles.particles",
    "Consensus": "particles.consensus",
    "Config": "model.config",
    "Run": "training.run",
    "train": "training.train",
    "score": "analysis.metrics",
    "view_volume": "show.molecule",
    "explore": "show.explorer",
    "studio": "show.studio",
    "show_training": "show.training",
    "show_fsc": "show.fsc",
    "show_particles": "show.particles",
    "show_verdict": "show.training",
    "show_poses": "show.poses",
    "report": "show.report",
    "film": "show.film",
}

__all__ = list(_PUBLIC)

if _TYPE_CHECKING:  # the same names for editors, which complete them; a test holds both lists equal
    from .analysis.metrics import score
    from .core.conventions import InputError
    from .core.fsc import fsc
    from .imaging.simulator import simulate
    from .model.config import Config
    from .particles.consensus import Consensus
    from .particles.particles import Particles, load_particles
    from .show.explorer import explore
    from .show.film import film
    from .show.fsc import show_fsc
    from .show.molecule import view_volume
    from .show.particles import show_particles
    from .show.poses import show_poses
    from .show.report import report
    from .show.studio import studio
    from .show.training import show_training, show_verdict
    from .training.run import Run
    from .training.train import train


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list:
    return sorted([*globals(), *_PUBLIC])
