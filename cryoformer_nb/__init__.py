"""Continuous heterogeneous cryo-EM reconstruction from notebooks: particle images in, a moving molecule out."""

__version__ = "0.1.0"

import os as _os

# libgomp's threads wait for one another by spinning for milliseconds. On a machine that does anything else at the same time that is ruinous:
# two trainings side by side on two cores took 4 times as long each as alone, and up to 30 times; with a short spin, twice, and alone about the same.
if "OMP_WAIT_POLICY" not in _os.environ: _os.environ.setdefault("GOMP_SPINCOUNT", "2000")   # read when torch is first imported

#: The public names and the module each lives in, imported when first asked for so that `cryoformer --help` is instant.
_PUBLIC = {"simulate": "simulator", "load_particles": "particles", "train": "training", "Config": "config", "Run": "training", "view_volume": "viewer", "explore": "explorer", "show_training": "monitor", "show_fsc": "monitor", "show_particles": "monitor", "show_poses": "pose_view", "fsc": "fourier_shells"}

__all__ = list(_PUBLIC)


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__():
    return sorted([*globals(), *_PUBLIC])
