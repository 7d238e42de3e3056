"""A fairseq plugin that pre-trains text encoders better and cheaper than plain masked language modelling.

Importing it registers its tasks, models, criterions and optimizers with fairseq. In the command
``fairseq-masking`` a verb does so where it needs them: fairseq takes seconds to import, ``--help`` none.
"""

import sys
from pathlib import Path

__all__ = ["register"]
__version__ = "0.1.0"


def register() -> None:
    """Mend fairseq and register with it all that this package has. Idempotent."""
    from fairseq_masking import registration  # noqa: F401 - late: it imports torch and fairseq


def _is_the_command() -> bool:
    """Whether this process is ``fairseq-masking``, or ``python -m fairseq_masking``, then still called -m."""
    return Path(sys.argv[0]).name == "fairseq-masking" or (sys.argv[0] == "-m" and "fairseq_masking" in sys.orig_argv)


if not _is_the_command():
    register()
