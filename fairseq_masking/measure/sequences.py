"""The fixed sequences that a measurement is made on: full blocks of a prepared corpus."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from fairseq.data import Dictionary

from fairseq_masking.corpus.dictionary import masking_vocabulary
from fairseq_masking.data import BlockDataset, MaskedDataset, load_tokens
from fairseq_masking.errors import UserError
from fairseq_masking.masking import Masker, MaskingConfig

__all__ = ["choose_sequences", "load_blocks", "masked_batches"]

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


def masked_batches(
    data: Path,
    split: str,
    dictionary: Dictionary,
    *,
    masking: MaskingConfig,
    tokens_per_sample: int,
    batch_size: int,
) -> Iterator[dict[str, Any]]:
    """Yields the ``net_input`` of batches of full blocks in a random order, masked once."""
    dataset = MaskedDataset(
        load_blocks(data, split, dictionary, tokens_per_sample=tokens_per_sample),
        Masker(masking, masking_vocabulary(dictionary, folder=data)),
        pad_index=dictionary.pad(),
        seed=masking.seed,
        fixed_epoch=1,
    )
    order = dataset.ordered_indices()
    for start in range(0, len(order), batch_size):
        rows = [dataset[index] for index in order[start : start + batch_size]]
        yield dataset.collater(rows)["net_input"]
