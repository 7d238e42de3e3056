"""The pre-training task, where fairseq looks for a plugin's tasks."""

from fairseq_masking.tasks.masked_pretraining import MaskedPretrainingTask

__all__ = ["MaskedPretrainingTask"]
