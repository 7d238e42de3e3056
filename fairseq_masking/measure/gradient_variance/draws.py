"""Masks of one fixed sequence: independent, disjoint, at a given Hamming distance, from a law over positions.

Source: 2010.06040, Section 3.1 (M(tau)), Eq. 10 (the disjoint law M_FE(tau)), Section 3.3 (Fig. 2 and 3);
2008.05333, Section 3.3 (draws from a law, one after the other without replacement).
Deviation: the papers draw from all n tokens; here only the m maskable ones are drawn from, as in training.
Shapes: T tokens of a sequence, m maskable, k = tau masked positions, D draws, K masks of a draw, M masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from fairseq_masking.errors import UserError
from fairseq_masking.masking import Kind, MaskedItem, Masker, MaskingConfig, MaskingVocabulary, num_masked
from fairseq_masking.masking.corruption import corrupt, kinds_of
from fairseq_masking.masking.randomness import corruption_generator
from fairseq_masking.methods.map_net.sampling import gumbel_top_k

__all__ = ["DrawnMasks", "FixedSequence", "Tokens", "covering_masks"]

Tokens = npt.NDArray[np.int64]
Columns = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class DrawnMasks(NamedTuple):
    """``masks`` as the model takes them, and their int64 ``columns_Mk`` in the order of the draws."""

    masks: MaskedItem
    columns_Mk: Columns


@dataclass(frozen=True)
class FixedSequence:
    """One sequence, of which masks are drawn."""

    tokens_T: Tokens  # with its outer <s>, </s>
    index: int  # of the sequence in its dataset
    # rate, unit, K, corruption and seed; ``masks_at_distance`` and ``draw_masks`` leave unit and K
    config: MaskingConfig
    vocabulary: MaskingVocabulary  # specials and replacements

    @cached_property
    def columns_m(self) -> Columns:
        """The m columns that hold no special symbol, ascending."""
        return np.flatnonzero(~self.vocabulary.special[self.tokens_T[1:-1]]) + 1

    @property
    def tau(self) -> int:
        """Masked positions of each of K disjoint masks; 0 where they do not fit."""
        size = len(self.tokens_T) - 2
        return num_masked(size, len(self.columns_m), self.config.mask_prob, self.config.num_splits)

    def disjoint_masks(self, num_draws: int, *, first_epoch: int = 1) -> MaskedItem:
        """Draw K disjoint masks D times, as training does, the K of draw d, epoch ``first_epoch + d``, in a row.

        Fewer than K maskable tokens are a ``UserError``.
        """
        masker, epochs = Masker(self.config, self.vocabulary), range(first_epoch, first_epoch + num_draws)
        items = [masker(self.tokens_T, epoch=epoch, index=self.index) for epoch in epochs]
        if None in items:
            raise UserError(
                f"sequence {self.index} has fewer maskable tokens than the {masker.num_splits} masks: leave it out"
            )
        return _stack(items)

    def independent_masks(self, num_masks: int, *, first_epoch: int = 1) -> MaskedItem:
        """Draw ``num_masks`` independent masks, each of another epoch, with the tau of K disjoint ones.

        The rate is tau / n, so that tau stays the same also where floor(m / K) caps it.
        """
        plain = replace(self.config, num_splits=1, mask_prob=self.tau / (len(self.tokens_T) - 2))
        masks = replace(self, config=plain).disjoint_masks(num_masks, first_epoch=first_epoch)
        assert masks.columns.shape[1] == self.tau
        return masks

    def masks_at_distance(self, distance: int, num_pairs: int, *, first_epoch: int = 1) -> MaskedItem:
        """Draw pairs of masks, in a row, at a Hamming distance: each uniform, overlap tau - distance / 2.

        Distance 2 tau is the disjoint law of Eq. 10; one that no two masks of tau positions have is a ``UserError``.
        """
        tau = num_masked(len(self.tokens_T) - 2, len(self.columns_m), self.config.mask_prob)
        largest = 2 * min(tau, len(self.columns_m) - tau)
        if distance % 2 or not 0 <= distance <= largest:
            raise UserError(
                f"Hamming distance {distance}: two masks of {tau} of {len(self.columns_m)} tokens have an"
                f" even one from 0 to {largest}; lower --mask-prob or the distance"
            )
        moved, items = distance // 2, []
        for epoch in range(first_epoch, first_epoch + num_pairs):
            # Its own stream, keyed like the masks': the distance keeps those of different distances apart.
            rng = np.random.default_rng((self.config.seed, epoch, self.index, distance, tau))
            order_m = rng.permutation(self.columns_m)
            # The first tau are one mask; the other gives up `moved` of them for as many that follow.
            items.append(self._corrupted(np.stack((order_m[:tau], order_m[moved : moved + tau])), epoch))
        return _stack(items)

    def draw_masks(self, log_p_T: Floats, num_masked: int, *, num_masks: int, stream: int) -> DrawnMasks:
        """Draw masks from a law (laws.py); corruption types go to positions at random, as in training.

        Each law takes another ``stream`` of random numbers.
        """
        key = (self.config.seed, self.index, stream, num_masked)
        (word,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(word) >> 2)
        log_p_MT = torch.from_numpy(log_p_T).expand(num_masks, -1)
        columns_Mk = gumbel_top_k(log_p_MT, num_masked, generator).numpy()
        first_epoch = stream << 32  # no stream that another law of this sequence has used
        items = [self._corrupted(row[None], first_epoch + mask) for mask, row in enumerate(columns_Mk)]
        return DrawnMasks(_stack(items), columns_Mk)

    def _corrupted(self, columns_Kk: Columns, epoch: int) -> MaskedItem:
        shares = (self.config.leave_unmasked_prob, self.config.random_token_prob)
        kinds_k = kinds_of(columns_Kk.shape[1], *shares)
        generator_of = partial(corruption_generator, self.config.seed, epoch, self.index)
        columns_Kk, replacements_Kk = corrupt(self.tokens_T, columns_Kk, kinds_k, self.vocabulary, generator_of)
        return MaskedItem(columns_Kk, kinds_k, replacements_Kk)


def covering_masks(
    maskable_m: Columns, num_masked: int, mask_index: int, *, num_rounds: int, rng: np.random.Generator
) -> MaskedItem:
    """Draw uniform masks, all [MASK], that cover every position in each round.

    A round is a random order of the positions cut into ceil(m / k) masks; the last one is filled up from the
    beginning, so that each mask by itself is uniform over all masks of k positions.
    """
    num_masks = -(-len(maskable_m) // num_masked)
    rounds = [np.resize(rng.permutation(maskable_m), (num_masks, num_masked)) for _ in range(num_rounds)]
    columns_Mk = np.concatenate(rounds)
    kinds_k = np.full(num_masked, Kind.MASK, dtype=np.int8)
    return MaskedItem(columns_Mk, kinds_k, np.full_like(columns_Mk, mask_index))


def _stack(items: Sequence[Any]) -> MaskedItem:
    columns, kinds, replacements = zip(*items, strict=True)
    return MaskedItem(np.concatenate(columns), kinds[0], np.concatenate(replacements))
