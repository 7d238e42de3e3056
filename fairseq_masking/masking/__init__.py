"""Mask sampling and corruption in NumPy: which positions, and what stands there.

Imports neither fairseq nor PyTorch.
"""

from fairseq_masking.masking.config import (
    MaskingConfig,
    MaskingRate,
    MaskingVocabulary,
    MaskUnit,
    RateSchedule,
    SplitsLaw,
    SplitsOver,
)
from fairseq_masking.masking.corruption import Kind, corruption_counts, num_masked
from fairseq_masking.masking.masker import MaskedItem, Masker
from fairseq_masking.masking.randomness import noise_seed, order_generator

__all__ = [
    "Kind", "MaskUnit", "MaskedItem", "Masker", "MaskingConfig", "MaskingRate", "MaskingVocabulary", "RateSchedule",
    "SplitsLaw", "SplitsOver", "corruption_counts", "noise_seed", "num_masked", "order_generator",
]  # fmt: skip
