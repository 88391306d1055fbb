"""Apple's MPS, pretended on the CPU: real values, but no float64, and tensors that do not meet those of the host."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

__all__ = ["DEVICE", "pretended_mps"]

DEVICE = torch.device("mps", 0)
WIDE = (torch.float64, torch.complex128)
CROSSING = {"_to_copy", "copy_", "index", "index_put_", "index_put", "_index_put_impl_"}  # take tensors of two devices


@contextmanager
def pretended_mps() -> Iterator[None]:
    """Let tensors and modules be moved to `DEVICE` and computed there, where a TypeError says what MPS lacks.

    What `.cpu()` brings back is free of that. Autocast is not pretended.
    """
    swap = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # as parameters become of another class
    torch._C._set_only_lift_cpu_tensors(True)  # so that torch.tensor(…, device=) is seen
    try:
        with _Pretence():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
        torch.__future__.set_swap_module_params_on_conversion(swap)


class _There(Tensor):
    """A tensor that says that it is on the device, and holds its values on the CPU.

    To torch it is a meta tensor, as the autograd engine knows no stream of a device that is not there.
    """

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "_There":
        shell = torch.empty_strided(held.shape, held.stride(), dtype=held.dtype, device="meta")
        there = Tensor._make_subclass(cls, shell)
        there.held = held
        return there

    @property
    def device(self) -> torch.device:
        return DEVICE

    @property
    def is_meta(self) -> bool:
        return False

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=DEVICE)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)  # torch.load(map_location="cpu") puts it there

    def __repr__(self, **_: Any) -> str:
        return f"{self.held!r} on {DEVICE}"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with _Pretence():
            return function(*args, **kwargs or {})


class _Pretence(TorchDispatchMode):
    """Computes on the CPU what is asked of the device, and refuses what MPS would."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name, operator = function._schema.name, function.overloadpacket.__name__
        if name in OPDEFS:  # an operator of our own, to be looked into
            with self:
                return OPDEFS[name]._init_fn(*args, **kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd"):
            with self:
                return function.decompose(*args, **kwargs)
        leaves, form = tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        ours = [tensor for tensor in tensors if isinstance(tensor, _There)]
        if ours and operator not in CROSSING and any(type(tensor) is Tensor and tensor.ndim for tensor in tensors):
            raise RuntimeError(f"{operator} of tensors on {DEVICE} and on the host")
        there = isinstance(args[0], _There) if operator == "copy_" else bool(ours)
        if kwargs.get("device") is not None:
            there = torch.device(kwargs["device"]).type in ("mps", "meta")
        if operator == "native_batch_norm_backward" and ours and not args[1].is_contiguous():
            raise RuntimeError("batch norm makes wrong gradients of channels_last before torch 2.14")
        if there and kwargs.get("generator") is not None:
            raise RuntimeError(f"{operator} with a generator of the host")
        if there and kwargs.get("non_blocking"):
            raise RuntimeError(f"{operator} without waiting, while the host may free what is copied")
        leaves = [leaf.held if isinstance(leaf, _There) else leaf for leaf in leaves]
        if there:
            leaves = [torch.device("cpu") if isinstance(leaf, torch.device) else leaf for leaf in leaves]
        args, kwargs = tree_unflatten(leaves, form)
        known = {id(tensor.held): tensor for tensor in ours}

        def settled(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if value.dtype in WIDE and (there or ours):
                raise TypeError(f"{operator}: {DEVICE} has no {value.dtype}")
            return known.get(id(value), _There(value) if there else value)

        return tree_map(settled, function(*args, **kwargs))
