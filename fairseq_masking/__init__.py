"""A fairseq plugin that pre-trains text encoders better and cheaper than plain masked language modelling.

Importing it registers its tasks, models, criterions and optimizers with fairseq.
"""

import logging

# On import fairseq recommends a package that none of this needs, among a command's own lines.
logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)

from fairseq_masking import compat  # noqa: E402 - it imports fairseq

compat.apply()

from fairseq_masking import criterions, models, optim, tasks  # noqa: E402 - they build on what compat mends

__all__ = ["criterions", "models", "optim", "tasks"]
__version__ = "0.1.0"
