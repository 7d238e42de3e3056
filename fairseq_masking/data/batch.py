"""The only maker of design.md's batch: clean text, the corruption beside it; and fairseq's sample around it.

Shapes: I texts, K splits, B = I * K rows, T columns, N masked positions of the batch, k of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fairseq_masking.masking import Kind, MaskedItem, noise_seed

__all__ = ["MaskedExample", "batch_input", "collate"]

_NO_COLUMNS = np.empty((0, 0), dtype=np.int64)
_NO_MASK = MaskedItem(_NO_COLUMNS, np.empty(0, dtype=np.int8), _NO_COLUMNS)


@dataclass(frozen=True, slots=True, eq=False)
class MaskedExample:
    """One item of a ``MaskedDataset``."""

    index: int  # of the item in its dataset
    tokens: npt.NDArray[np.int64]  # int64 [T], clean text with the outer <s> and </s>
    masked: MaskedItem | None  # its K masks; None where it is skipped
    num_splits: int  # K
    documents: npt.NDArray[np.int64] | None = None  # int64 [T], ``document_numbers``; None: attention knows of none


def batch_input(
    texts: Sequence[npt.NDArray[np.int64]],
    masks: Sequence[MaskedItem | None],
    *,
    documents: Sequence[npt.NDArray[np.int64]] | None = None,
    num_splits: int = 1,
    pad_index: int | None = None,
    noise_seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Make the ``net_input`` that every model takes; the K rows of a text stand together.

    Args:
        texts: I clean texts, int64 [length] with the outer <s> and </s>.
        masks: the K masks of each text; None gives it K rows without a mask.
        documents: the number of each token's document in its text.
        num_splits: K.
        pad_index: id of <pad>, needed where the texts differ in length.
        noise_seed: of what is drawn on the device for this batch.

    Returns:
        ``src_tokens`` int64 [B, T], ``src_lengths`` int64 [B], ``positions`` int64 [N] (row * T + column),
        ``kinds`` int8 [N], ``replacements`` int64 [N], ``num_masked`` int64 [B], and ``shape``, Python values
        that no model has to ask the device for: ``rectangular`` (all rows have one length and one k),
        ``max_masked`` (the largest k), ``num_mask`` ([MASK]s of the batch), ``max_visible`` (the most columns
        of a row that are neither [MASK] nor <pad>), ``has_padding``, ``noise_seed``, ``num_splits`` (K). With
        documents also ``documents`` int64 [B, T], -1 at <pad>.
    """
    num_rows = len(texts) * num_splits
    lengths_I = np.array([len(text) for text in texts], dtype=np.int64)
    filled = [_NO_MASK if mask is None else mask for mask in masks]
    counts_I = np.array([len(mask.kinds) for mask in filled], dtype=np.int64)
    num_mask_I = np.array([np.count_nonzero(mask.kinds == Kind.MASK) for mask in filled], dtype=np.int64)
    width = int(lengths_I.max())
    has_padding = bool((lengths_I != width).any())
    assert pad_index is not None or not has_padding, "texts of different lengths need a <pad>"

    def rows(values: Sequence[npt.NDArray[np.int64]], fill: int | None) -> npt.NDArray[np.int64]:
        rows_BT = np.empty((num_rows, width), dtype=np.int64)
        if has_padding:
            rows_BT.fill(fill)
        for row, value in zip(range(0, num_rows, num_splits), values, strict=True):
            rows_BT[row : row + num_splits, : len(value)] = value
        return rows_BT

    num_masked_B = np.repeat(counts_I, num_splits)
    row_starts_N = np.repeat(np.arange(num_rows, dtype=np.int64) * width, num_masked_B)
    arrays = {
        "src_tokens": rows(texts, pad_index),
        "src_lengths": np.repeat(lengths_I, num_splits),
        "positions": row_starts_N + np.concatenate([mask.columns.ravel() for mask in filled]),
        "kinds": np.concatenate([np.tile(mask.kinds, num_splits) for mask in filled]),
        "replacements": np.concatenate([mask.replacements.ravel() for mask in filled]),
        "num_masked": num_masked_B,
        **({} if documents is None else {"documents": rows(documents, -1)}),
    }
    shape = {
        "rectangular": not has_padding and bool((counts_I == counts_I[0]).all()),
        "max_masked": int(counts_I.max()),
        "num_mask": int(num_mask_I.sum()) * num_splits,
        "max_visible": int((lengths_I - num_mask_I).max()),
        "has_padding": has_padding,
        "noise_seed": noise_seed,
        "num_splits": num_splits,
    }
    return {**{name: torch.from_numpy(array).to(device) for name, array in arrays.items()}, "shape": shape}


def collate(items: Sequence[MaskedExample], pad_index: int, *, seed: int = 1, epoch: int = 1) -> dict[str, Any]:
    """Makes the batch of design.md on the CPU from items with the same K; {} for none.

    The K rows of an item stand together, a skipped item has rows without masks.
    """
    if len(items) == 0:
        return {}
    num_splits = items[0].num_splits
    index_I = np.array([item.index for item in items], dtype=np.int64)
    net_input = batch_input(
        [item.tokens for item in items],
        [item.masked for item in items],
        documents=None if items[0].documents is None else [item.documents for item in items],
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
