"""What masking has to know about a vocabulary, as plain arrays (V symbols).

The task builds it from the dictionary and the tokeniser; masking itself reads no files.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fairseq_masking.errors import PREPARE_AGAIN, UserError

__all__ = ["MaskingVocabulary"]


@dataclass(frozen=True, eq=False)
class MaskingVocabulary:
    """The arrays that a ``Masker`` looks tokens up in.

    Attributes:
        mask_index: id of [MASK].
        special: bool [V], symbols that are never chosen and never drawn: <s>, <pad>, </s>, <unk>, <mask>.
        replacements: int64 [R], the ids from which random tokens are drawn uniformly.
        starts_word: bool [V], whether a word begins with the symbol; None if only subwords are masked.
    """

    mask_index: int
    special: npt.NDArray[np.bool_]
    replacements: npt.NDArray[np.int64]
    starts_word: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        assert self.special.dtype == np.bool_ and self.special.ndim == 1
        assert self.special[self.mask_index], "[MASK] must be a special symbol"
        assert self.replacements.dtype == np.int64
        assert self.starts_word is None or self.starts_word.shape == self.special.shape
        if len(self.replacements) == 0:
            raise UserError(
                f"the dictionary has {len(self.special)} symbols and all are special: {PREPARE_AGAIN}"
            )
        assert not self.special[self.replacements].any(), "a special symbol must never be drawn"

    @classmethod
    def build(
        cls,
        num_symbols: int,
        special_ids: Iterable[int],
        mask_index: int,
        *,
        starts_word: npt.NDArray[np.bool_] | None = None,
        never_drawn: Iterable[int] = (),
    ) -> "MaskingVocabulary":
        """Builds the arrays from ids.

        Args:
            num_symbols: V.
            special_ids: ids of the special symbols; ``mask_index`` is added.
            mask_index: id of [MASK].
            starts_word: bool [V] or None.
            never_drawn: ordinary ids that are still no replacement, such as fairseq's madeupword padding.
        """
        special = np.zeros(num_symbols, dtype=np.bool_)
        special[[*special_ids, mask_index]] = True
        drawn = ~special
        drawn[list(never_drawn)] = False
        return cls(
            mask_index=int(mask_index),
            special=special,
            replacements=np.flatnonzero(drawn).astype(np.int64),
            starts_word=starts_word,
        )
