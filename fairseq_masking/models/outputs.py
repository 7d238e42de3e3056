"""What models hand to criterions. A criterion names the class it needs; ``tasks`` checks that they fit.

Shapes: N masked tokens of the batch, in the order of ``positions``.
"""

from typing import NamedTuple

from torch import Tensor

__all__ = ["MaskedTokenOutput"]


class MaskedTokenOutput(NamedTuple):
    """``losses_N``: cross-entropy in nats, fp32; ``predictions_N``: int64 arg max."""

    losses_N: Tensor
    predictions_N: Tensor
