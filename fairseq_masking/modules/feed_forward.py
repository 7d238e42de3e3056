"""What a feed-forward layer computes between its two projections: an activation, gated or not."""

from collections.abc import Callable

from torch import Tensor

__all__ = ["FEED_FORWARDS", "activate"]

# How many times the inner width the first projection has.
FEED_FORWARDS = {"mlp": 1, "glu": 2}


def activate(kind: str, activation: Callable[[Tensor], Tensor], projected: Tensor) -> Tensor:
    """Return float ``[..., F]`` of what the first projection returned, ``[..., F]`` or, for ``glu``, ``[..., 2F]``.

    ``glu`` multiplies the activated first half with the second: GeGLU where the activation is GELU.
    Source: Shazeer 2020 (2002.05202), Eq. 6.
    """
    if kind == "mlp":
        return activation(projected)
    value, gate = projected.chunk(2, dim=-1)
    return activation(value) * gate
