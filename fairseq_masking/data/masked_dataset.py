"""Blocks with their masks, in the order and the sizes that fairseq's batching asks for."""

import logging
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fairseq_masking.data.batch import MaskedExample, collate
from fairseq_masking.data.blocks import BlockDataset, SizedDataset, document_numbers
from fairseq_masking.masking import Masker, order_generator
from fairseq_masking.masking.units import word_starts

__all__ = ["MaskedDataset"]

logger = logging.getLogger(__name__)

_LONG_WORD = 16  # tokens


@dataclass(eq=False, repr=False)
class MaskedDataset(SizedDataset):
    """Masks each block when it is read, purely in (seed, epoch, index): nothing is cached between epochs.

    An item becomes K rows of a batch, so ``num_tokens`` counts its tokens K times, while ``sizes`` and
    ``size`` are the length of one row, which is what fairseq filters by.
    """

    blocks: BlockDataset
    masker: Masker  # its configuration carries K and the masks' own seed
    _: KW_ONLY
    pad_index: int
    seed: int  # of the order of the items and of each batch's ``noise_seed``
    shuffle: bool = True  # False keeps the order of the corpus
    fixed_epoch: int | None = None  # draw the masks of this epoch for ever (validation); None follows ``set_epoch``
    # False leaves the masks to whoever knows the update: a batch has its examples and their epoch under ``undrawn``
    draws: bool = True
    document_bounds: str | None = None  # ``line`` or ``blank-line``, for attention within documents

    can_reuse_epoch_itr_across_epochs = True  # the masks change with the epoch, the batches and their sizes do not

    def __post_init__(self) -> None:
        self.sizes = self.blocks.sizes  # of one row
        self.epoch = 1 if self.fixed_epoch is None else self.fixed_epoch
        self._logged_short = False

    def __getitem__(self, index: int) -> MaskedExample:
        index = int(index)
        tokens_T, bounds = self.blocks[index], self.document_bounds
        masked = self.masker(tokens_T, epoch=self.epoch, index=index) if self.draws else None
        documents_T = None if bounds is None else document_numbers(tokens_T, bounds, self.blocks.eos)
        return MaskedExample(index, tokens_T, masked, self.masker.num_splits, documents_T)

    def collater(self, samples: Sequence[MaskedExample]) -> dict[str, Any]:
        """The batch of design.md; {} for no samples."""
        batch = collate(samples, self.pad_index, seed=self.seed, epoch=self.epoch)
        return batch if self.draws or not batch else {**batch, "undrawn": (samples, self.epoch)}

    def tell_words(self, num_blocks: int = 64) -> None:
        """Log how long the words are that masks are made of; warn where the text has next to none."""
        unit, vocabulary, lengths = self.masker.config.unit, self.masker.vocabulary, []
        for index in np.unique(np.linspace(0, len(self) - 1, num_blocks, dtype=np.int64)):
            maskable_m = np.flatnonzero(~vocabulary.special[tokens_T := self.blocks[index]])
            lengths.append(np.diff(word_starts(tokens_T, maskable_m, vocabulary), append=len(maskable_m)))
        lengths_W = np.concatenate(lengths)
        mean, longest = lengths_W.mean(), lengths_W.max()
        logger.info("--mask-unit %s: words have %.2f tokens on average, the longest %d", unit, mean, longest)
        in_long = lengths_W[lengths_W > _LONG_WORD].sum() / max(1, lengths_W.sum())
        if in_long > 0.5:
            logger.warning(
                f"--mask-unit {unit}: {100 * in_long:.0f}% of the text stands in words of more than {_LONG_WORD}"
                " tokens, as where a script has no spaces: a row is masked in a few long pieces. Use"
                " --mask-unit subword, or prepare the corpus from text in which a word segmenter has set spaces"
            )

    def set_epoch(self, epoch: int, **unused: Any) -> None:
        """Switches to the masks of an epoch, unless the epoch is fixed.

        A worker process holds the copy of this dataset that it was started with. The task must therefore
        start new workers for each epoch (no persistent workers, no reused dataloader): kept ones would go on
        drawing the masks of the epoch in which they were born.
        """
        super().set_epoch(epoch)
        if self.fixed_epoch is None:
            self.epoch = epoch

    def num_tokens(self, index: int) -> int:
        return super().num_tokens(index) * self.masker.num_splits

    def num_tokens_vec(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return super().num_tokens_vec(indices) * self.masker.num_splits

    def ordered_indices(self) -> npt.NDArray[np.int64]:
        """A permutation of the items from the seed, in ragged modes sorted by length within it.

        Items that are too short for K masks whatever their tokens are left out.
        """
        indices = order_generator(self.seed).permutation(len(self)) if self.shuffle else np.arange(len(self))
        if self.blocks.ragged:
            indices = indices[np.argsort(self.sizes[indices], kind="stable")]
        # Two of the tokens are the outer specials. The rest of the test needs the text: see MaskedExample.
        needed = self.masker.config.num_disjoint
        long_enough = self.sizes[indices] - 2 >= needed
        num_short = len(indices) - int(np.count_nonzero(long_enough))
        if num_short and not self._logged_short:
            self._logged_short = True
            logger.info(
                f"left out {num_short} of {len(indices)} blocks with fewer than {needed} tokens: too short for"
                f" --mask-splits {needed}"
            )
        return indices[long_enough]
