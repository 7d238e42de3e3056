"""How runs learned, from their training logs: a figure, a table, and a file of every logged value.

--preset chooses what is shown; not given, it is the first one that all logs have the fields for.

mlm      any method: training's loss, validation's perplexity and accuracy, tokens a second
map_net  the encoder's loss at proposed and at uniform positions, the proposal's entropy and rank
         correlation (2008.05333, Section 3.3)
amos     the generator's loss at each depth (2204.03243, Fig. 1b), the mixture weight of each (Fig. 5a), and
         the discriminator's accuracy on all, replaced and original tokens (Fig. 5b)

The table has means over the last tenth of the updates; of validation the last values. "above chance" is the
accuracy on replaced tokens plus that on original ones, less 100%: 0 for whoever calls tokens replaced
without looking at them. "area" (under the ROC curve) is how often a replaced token looks less original than
an original one: 50% by chance, whatever the threshold.

Example:
  fairseq-masking curves --run MLM=runs/mlm --run MAP-Net=runs/map_net --preset mlm --figure curves.png
"""

import argparse

from fairseq_masking.cli.options import add_shared, at_least
from fairseq_masking.errors import UserError
from fairseq_masking.figures.figure import Curves, plot_panels
from fairseq_masking.figures.tables import format_table, write_csv
from fairseq_masking.figures.training_log import (
    PRESETS,
    curve_rows,
    curves_of,
    find_preset,
    named_log,
    panels_of,
    read_training_log,
    summary_cells,
)


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--run", dest="runs", action="append", required=True, metavar="NAME=LOG",
        help="a run's log (--log-file), or its folder; repeat for several")  # fmt: skip
    add("--preset", choices=list(PRESETS), help="what to show (default: by the logs' fields)")
    add_shared(parser, "figure", required=True)
    add_shared(parser, "out", "file for all values", metavar="CSV")
    add("--smooth", type=at_least(1), default=1, metavar="N", help="draw means over N intervals (default: 1)")


def run(args: argparse.Namespace) -> None:
    runs: dict[str, Curves] = {}
    for name, path in map(named_log, args.runs):
        if name in runs:
            raise UserError(f"--run {name}: two runs have this name; give each one of its own")
        runs[name] = curves_of(read_training_log(path, needs_validation=False))
    name = find_preset(runs, args.preset)
    plot_panels(runs, panels_of(PRESETS[name], runs), args.figure, smooth=args.smooth)
    if args.out is not None:
        write_csv(args.out, curve_rows(runs), {})
    if args.preset is None:
        print(f"preset: {name}, by the logs' fields\n")
    print(format_table(*summary_cells(PRESETS[name], runs)))
