"""Whether something watches the operations, and needs plain ones."""

import torch

__all__ = ["is_traced"]


def is_traced() -> bool:
    """Whether a compiler, or a transform of `torch.func`, sees tensors without values that could be looked at."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
