"""The norms that a network can be built of."""

from torch import nn

from fairseq_masking.errors import UserError

__all__ = ["NORMS", "build_norm"]

NORMS = ("layer_norm", "rms_norm")


def build_norm(kind: str, width: int, eps: float = 1e-5, *, bias: bool = True) -> nn.LayerNorm | nn.RMSNorm:
    """Return a norm over the last dimension; RMSNorm (Zhang & Sennrich 2019) has no bias anyway.

    Raises:
        UserError: ``kind`` is not one of ``NORMS``.
    """
    if kind not in NORMS:
        raise UserError(f"unknown norm {kind!r}: choose {' or '.join(NORMS)}")
    return nn.RMSNorm(width, eps) if kind == "rms_norm" else nn.LayerNorm(width, eps, bias=bias)
