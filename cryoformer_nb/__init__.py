"""Continuous heterogeneous cryo-EM reconstruction from notebooks: particle images in, a moving molecule out."""

__version__ = "0.1.0"

#: The public names and the module each lives in, imported when first asked for so that `cryoformer --help` is instant.
_PUBLIC = {"simulate": "simulator", "load_particles": "particles", "train": "training", "Config": "training", "Run": "training", "fsc": "fourier_shells"}

__all__ = list(_PUBLIC)


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__():
    return sorted([*globals(), *_PUBLIC])
