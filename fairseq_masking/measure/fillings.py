"""What a model writes into a gap, beside what the unigram would: for a person to judge.

Shapes: V symbols.
"""

from typing import NamedTuple

import torch

from fairseq_masking.checkpoints.hub import HubInterface
from fairseq_masking.measure.unigram import Unigram
from fairseq_masking.tokenizers.symbols import MASK_SYMBOL

__all__ = ["Candidate", "format_fillings", "top_candidates"]


class Candidate(NamedTuple):
    """A symbol for a gap: its text (after a space where it begins a word) and its two probabilities."""

    text: str
    probability: float
    unigram_probability: float


@torch.no_grad()
def top_candidates(hub: HubInterface, text: str, unigram: Unigram, topk: int = 5) -> list[Candidate]:
    """The model's ``topk`` symbols for the one ``<mask>`` in ``text``, best first.

    Unlike ``hub.fill_mask`` it keeps the symbol, which tells "art" from "-art" and has a unigram probability.
    """
    tokens_T = hub.encode(text)
    column = int((tokens_T == hub.dictionary.index(MASK_SYMBOL)).nonzero()[0, 0])
    logits, _ = hub.model(tokens_T[None].to(hub.device))
    probabilities_V = logits[0, column].float().softmax(-1)
    best = probabilities_V.topk(topk)
    return [
        Candidate(hub.tokenizer.surface(hub.dictionary[token]), probability, unigram.probability(token))
        for probability, token in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def format_fillings(text: str, candidates: list[Candidate]) -> str:
    """Sentence and candidates, a line each."""
    lines = [f"  {text.replace(MASK_SYMBOL, '____')}"]
    for candidate in candidates:
        shown = candidate.text[1:] if candidate.text.startswith(" ") else f"-{candidate.text}"
        lines.append(
            f"    {shown:<16} {candidate.probability:6.1%}   unigram {candidate.unigram_probability:7.3%}"
        )
    return "\n".join(lines)
