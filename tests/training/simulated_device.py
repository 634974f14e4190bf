"""A device that is none: tensors on it hold their numbers in memory, and nothing may mix with them.

On a GPU an operation on tensors of two devices is an error, and every number that is asked back
makes the program wait. Neither shows on the CPU. Here tensors say that they lie on torch's `meta`
device and are computed on the CPU; a tensor of both places in one operation raises, and each
moment at which a GPU would have to be waited for is noted.
"""

from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
_aten = torch.ops.aten

#: Operations whose result has a size that only the numbers tell, or is a number of Python.
_WAITS = {_aten._local_scalar_dense.default, _aten.nonzero.default, _aten.masked_select.default}
_WAITS |= {_aten.equal.default, _aten._unique2.default, _aten.unique_dim.default}
_WAITS |= {_aten.repeat_interleave.Tensor, _aten.bincount.default}

#: Views that only note what is to be done; within a mode nobody would do it.
_LAZY = {_aten._conj.default: torch.conj_physical, _aten._neg_view.default: torch.neg}

#: What copies between devices.
_COPIES = {_aten._to_copy.default, _aten.copy_.default}


class Placed(torch.Tensor):
    "A tensor on the device; its numbers are in `inner`."

    @staticmethod
    def __new__(cls, inner):
        place = {}
        if inner.layout == torch.strided:
            place = dict(strides=inner.stride(), storage_offset=inner.storage_offset())
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, device=DEVICE, **place
        )

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func}: a tensor of the device outside of `on_device`")


class _Operations(TorchDispatchMode):
    def __init__(self, waits: list):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        placed = [x for x in given if isinstance(x, Placed)]
        others = [x for x in given if not isinstance(x, Placed)]
        assert not any(x.is_meta for x in others), f"{func}: a tensor without numbers"
        wrong = [tuple(x.shape) for x in others if x.dim()]
        if placed and wrong and func not in _COPIES:
            raise AssertionError(f"{func}: tensors {wrong} of the CPU among those of the device")
        goal = DEVICE if placed else torch.device("cpu")
        if kwargs.get("device") is not None:
            goal, kwargs["device"] = torch.device(kwargs["device"]), torch.device("cpu")
        elif func is _aten.copy_.default:
            goal = DEVICE if isinstance(args[0], Placed) else torch.device("cpu")
        if placed and (func in _WAITS or _is_masked(func, args) or goal != DEVICE):
            self.waits.append(str(func))
        known = {id(x.inner): x for x in placed}  # what is changed in place stays what it was
        args, kwargs = numbers((args, kwargs))
        found = _LAZY.get(func, func)(*args, **kwargs)
        if goal != DEVICE:
            return found
        return tree_map(lambda x: _placed(x, known) if isinstance(x, torch.Tensor) else x, found)


def _is_masked(func, args) -> bool:
    "Whether tensors are indexed by booleans."
    if func not in (_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default):
        return False
    return any(x is not None and x.dtype == torch.bool for x in args[1])


def _placed(x: torch.Tensor, known: dict) -> Placed:
    return known[id(x)] if id(x) in known else Placed(x)


class _Functions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func is torch.Tensor.tolist:
            return func(args[0].cpu())
        return func(*args, **kwargs)


def numbers(tree):
    "Containers with the numbers of tensors in place of the tensors of the device."
    return tree_map(lambda x: x.inner if isinstance(x, Placed) else x, tree)


@contextmanager
def on_device():
    "Within, `DEVICE` can be computed on; yields the list of what a GPU would be waited for."
    waits = []
    with _Functions(), _Operations(waits):
        yield waits
