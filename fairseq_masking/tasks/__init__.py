"""Tasks registered with fairseq."""

from fairseq_masking.tasks.masked_pretraining import MaskedPretrainingTask

__all__ = ["MaskedPretrainingTask"]
