"""Puts masked items together into the batch of design.md: clean text, the corruption beside it.

Shapes: B rows (items times K splits), T columns, N masked positions of the batch, k of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fairseq_masking.masking import MaskedItem, noise_seed

__all__ = ["MaskedExample", "collate"]

_NO_COLUMNS = np.empty(0, dtype=np.int64)
_NO_KINDS = np.empty(0, dtype=np.int8)


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
    num_rows = len(items) * num_splits
    lengths_I = np.array([len(item.tokens) for item in items], dtype=np.int64)
    counts_I = np.array(
        [0 if item.masked is None else len(item.masked.kinds) for item in items], dtype=np.int64
    )
    num_mask_I = np.array(
        [0 if item.masked is None else np.count_nonzero(item.masked.kinds == 0) for item in items],
        dtype=np.int64,
    )
    width = int(lengths_I.max())
    has_padding = bool((lengths_I != width).any())

    tokens_BT = np.empty((num_rows, width), dtype=np.int64)
    if has_padding:
        tokens_BT.fill(pad_index)
    columns: list[npt.NDArray[np.int64]] = []
    kinds: list[npt.NDArray[np.int8]] = []
    replacements: list[npt.NDArray[np.int64]] = []
    for number, item in enumerate(items):
        row = number * num_splits
        tokens_BT[row : row + num_splits, : len(item.tokens)] = item.tokens
        if item.masked is not None:
            columns.append(item.masked.columns.ravel())
            kinds.extend([item.masked.kinds] * num_splits)
            replacements.append(item.masked.replacements.ravel())

    num_masked_B = np.repeat(counts_I, num_splits)
    row_starts_N = np.repeat(np.arange(num_rows, dtype=np.int64) * width, num_masked_B)
    positions_N = row_starts_N + np.concatenate(columns or [_NO_COLUMNS])

    index_I = np.array([item.index for item in items], dtype=np.int64)
    return {
        "id": torch.from_numpy(np.repeat(index_I, num_splits)),
        "split": torch.from_numpy(np.tile(np.arange(num_splits, dtype=np.int64), len(items))),
        "nsentences": num_rows,
        "ntokens": int(lengths_I.sum()) * num_splits,
        "num_skipped": int(np.count_nonzero(counts_I == 0)),
        "net_input": {
            "src_tokens": torch.from_numpy(tokens_BT),
            "src_lengths": torch.from_numpy(np.repeat(lengths_I, num_splits)),
            "positions": torch.from_numpy(positions_N),
            "kinds": torch.from_numpy(np.concatenate(kinds or [_NO_KINDS])),
            "replacements": torch.from_numpy(np.concatenate(replacements or [_NO_COLUMNS])),
            "num_masked": torch.from_numpy(num_masked_B),
            # Known on the host, so that no model has to ask the device for them.
            "shape": {
                "rectangular": not has_padding and bool((counts_I == counts_I[0]).all()),
                "max_masked": int(counts_I.max()),
                "num_mask": int(num_mask_I.sum()) * num_splits,
                "max_visible": int((lengths_I - num_mask_I).max()),
                "has_padding": has_padding,
                "noise_seed": noise_seed(seed, epoch, int(index_I[0])),
            },
        },
    }
