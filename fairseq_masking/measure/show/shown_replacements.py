"""Text with what AMOS's generator puts in place of masked tokens, ready to render.

The case study of 2204.03243 (Appendix I, Table 9) for any text: every depth by itself and their mixture, with
probabilities, and what the discriminator says of the tokens. Long text is cut into blocks as in training.
Shapes: T tokens of a block, N masked, K depths, S = K + 1 sources, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairseq_masking.checkpoints.hub import HubInterface
from fairseq_masking.masking import num_masked
from fairseq_masking.measure.amos import detect, draw, generate, predict
from fairseq_masking.measure.sequences import begins_word, surface, token_places
from fairseq_masking.ops import corrupt_tokens
from fairseq_masking.tokenizers.symbols import MASK_SYMBOL

__all__ = [
    "HEADER", "Choice", "ReplacedBlock", "ReplacedToken", "Replacement", "show_replacements", "summary_line",
    "table_rows",
]  # fmt: skip

HEADER = ("masked", "by", "weight", "likeliest", "put in place", "taken for replaced")


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
    """A token of the text."""

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
        special_V: symbols that are never masked.
        mask_prob: share of a block's tokens to mask.
        num_masks: tokens to mask instead, or all that there are.
        top: likeliest tokens to keep.
        likeliest: put each source's likeliest token in place, not one drawn.
        seed: of masked positions and drawn tokens.
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
        yield _shown(hub, tokens_T, columns_N, top=top, likeliest=likeliest, seed=generator_seed)


def _shown(
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


def summary_line(blocks: Sequence[ReplacedBlock], sources: Sequence[str]) -> str:
    """Say in a line how many tokens are masked, and how many each source replaced and were detected."""
    masked = [token for block in blocks for token in block.masked]
    parts = [f"{len(masked)} tokens masked in {len(blocks)} block{'s' * (len(blocks) > 1)}"]
    for number, source in enumerate(sources):
        found = [token.replacements[number] for token in masked]
        if replaced := [one for one in found if one.is_original is False]:
            caught = sum(one.doubt > 0.5 for one in replaced)
            parts.append(f"{source}: {len(replaced)} replaced, {caught} of them detected")
    return "; ".join(parts)
