"""Cuts a corpus of sentences into blocks with their outer <s> and </s> (design.md, "Blocks").

- ``none``: <s> + T - 2 consecutive tokens + </s>. The line-end </s> inside stay, as separators. Every block
  but the last has T tokens.
- ``complete``: <s> + as many whole sentences as fit into T - 1 tokens; the last </s> closes the block.
- ``complete_doc``: the same, and no block crosses a document boundary (an empty line).
- ``eos``: <s> + one sentence.

A sentence longer than T - 1 tokens makes a longer block in the last three modes; the task filters those out.

And where documents end within a block, for attention that stays within them. A prepared corpus has an empty line, a
lone </s>, between documents of several lines, and none where every line is a document (``corpus/documents.py``).
"""

import logging
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from fairseq.data import FairseqDataset, TokenBlockDataset

from fairseq_masking.corpus.indexed import TokenStream
from fairseq_masking.corpus.manifest import read_manifest
from fairseq_masking.errors import PREPARE_AGAIN, UserError

__all__ = ["BlockDataset", "BreakMode", "SizedDataset", "document_bounds", "document_numbers"]

logger = logging.getLogger(__name__)

BreakMode = Literal["none", "complete", "complete_doc", "eos"]


class SizedDataset(FairseqDataset):
    """Rows whose lengths are known before they are read."""

    sizes: npt.NDArray[Any]  # int64 [number of rows], int32 of lines; tokens with the outer specials

    def __len__(self) -> int:
        return len(self.sizes)

    def num_tokens(self, index: int) -> int:
        return int(self.sizes[index])

    size = num_tokens

    def num_tokens_vec(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return self.sizes[indices].astype(np.int64, copy=False)  # fairseq's batching takes no other


class BlockDataset(SizedDataset):
    """Blocks of clean tokens, int64 arrays of at most T tokens with the outer specials.

    Args:
        tokens: fairseq dataset of sentences that end with </s>, with ``sizes``.
        tokens_per_sample: T; ignored by ``eos``.
        drop_last: leave out the last block of mode ``none`` where it is shorter than the others.

    Raises:
        UserError: unknown mode, T too small, no sentence with a token, or no block left.
    """

    def __init__(
        self,
        tokens: Any,
        *,
        tokens_per_sample: int,
        bos: int,
        eos: int,
        pad: int,
        break_mode: BreakMode = "none",
        drop_last: bool = False,
    ) -> None:
        super().__init__()
        if break_mode not in get_args(BreakMode):
            raise UserError(f"--sample-break-mode {break_mode!r}: choose one of {', '.join(get_args(BreakMode))}")
        if tokens_per_sample < 3:
            raise UserError(f"--tokens-per-sample {tokens_per_sample}: at least 3, for <s>, a token and </s>")
        if len(tokens) == 0:
            raise UserError(f"the corpus has no sentences: {PREPARE_AGAIN}")
        sentence_sizes = np.asarray(tokens.sizes)
        if sentence_sizes.max() <= 1:
            raise UserError(f"the corpus has only empty lines: {PREPARE_AGAIN}")
        self.tokens, self.tokens_per_sample = tokens, tokens_per_sample
        self.cut = {"tokens_per_sample": tokens_per_sample, "break_mode": break_mode}  # what decides it
        self.ragged = break_mode != "none"  # whether blocks differ in length by their nature, not only the last one
        self._bos, self.eos, self._pad = bos, eos, pad
        self._closing = 0 if self.ragged else 1
        self._stream = TokenStream.of(tokens)

        room = tokens_per_sample - 1 - self._closing
        self._rows: Any = tokens  # read one by one where there is no stream
        if break_mode == "eos":
            # Where a line begins stands in its index, which is mapped into memory once for all processes of a
            # machine: a table would take 24 bytes a line of each. (fairseq's own also needs np.compat.)
            self._slices: npt.NDArray[np.int64] | None = None if self._stream is not None else _lines(sentence_sizes)
            self.sizes = sentence_sizes.astype(np.int32) + np.int32(1)
            return
        blocks = TokenBlockDataset(
            tokens, sentence_sizes.astype(np.int64), room, pad=pad, eos=eos, break_mode=break_mode
        )
        self._slices = blocks.slice_indices.astype(np.int64)
        self._rows = blocks
        if drop_last and not self.ragged and self._slices[-1, 1] - self._slices[-1, 0] < room:
            self._slices = self._slices[:-1]
        if len(self._slices) == 0:
            raise UserError(
                f"the corpus has {int(sentence_sizes.sum(dtype=np.int64))} tokens, less than one block of"
                f" --tokens-per-sample {tokens_per_sample}: use a larger corpus or shorter blocks"
            )
        # From the slices: fairseq keeps its own sizes in 16 bits, where a long sentence would wrap around.
        self.sizes = self._slices[:, 1] - self._slices[:, 0] + 1 + self._closing

    def rows_within(self, rows: npt.NDArray[np.bool_], cut: dict[str, Any]) -> npt.NDArray[np.bool_] | None:
        """Return which of these blocks have their middle in chosen blocks of the same text, cut otherwise.

        ``rows`` are bool [blocks under ``cut``, perhaps without the last], the result is bool [blocks]; None where
        they are not of this text.
        """
        specials = {"bos": self._bos, "eos": self.eos, "pad": self._pad}
        starts = BlockDataset(self.tokens, **specials, **cut)._all_slices()[:, 0]
        if len(starts) - len(rows) not in (0, 1):
            return None
        chosen = np.append(rows, False)
        places = np.searchsorted(starts, self._all_slices().mean(axis=1), side="right") - 1
        return chosen[np.minimum(places, len(rows))]

    def __getitem__(self, index: int) -> npt.NDArray[np.int64]:
        if self._slices is not None:
            start, stop = self._slices[index].tolist()
        else:
            start = self._stream.start_of(self.tokens, int(index))
            stop = start + int(self.sizes[index]) - 1
        block = np.empty(stop - start + 1 + self._closing, dtype=np.int64)
        block[0] = self._bos
        inner = block[1 : 1 + stop - start]
        if self._stream is not None:
            self._stream.read(start, stop, inner)
        else:
            inner[:] = self._rows[index]
        if self._closing:
            block[-1] = self.eos
        return block

    def _all_slices(self) -> npt.NDArray[np.int64]:
        return _lines(self.sizes - 1) if self._slices is None else self._slices


def document_bounds(folder: Path, tokens: Any) -> str:
    """Return what stands between a corpus's documents: ``line`` or ``blank-line``, as ``prepare corpus`` has it.

    The folder's manifest says it; without one, empty lines are the bounds wherever there are any.
    """
    settings = getattr(read_manifest(folder), "settings", {})
    if "documents" in settings:
        by_line = settings["documents"] == "line" and not settings["text"]["split_sentences"]
    else:
        by_line = not (np.asarray(tokens.sizes) == 1).any()
    logger.info("attention stays within documents: %s ends one", "a line" if by_line else "an empty line")
    return "line" if by_line else "blank-line"


def document_numbers(tokens_T: npt.NDArray[np.int64], bounds: str, eos: int) -> npt.NDArray[np.int64]:
    """Return the number of each token's document in its block, int64 ``[T]`` from 0 on.

    The outer <s> and </s> belong to the first and the last document, an empty line's </s> to the one that it ends.
    """
    ends_T = tokens_T == eos
    if bounds == "blank-line":
        ends_T[1:] &= ends_T[:-1]
        ends_T[0] = False
    numbers_T = np.zeros(len(tokens_T), dtype=np.int64)
    np.cumsum(ends_T[:-2], out=numbers_T[1:-1])
    numbers_T[-1] = numbers_T[-2]
    return numbers_T


def _lines(sizes: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Where each line begins and ends, int64 ``[lines, 2]``."""
    ends = np.cumsum(sizes, dtype=np.int64)
    return np.stack((ends - sizes, ends), axis=1)
