"""Models registered with fairseq: which networks a method trains and where the [MASK]s enter."""

from fairseq_masking.models.mlm import MLMModel

__all__ = ["MLMModel"]
