"""The activation functions an encoder may use, by name."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from fairseq_masking.errors import UserError

__all__ = ["ACTIVATIONS", "get_activation"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "tanh": F.tanh}


def get_activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return the activation called ``name``.

    Raises:
        UserError: ``name`` is not one of ``ACTIVATIONS``.
    """
    if name not in ACTIVATIONS:
        raise UserError(f"unknown activation {name!r}: choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
