"""The fixed text that a checkpoint is measured on: full blocks of a prepared corpus, masked or not."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from fairseq.data import Dictionary

from fairseq_masking.checkpoints.hub import HubInterface
from fairseq_masking.corpus.dictionary import masking_vocabulary
from fairseq_masking.data import BlockDataset, MaskedDataset, load_tokens
from fairseq_masking.errors import UserError
from fairseq_masking.masking import Masker, MaskingConfig
from fairseq_masking.measure import CORRUPTIONS

__all__ = ["choose_sequences", "load_blocks", "masked_batches", "sequence_length"]

logger = logging.getLogger(__name__)

Tokens = npt.NDArray[np.int64]


def sequence_length(hub: HubInterface, wanted: int | None) -> int:
    """Return ``wanted`` tokens, or as many as the checkpoint was trained with.

    Raises:
        UserError: the model has fewer positions.
    """
    length = wanted or hub.cfg.task.tokens_per_sample
    if length > hub.model.max_positions():
        raise UserError(
            f"--tokens-per-sample {length} is more than the checkpoint's {hub.model.max_positions()}"
            " positions: lower it"
        )
    if hub.cfg.task.get("attend_within_documents"):
        logger.warning("trained within documents, measured on whole rows, where documents see one another")
    return int(length)


def load_blocks(data: Path, split: str, dictionary: Dictionary, *, tokens_per_sample: int) -> BlockDataset:
    """Return the blocks of a split, all of the same length."""
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
    """Choose blocks at random, without repetition; the same for every checkpoint.

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
    hub: HubInterface,
    split: str,
    *,
    data: Path,
    tokens_per_sample: int | None,
    mask_prob: float,
    batch_size: int,
    seed: int,
    corruption: str = "bert",
) -> Iterator[dict[str, Any]]:
    """Yield the ``net_input`` of batches of full blocks in a random order, masked once.

    Args:
        data: prepared corpus.
        tokens_per_sample: see ``sequence_length``.
        seed: of sequences, masks and noise.
        corruption: of ``CORRUPTIONS``.
    """
    length, dictionary = sequence_length(hub, tokens_per_sample), hub.dictionary
    leave, random = CORRUPTIONS[corruption]
    masking = MaskingConfig(mask_prob=mask_prob, leave_unmasked_prob=leave, random_token_prob=random, seed=seed)
    dataset = MaskedDataset(
        load_blocks(data, split, dictionary, tokens_per_sample=length),
        Masker(masking, masking_vocabulary(dictionary, folder=data)),
        pad_index=dictionary.pad(),
        seed=seed,
        fixed_epoch=1,
    )
    order = dataset.ordered_indices()
    for start in range(0, len(order), batch_size):
        rows = [dataset[index] for index in order[start : start + batch_size]]
        yield dataset.collater(rows)["net_input"]
