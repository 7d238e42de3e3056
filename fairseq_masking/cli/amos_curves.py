"""amos_curves: how AMOS learned: a table and a figure from training logs.

The generator's loss at each depth (2204.03243, Fig. 1b), the mean mixture weight of each (Fig. 5a), and the
discriminator's accuracy on all, replaced and original tokens (Fig. 5b).
"""

import sys
from collections.abc import Sequence

from fairseq_masking.cli.curves import curves_parser, run_curves
from fairseq_masking.figures.amos_curves import amos_curves, panels_of, summary_cells

__all__ = ["main"]

_EPILOG = """Table: means over the last tenth of the updates. "above chance" is the accuracy on replaced
tokens plus that on original ones, less 100%: 0 for whoever calls tokens replaced without looking at them.
"area" (under the ROC curve) is how often a replaced token looks less original than an original one: 50% by
chance, whatever the threshold."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_curves(
        curves_parser("amos_curves", __doc__, _EPILOG),
        argv,
        curves_of=amos_curves,
        panels_of=panels_of,
        summary=summary_cells,
    )


if __name__ == "__main__":
    sys.exit(main())
