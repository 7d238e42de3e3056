"""Text with what a model does to it, ready to render: where it masks, and what AMOS puts in place.

The case study of MAP-Net (2008.05333, Fig. 2) for any model: the probability that each position is masked, by its
proposal network's law, the uniform one, or one proportional to the encoder's loss, and a mask drawn from it. That of
AMOS (2204.03243, Appendix I, Table 9) for any text: every depth by itself and their mixture, with probabilities, and
what the discriminator says of the tokens. Long text is cut into blocks as long as those of the training.
Shapes: T tokens of a block, n maskable, k or N masked, K depths, S = K + 1 sources, V vocabulary.
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
from fairseq_masking.measure.amos import detect, draw, generate, predict
from fairseq_masking.measure.gradient_variance.draws import covering_masks
from fairseq_masking.measure.gradient_variance.laws import law_proportional_to, losses_of_positions
from fairseq_masking.measure.sequences import begins_word, surface, token_places
from fairseq_masking.methods.map_net.sampling import gumbel_top_k
from fairseq_masking.ops import corrupt_tokens
from fairseq_masking.tokenizers.symbols import MASK_SYMBOL

__all__ = [
    "HEADER", "Choice", "LawName", "ReplacedBlock", "ReplacedToken", "Replacement", "ShownBlock", "ShownToken",
    "masks_summary", "replacements_summary", "show_masks", "show_replacements", "table_rows",
]  # fmt: skip

Floats = npt.NDArray[np.float64]
LawName = Literal["proposal", "uniform", "oracle"]
HEADER = ("masked", "by", "weight", "likeliest", "put in place", "taken for replaced")

_ROWS = 16  # blocks of a batch
_ROUNDS = 4  # times that the loss of each position is measured


class ShownToken(NamedTuple):
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
        law: ``proposal`` needs a model that proposes; ``oracle`` is proportional to the encoder's loss.
        num_masks: tokens to mask of a block in place of the share ``mask_prob``, or all that there are.
        with_losses: measure the encoder's loss, also where the law does not need it.
        splits: masks of a block, which never overlap; fewer where it has too few tokens.
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
                yield _masked(hub, tokens_T, log_p_T, drawn_k[start : start + count], losses_T)._replace(split=split)


@torch.no_grad()
def _proposals(hub: HubInterface, blocks: Sequence[Tensor]) -> list[Floats]:
    pad = hub.dictionary.pad()
    tokens_BT = torch.nn.utils.rnn.pad_sequence(list(blocks), batch_first=True, padding_value=pad)
    log_p_BT = hub.model.propose(tokens_BT.to(hub.device)).double().cpu()
    return [(row[: len(tokens)] - row.logsumexp(0)).numpy() for row, tokens in zip(log_p_BT, blocks, strict=True)]


def _masked(
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


def masks_summary(blocks: Sequence[ShownBlock], law: LawName) -> str:
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


class Choice(NamedTuple):
    """A token for a gap, "-ing" where it begins no word, and its probability."""

    text: str
    probability: float


class Replacement(NamedTuple):
    """What a source does at a masked position."""

    weight: float | None  # of this depth in the mixture; None of the mixture itself
    likeliest: list[Choice]  # best first
    put: Choice  # what it put in place
    is_original: bool | None  # whether that is the original; None where the text itself has <mask> there
    doubt: float  # the discriminator's probability that it is not, in the text with all that this source put


class ReplacedToken(NamedTuple):
    text: str  # without spaces
    begins_word: bool  # whether a word, or a special symbol, begins here
    ends_line: bool = False  # a line's end, with no text of its own
    doubt: float = 0.0  # the discriminator's probability that it is replaced, in the text with the mixture's tokens
    replacements: tuple[Replacement, ...] = ()  # by source; none where it is not masked

    def fillings(self, sources: Sequence[str]) -> list[tuple[str, Replacement]]:
        """Return what each source puts; once, as the mixture does, where that is the same of all."""
        if len({one.put.text for one in self.replacements}) == 1:
            return [(", ".join(sources), self.replacements[-1])]
        return list(zip(sources, self.replacements, strict=True))


class ReplacedBlock(NamedTuple):
    """What the model reads at once."""

    tokens: list[ReplacedToken]

    @property
    def masked(self) -> list[ReplacedToken]:
        return [token for token in self.tokens if token.replacements]


def show_replacements(
    hub: HubInterface,
    blocks: Sequence[Tensor],
    special_V: npt.NDArray[np.bool_],
    *,
    mask_prob: float,
    num_masks: int | None = None,
    top: int = 3,
    likeliest: bool = False,
    seed: int = 1,
) -> Iterator[ReplacedBlock]:
    """Mask each block, fill it from each source and ask the discriminator.

    A block whose text has <mask> in it is masked there and nowhere else.

    Args:
        num_masks: tokens to mask of a block in place of the share ``mask_prob``, or all that there are.
        top: likeliest tokens to keep.
        likeliest: put each source's likeliest token in place, not one drawn.
    """
    mask = hub.dictionary.index(MASK_SYMBOL)
    for number, tokens_T in enumerate(blocks):
        words = np.random.SeedSequence((seed, number)).generate_state(2, np.uint64)
        columns_N = np.flatnonzero(tokens_T.numpy() == mask)
        if not len(columns_N):
            maskable_n = np.flatnonzero(~special_V[tokens_T.numpy()])
            count = num_masks or num_masked(len(tokens_T) - 2, len(maskable_n), mask_prob)
            rng = np.random.default_rng(int(words[0]))
            columns_N = np.sort(rng.choice(maskable_n, min(count, len(maskable_n)), replace=False))
        generator_seed = int(words[1]) >> 2  # torch takes 63 bits
        yield _replaced(hub, tokens_T, columns_N, top=top, likeliest=likeliest, seed=generator_seed)


def _replaced(
    hub: HubInterface, tokens_T: Tensor, columns_N: npt.NDArray[np.int64], *, top: int, likeliest: bool, seed: int
) -> ReplacedBlock:
    mask = hub.dictionary.index(MASK_SYMBOL)
    tokens_1T = tokens_T[None].to(hub.device)
    positions = torch.from_numpy(columns_N).to(hub.device)
    masks = torch.full_like(positions, mask)
    sources = generate(hub.model, tokens_1T, positions=positions, replacements=masks, batch_seed=seed)
    probabilities_SNV = predict(hub.model, sources)
    put_SN = probabilities_SNV.argmax(-1) if likeliest else draw(hub.model, sources, seed=seed)
    filled_ST = torch.cat([corrupt_tokens(tokens_1T, positions, put_N) for put_N in put_SN])
    doubts_ST = detect(hub.model, filled_ST, None).neg().sigmoid()  # a logit is that of the original

    replacements: dict[int, list[Replacement]] = {column: [] for column in columns_N.tolist()}
    for place, (column, found) in enumerate(replacements.items()):
        original = int(tokens_T[column])
        for source, weight in enumerate([*sources.weights_NK[place].tolist(), None]):
            probabilities_V, put = probabilities_SNV[source, place], int(put_SN[source, place])
            best = probabilities_V.topk(min(top, len(probabilities_V))).indices.tolist()
            *likeliest_tokens, chosen = (
                Choice("-" * (not begins_word(hub, index)) + surface(hub, index), float(probabilities_V[index]))
                for index in (*best, put)
            )
            is_original = None if original == mask else put == original
            found.append(Replacement(weight, likeliest_tokens, chosen, is_original, float(doubts_ST[source, column])))
    doubts_T = doubts_ST[-1].tolist()
    places = token_places(hub, tokens_T)
    return ReplacedBlock([ReplacedToken(*p, doubts_T[at], tuple(replacements.get(at, ()))) for at, *p in places])


def table_rows(block: ReplacedBlock, sources: Sequence[str]) -> list[tuple[str, ...]]:
    """Return a row of ``HEADER`` for each source of each masked token, which stands in the first of them."""
    rows = []
    for number, token in enumerate(block.masked, 1):
        for source, found in zip(sources, token.replacements, strict=True):
            *likeliest, put = (f"{text} {share:.1%}" for text, share in (*found.likeliest, found.put))
            first = f"{number} {token.text}" if source == sources[0] else ""
            weight = "" if found.weight is None else f"{found.weight:.2f}"
            put += " = original" if found.is_original else ""
            rows.append((first, source, weight, ", ".join(likeliest), put, f"{found.doubt:.0%}"))
    return rows


def replacements_summary(blocks: Sequence[ReplacedBlock], sources: Sequence[str]) -> str:
    """Say in a line how many tokens are masked, and how many each source replaced and were detected."""
    masked = [token for block in blocks for token in block.masked]
    parts = [f"{len(masked)} tokens masked in {len(blocks)} block{'s' * (len(blocks) > 1)}"]
    for number, source in enumerate(sources):
        found = [token.replacements[number] for token in masked]
        if replaced := [one for one in found if one.is_original is False]:
            caught = sum(one.doubt > 0.5 for one in replaced)
            parts.append(f"{source}: {len(replaced)} replaced, {caught} of them detected")
    return "; ".join(parts)
