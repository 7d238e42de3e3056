"""Text with the probability that each of its positions is masked, and a mask drawn from it, ready to render.

The case study of MAP-Net (2008.05333, Fig. 2) for any model: its proposal network's law, the uniform one, or
one proportional to the encoder's loss. Long text is cut into blocks as long as those of the training.
Shapes: T tokens of a block, n maskable, k masked.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor

from fairseq_masking.checkpoints.hub import HubInterface
from fairseq_masking.masking import num_masked
from fairseq_masking.measure.gradient_variance.draws import covering_masks
from fairseq_masking.measure.gradient_variance.laws import law_proportional_to, losses_of_positions
from fairseq_masking.measure.sequences import token_places
from fairseq_masking.methods.map_net.sampling import gumbel_top_k
from fairseq_masking.tokenizers.symbols import MASK_SYMBOL

__all__ = ["LawName", "ShownBlock", "ShownToken", "show_masks", "summary_line"]

Floats = npt.NDArray[np.float64]
LawName = Literal["proposal", "uniform", "oracle"]

_ROWS = 16  # blocks of a batch
_ROUNDS = 4  # times that the loss of each position is measured


class ShownToken(NamedTuple):
    """A token of the text."""

    text: str  # without spaces
    begins_word: bool  # whether a word, or a special symbol, begins here
    ends_line: bool = False  # a line's end, with no text of its own
    probability: float | None = None  # of the law; None where nothing is ever masked
    relative: float | None = None  # the same over that of the uniform law
    draw: int | None = None  # 1 for the position drawn first; None where it is not drawn
    loss: float | None = None  # of the encoder there, in nats; None where it was not measured


class ShownBlock(NamedTuple):
    """What the model reads at once: ``tokens``, of which ``num_masked`` are drawn.

    ``entropy`` is the law's as a share of the uniform one's (NaN for fewer than two positions). A block with several
    disjoint masks is there once for each of them: ``split`` counts from 0.
    """

    tokens: list[ShownToken]
    num_masked: int
    entropy: float
    split: int = 0

    @property
    def maskable(self) -> list[ShownToken]:
        """Its tokens that may be masked."""
        return [token for token in self.tokens if token.relative is not None]


def show_masks(
    hub: HubInterface,
    blocks: Sequence[Tensor],
    special_V: npt.NDArray[np.bool_],
    *,
    law: LawName,
    mask_prob: float,
    num_masks: int | None = None,
    with_losses: bool = False,
    splits: int = 1,
    seed: int = 1,
) -> Iterator[ShownBlock]:
    """Compute the law of each block and draw a mask from it.

    Args:
        special_V: symbols that are never masked.
        law: ``proposal`` needs a model that proposes; ``oracle`` is proportional to the encoder's loss.
        mask_prob: share of a block's tokens to mask.
        num_masks: tokens to mask instead, or all that there are.
        with_losses: measure the encoder's loss, also where the law does not need it.
        splits: masks of a block, which never overlap; fewer where it has too few tokens.
        seed: of the drawn masks and of those that the loss is measured with.
    """
    for first in range(0, len(blocks), _ROWS):
        part = blocks[first : first + _ROWS]
        proposals = _proposals(hub, part) if law == "proposal" else [None] * len(part)
        for number, (tokens_T, proposal_T) in enumerate(zip(part, proposals, strict=True), first):
            maskable_T = ~special_V[tokens_T.numpy()]
            size = int(maskable_T.sum())
            count = min(size, num_masks or num_masked(len(tokens_T) - 2, size, mask_prob))
            words = np.random.SeedSequence((seed, number)).generate_state(2, np.uint64)
            losses_T, log_p_T = None, np.full(len(tokens_T), -np.inf)
            if count and (with_losses or law == "oracle"):
                columns_n, rng = np.flatnonzero(maskable_T), np.random.default_rng(int(words[1]))
                mask = hub.dictionary.index(MASK_SYMBOL)
                masks = covering_masks(columns_n, count, mask, num_rounds=_ROUNDS, rng=rng)
                losses_T = losses_of_positions(hub.model, tokens_T.numpy(), masks)
            if count and proposal_T is not None:
                log_p_T = proposal_T
            elif count:
                log_p_T = law_proportional_to(losses_T if law == "oracle" else np.ones(len(tokens_T)), maskable_T)
            generator = torch.Generator().manual_seed(int(words[0]) >> 2)
            drawn = min(size, count * splits)
            drawn_k = gumbel_top_k(torch.from_numpy(log_p_T)[None], drawn, generator)[0].tolist()
            for split, start in enumerate(range(0, max(1, drawn), max(1, count))):
                yield _shown(hub, tokens_T, log_p_T, drawn_k[start : start + count], losses_T)._replace(split=split)


@torch.no_grad()
def _proposals(hub: HubInterface, blocks: Sequence[Tensor]) -> list[Floats]:
    pad = hub.dictionary.pad()
    tokens_BT = torch.nn.utils.rnn.pad_sequence(list(blocks), batch_first=True, padding_value=pad)
    log_p_BT = hub.model.propose(tokens_BT.to(hub.device)).double().cpu()
    return [(row[: len(tokens)] - row.logsumexp(0)).numpy() for row, tokens in zip(log_p_BT, blocks, strict=True)]


def _shown(
    hub: HubInterface, tokens_T: Tensor, log_p_T: Floats, drawn_k: list[int], losses_T: Floats | None
) -> ShownBlock:
    maskable_T = log_p_T > -np.inf
    size = int(maskable_T.sum())
    draw_of = {column: number for number, column in enumerate(drawn_k, 1)}
    tokens = []
    for column, *place in token_places(hub, tokens_T):
        found: tuple[Any, ...] = ()
        if maskable_T[column]:
            probability = math.exp(log_p_T[column])
            loss = None if losses_T is None else float(losses_T[column])
            found = (probability, probability * size, draw_of.get(column), loss)
        tokens.append(ShownToken(*place, *found))
    share = float(stats.entropy(np.exp(log_p_T))) / math.log(size) if size > 1 else math.nan
    return ShownBlock(tokens, len(drawn_k), share)


def summary_line(blocks: Sequence[ShownBlock], law: LawName) -> str:
    """Say in a line how peaked the law is, and how its ranks agree with the loss's where that is known."""
    drawn = sum(block.num_masked for block in blocks)
    blocks = [block for block in blocks if block.split == 0]
    flat = [token for block in blocks for token in block.maskable]
    entropies = [block.entropy for block in blocks if not math.isnan(block.entropy)]
    parts = [f"{law}: {drawn} of {len(flat)} maskable tokens drawn in {len(blocks)} block{'s' * (len(blocks) > 1)}"]
    if entropies:
        parts.append(f"entropy {sum(entropies) / len(entropies):.1%} of the uniform law's")
    if flat and law != "uniform":
        best = max(flat, key=lambda token: token.relative or 0.0)
        parts.append(f"likeliest '{best.text}' at {best.relative:.1f} times uniform")
    if law == "proposal" and flat and flat[0].loss is not None:
        pairs = [np.array([(token.probability, token.loss) for token in block.maskable]) for block in blocks]
        defined = [values_n2 for values_n2 in pairs if len(values_n2) > 1 and np.ptp(values_n2, axis=0).all()]
        ranks = [stats.spearmanr(values_n2).statistic for values_n2 in defined] or [math.nan]
        parts.append(f"rank correlation with the encoder's loss {np.mean(ranks):.2f}")
    return ", ".join(parts)
