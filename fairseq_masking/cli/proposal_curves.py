"""proposal_curves: how MAP-Net's proposal network learned: a table and a figure from training logs."""

import sys
from collections.abc import Sequence

from fairseq_masking.cli.curves import curves_parser, run_curves
from fairseq_masking.figures.proposal_curves import PANELS, proposal_curves, summary_cells

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_curves(
        curves_parser("proposal_curves", __doc__),
        argv,
        curves_of=proposal_curves,
        panels_of=lambda runs: PANELS,
        summary=summary_cells,
    )


if __name__ == "__main__":
    sys.exit(main())
