"""The baseline that a masked language model has to beat: a token's share of the training text, no context.

Scored on the very tokens that a task's validation hides, and beside what a model writes into a gap.
Shapes: V symbols, N masked tokens of the validation set.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from fairseq_masking.checkpoints.hub import HubInterface
from fairseq_masking.measure.sequences import count_tokens, unigram
from fairseq_masking.tasks import MaskedPretrainingTask
from fairseq_masking.tasks.masked_pretraining import data_folders
from fairseq_masking.tokenizers.symbols import MASK_SYMBOL

__all__ = [
    "Candidate",
    "Score",
    "Unigram",
    "format_fillings",
    "top_candidates",
    "training_unigram",
    "validation_targets",
]


class Score(NamedTuple):
    """Loss in bits a token, perplexity 2**loss, accuracy in percent: as fairseq logs them."""

    loss: float
    ppl: float
    accuracy: float


class Unigram:
    """Token frequencies with add-one smoothing.

    Args:
        counts_V: int64 [V], how often each symbol occurs in the training text.
        special: ids that are never predicted: <s>, <pad>, </s>, <unk>, <mask>. They get probability 0.
    """

    def __init__(self, counts_V: npt.NDArray[np.int64], special: npt.NDArray[np.int64] | list[int]) -> None:
        self.probabilities_V = unigram(counts_V, special)

    def score(self, targets_N: npt.NDArray[np.int64]) -> Score:
        """Score the tokens of masked positions; the guess is always the most frequent symbol."""
        loss = float(-np.log2(self.probabilities_V[targets_N]).mean())
        accuracy = float((targets_N == self.probabilities_V.argmax()).mean())
        return Score(loss, 2.0**loss, 100.0 * accuracy)

    def probability(self, token: int) -> float:
        """Return the probability of a symbol, whatever stands around it."""
        return float(self.probabilities_V[token])


def training_unigram(task: MaskedPretrainingTask, split: str = "train") -> Unigram:
    """Return the unigram of the training text, over all shards."""
    dictionary = task.source_dictionary
    counts_V = sum(count_tokens(folder, split, dictionary) for folder in data_folders(task.cfg.data))
    return Unigram(counts_V, [*range(dictionary.nspecial), dictionary.index(MASK_SYMBOL)])


def validation_targets(task: MaskedPretrainingTask, split: str = "valid") -> npt.NDArray[np.int64]:
    """Return int64 [N]: the tokens at the masked positions of ``split``, which validation scores."""
    task.load_dataset(split)
    dataset = task.dataset(split)
    examples = (dataset[index] for index in range(len(dataset)))
    masked = [(each.tokens, each.masked.columns) for each in examples if each.masked is not None]
    return np.concatenate([np.empty(0, dtype=np.int64), *(tokens[columns].ravel() for tokens, columns in masked)])


class Candidate(NamedTuple):
    """A symbol for a gap: its text (after a space where it begins a word) and its two probabilities."""

    text: str
    probability: float
    unigram_probability: float


@torch.no_grad()
def top_candidates(hub: HubInterface, text: str, unigram: Unigram, topk: int = 5) -> list[Candidate]:
    """Return the model's ``topk`` symbols for the one ``<mask>`` in ``text``, best first.

    Unlike ``hub.fill_mask`` it keeps the symbol, which tells "art" from "-art" and has a unigram probability.
    """
    tokens_T = hub.encode(text)
    column = int((tokens_T == hub.dictionary.index(MASK_SYMBOL)).nonzero()[0, 0])
    logits, _ = hub.model(tokens_T[None].to(hub.device))
    best = logits[0, column].float().softmax(-1).topk(topk)
    return [
        Candidate(hub.tokenizer.surface(hub.dictionary[token]), probability, unigram.probability(token))
        for probability, token in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def format_fillings(text: str, candidates: list[Candidate]) -> str:
    """Return sentence and candidates, a line each."""
    lines = [f"  {text.replace(MASK_SYMBOL, '____')}"]
    for symbol, probability, share in candidates:
        shown = symbol[1:] if symbol.startswith(" ") else f"-{symbol}"
        lines.append(f"    {shown:<16} {probability:6.1%}   unigram {share:7.3%}")
    return "\n".join(lines)
