"""Whether a call would make the host wait for a CUDA device, told without one."""

from collections.abc import Callable
from typing import Any, Final, cast
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from boxwright.structures.base import TensorStruct

__all__ = ["check_never_waits", "host_may_not_look"]


_LOOKS: Final = {  # how what looks at values is written
    "_local_scalar_dense": "a value is read: .item(), .tolist(), float(), `if` or `while`",
    "nonzero": "nonzero, or indexing by a mask",
}


def check_never_waits(function: Callable[..., object], *arguments: Any) -> None:
    """Call a function as if its tensors were on a CUDA device; it need not be there, as they have no values.

    Args:
        function: what is tried; the parameters and buffers of a module are taken to be on the device.
        arguments: tensors and structures of tensors are taken to be on the device, all others are passed on.

    Raises:
        AssertionError: the function looks at values (tensors of the host have none either), copies between device and
            host without `non_blocking`, indexes by a mask or by what is on the host, or would fail on a CUDA device.

    >>> check_never_waits(lambda boxes: boxes.clamp(min=0), torch.zeros(3, 4))
    """
    with FakeTensorMode(allow_non_fake_inputs=True), host_may_not_look():
        if isinstance(function, nn.Module):
            state = {**dict(function.named_parameters()), **dict(function.named_buffers())}
            module, state = function, {name: _there(tensor) for name, tensor in state.items()}

            def function(*there: Any) -> object:
                return torch.func.functional_call(module, state, there)

        there = [_there(argument) for argument in arguments]
        try:
            with _NoWaiting():
                function(*there)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            name = getattr(error.func, "overloadpacket", error.func).__name__
            raise AssertionError(f"waits for the device ({_LOOKS.get(name, name)})") from error
        except RuntimeError as error:
            raise AssertionError(f"would fail on a CUDA device: {error}") from error


def host_may_not_look() -> Any:
    """Let code that looks at values where the host need not wait for them take the way that it takes elsewhere."""
    return mock.patch.object(torch.compiler, "is_compiling", return_value=True)


def _there(argument: Any) -> Any:
    """Return what has the shape, strides and type of a tensor, but is on a CUDA device."""
    if isinstance(argument, TensorStruct):
        return argument.map(lambda tensor: cast(Tensor, _there(tensor)))
    if not isinstance(argument, Tensor):
        return argument
    return torch.empty_strided(argument.shape, argument.stride(), dtype=argument.dtype, device="cuda")


class _NoWaiting(TorchDispatchMode):
    """Fails where tensors without values would not show that the host waits."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        operator = function.overloadpacket.__name__
        if operator in {"index", "index_put_"} and any(_makes_wait(index, args[0]) for index in args[1]):
            raise AssertionError(f"waits for the device ({operator} by a mask, or by what is on the host)")
        if operator in {"_to_copy", "copy_"}:
            source = args[1] if operator == "copy_" else args[0]
            direct = kwargs.get("non_blocking") or (operator == "copy_" and args[2:] == (True,))
            if source.device.type != result.device.type and not direct:
                raise AssertionError(f"waits for the device (copies from {source.device.type} to {result.device.type})")
        return result


def _makes_wait(index: Tensor | None, indexed: Tensor) -> bool:
    return index is not None and (index.dtype == torch.bool or index.device != indexed.device)
