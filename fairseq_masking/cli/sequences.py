"""The fixed sequences that a measurement is made on: full blocks of a prepared corpus."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from fairseq.data import Dictionary

from fairseq_masking.data import BlockDataset, load_tokens
from fairseq_masking.errors import UserError

__all__ = ["choose_sequences", "load_blocks"]

Tokens = npt.NDArray[np.int64]


def load_blocks(data: Path, split: str, dictionary: Dictionary, *, tokens_per_sample: int) -> BlockDataset:
    """Blocks of a split, all of the same length."""
    return BlockDataset(
        load_tokens(str(data / split), dictionary),
        tokens_per_sample=tokens_per_sample,
        bos=dictionary.bos(),
        eos=dictionary.eos(),
        pad=dictionary.pad(),
        drop_last=True,
    )


def choose_sequences(
    blocks: BlockDataset, count: int, fits: Callable[[Tokens], bool], *, seed: int, source: Path
) -> list[tuple[int, Tokens]]:
    """Chooses blocks at random, without repetition.

    Args:
        fits: whether a block has enough tokens to mask.
        source: named in the error.

    Raises:
        UserError: there are fewer.
    """
    chosen: list[tuple[int, Tokens]] = []
    for index in np.random.default_rng(seed).permutation(len(blocks)).tolist():
        if len(chosen) == count:
            break
        if fits(blocks[index]):
            chosen.append((index, blocks[index]))
    if len(chosen) < count:
        raise UserError(
            f"--sequences {count}: {source} has only {len(chosen)} full blocks of --tokens-per-sample"
            f" {blocks.tokens_per_sample} with enough tokens: lower one of them"
        )
    return chosen
