"""What models hand to criterions. A criterion names the class it needs; ``tasks`` checks that they fit.

Shapes: N masked tokens of the batch, in the order of ``positions``.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

__all__ = ["MaskedTokenOutput"]


class MaskedTokenOutput(NamedTuple):
    """What criterions on masked tokens need.

    Attributes:
        losses_N: cross-entropy in nats, fp32.
        predictions_N: int64 arg max.
        measures: by name, what else the model wants logged of this batch: means over its rows, known on the
            host. The same names in every batch.
    """

    losses_N: Tensor
    predictions_N: Tensor
    measures: Mapping[str, float] = MappingProxyType({})
