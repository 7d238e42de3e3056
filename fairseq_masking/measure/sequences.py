"""The text that a checkpoint is measured on, full blocks of a prepared corpus, or shown on, blocks of any text.

Shapes: T tokens of a block.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from fairseq.data import Dictionary
from torch import Tensor

from fairseq_masking.checkpoints.hub import HubInterface
from fairseq_masking.corpus.dictionary import masking_vocabulary
from fairseq_masking.corpus.indexed import TokenStream
from fairseq_masking.data import BlockDataset, MaskedDataset, load_tokens
from fairseq_masking.errors import UserError
from fairseq_masking.masking import Masker, MaskingConfig
from fairseq_masking.measure import CORRUPTIONS

__all__ = [
    "begins_word", "choose_sequences", "count_tokens", "cut_blocks", "cut_texts", "load_blocks", "masked_batches",
    "sequence_length", "surface", "token_places", "unigram",
]  # fmt: skip

logger = logging.getLogger(__name__)

Tokens = npt.NDArray[np.int64]
_CHUNK = 1 << 20  # tokens read at once


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
    ids = {"bos": dictionary.bos(), "eos": dictionary.eos(), "pad": dictionary.pad()}
    tokens = load_tokens(f"{data}/{split}", dictionary)
    return BlockDataset(tokens, tokens_per_sample=tokens_per_sample, drop_last=True, **ids)


def count_tokens(data: Path, split: str, dictionary: Dictionary) -> npt.NDArray[np.int64]:
    """Return int64 ``[V]``, how often each symbol occurs in a split."""
    stream = TokenStream.of(load_tokens(f"{data}/{split}", dictionary, combine=True))
    assert stream is not None, "load_tokens gives memory-mapped files"
    tokens, counts_V = np.empty(_CHUNK, dtype=np.int64), np.zeros(len(dictionary), dtype=np.int64)
    for start in range(0, len(stream), _CHUNK):
        part = tokens[: len(stream) - start]
        stream.read(start, start + len(part), part)
        counts_V += np.bincount(part, minlength=len(counts_V))
    return counts_V


def unigram(counts_V: npt.NDArray[np.int64], special: Any) -> npt.NDArray[np.float64]:
    """Return the probability of each symbol whatever stands around it, add-one smoothed; 0 for ``special`` ones."""
    smoothed_V = counts_V + 1.0
    smoothed_V[special] = 0.0
    return smoothed_V / smoothed_V.sum()


def choose_sequences(
    blocks: BlockDataset, count: int, fits: Callable[[Tokens], bool], *, seed: int, source: Path
) -> list[tuple[int, Tokens]]:
    """Choose blocks with enough tokens to mask at random, without repetition; the same for every checkpoint.

    Raises:
        UserError: there are fewer of them in ``source``.
    """
    order = np.random.default_rng(seed).permutation(len(blocks)).tolist()
    fitting = ((index, blocks[index]) for index in order if fits(blocks[index]))
    chosen = list(islice(fitting, count))
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
    """Yield the ``net_input`` of batches of full blocks of a prepared corpus in a random order, masked once."""
    length, dictionary = sequence_length(hub, tokens_per_sample), hub.dictionary
    masking = MaskingConfig(mask_prob=mask_prob, seed=seed, **CORRUPTIONS[corruption])
    blocks = load_blocks(data, split, dictionary, tokens_per_sample=length)
    masker = Masker(masking, masking_vocabulary(dictionary, folder=data))
    dataset = MaskedDataset(blocks, masker, pad_index=dictionary.pad(), seed=seed, fixed_epoch=1)
    order = dataset.ordered_indices()
    for start in range(0, len(order), batch_size):
        rows = [dataset[index] for index in order[start : start + batch_size]]
        yield dataset.collater(rows)["net_input"]


def cut_texts(hub: HubInterface, texts: Iterable[Iterable[str]], tokens_per_block: int) -> list[Tensor]:
    """Return the blocks of several texts, each a number of lines; no block holds parts of two.

    Raises:
        UserError: there is no word in them, or mostly <unk>.
    """
    blocks = [block for lines in texts for block in cut_blocks(hub, lines, tokens_per_block)]
    if not blocks:
        raise UserError("the text holds no words to mask: give some")
    hub.check_known(torch.cat(blocks), (line for lines in texts for line in lines))
    return blocks


def cut_blocks(hub: HubInterface, lines: Iterable[str], tokens_per_block: int) -> list[Tensor]:
    """Return blocks ``<s> ... </s>`` of at most ``tokens_per_block`` ids, </s> between lines as in training.

    A block ends where a word does, if it holds more than one.
    """
    end, room = hub.dictionary.eos(), tokens_per_block - 2
    stream: list[int] = []
    for line in lines:
        ids = hub.encode(line).tolist()[1:-1]
        if ids:
            stream += [*ids, end]
    blocks, start = [], 0
    while start < len(stream):
        stop = min(start + room, len(stream))
        if stop < len(stream):
            begins = (i for i in range(stop, start, -1) if begins_word(hub, stream[i]))
            stop = next(begins, stop)
        body = stream[start:stop]
        while body and body[-1] == end:  # the block brings its own
            body.pop()
        if body:
            blocks.append(torch.tensor([hub.dictionary.bos(), *body, end]))
        start = stop
        while start < len(stream) and stream[start] == end:
            start += 1
    return blocks


def begins_word(hub: HubInterface, index: int) -> bool:
    """Whether a word, a special symbol or the next line begins with this id."""
    return index == hub.dictionary.eos() or hub.tokenizer.starts_word(hub.dictionary[index])


def surface(hub: HubInterface, index: int) -> str:
    """The id's text without spaces; a symbol that has none is shown as it is."""
    symbol = hub.dictionary[index]
    return hub.tokenizer.surface(symbol).strip() or symbol


def token_places(hub: HubInterface, tokens_T: Tensor) -> Iterator[tuple[int, str, bool, bool]]:
    """Yield of each token: column, text, whether a word or symbol begins, whether a line ends (no text)."""
    for column, index in enumerate(tokens_T.tolist()[1:-1], 1):
        ends_line = index == hub.dictionary.eos()
        yield column, "" if ends_line else surface(hub, index), begins_word(hub, index), ends_line
