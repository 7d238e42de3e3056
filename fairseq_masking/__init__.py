"""A fairseq plugin that pre-trains text encoders better and cheaper than plain masked language modelling.

Importing it registers its tasks, models and criterions with fairseq.
"""

from fairseq_masking import compat

compat.apply()

from fairseq_masking import criterions, models, tasks  # noqa: E402 - they build on what compat mends

__all__ = ["criterions", "models", "tasks"]
__version__ = "0.1.0"
