"""Puts masked items together into fairseq's sample around the batch of design.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fairseq_masking.data.batch import batch_input
from fairseq_masking.masking import MaskedItem, noise_seed

__all__ = ["MaskedExample", "collate"]


@dataclass(frozen=True, slots=True, eq=False)
class MaskedExample:
    """One item of a ``MaskedDataset``.

    Attributes:
        index: of the item in its dataset.
        tokens: int64 [T], clean text with the outer <s> and </s>.
        masked: its K masks; None where it is skipped.
        num_splits: K.
    """

    index: int
    tokens: npt.NDArray[np.int64]
    masked: MaskedItem | None
    num_splits: int


def collate(
    items: Sequence[MaskedExample], pad_index: int, *, seed: int = 1, epoch: int = 1
) -> dict[str, Any]:
    """Makes a batch; the K rows of an item stand together, a skipped item has rows without masks.

    Args:
        items: of one dataset, with the same K.
        pad_index: id of <pad>.
        seed: of the run, for ``noise_seed``.
        epoch: that the masks were drawn for, for ``noise_seed``.

    Returns:
        The batch of design.md, tensors on the CPU; {} for no items.
    """
    if len(items) == 0:
        return {}
    num_splits = items[0].num_splits
    index_I = np.array([item.index for item in items], dtype=np.int64)
    net_input = batch_input(
        [item.tokens for item in items],
        [item.masked for item in items],
        num_splits=num_splits,
        pad_index=pad_index,
        noise_seed=noise_seed(seed, epoch, items[0].index),
    )
    return {
        "id": torch.from_numpy(np.repeat(index_I, num_splits)),
        "split": torch.from_numpy(np.tile(np.arange(num_splits, dtype=np.int64), len(items))),
        "nsentences": len(items) * num_splits,
        "ntokens": sum(len(item.tokens) for item in items) * num_splits,
        "num_skipped": sum(item.masked is None for item in items),
        "net_input": net_input,
    }
