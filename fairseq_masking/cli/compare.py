"""Which objective your corpus and budget should get: runs side by side, and whether they differ.

Each objective tries every learning rate with the first seed and trains its best with the others, each an
ordinary fairseq-hydra-train; then come the loss at the same <mask>s, minimal pairs and fine-tuned tasks. OUT
gets table.csv, curves.png and page.html. What has finished is not repeated, what was killed goes on.

Example:
  fairseq-masking compare --config tiny --data .quickstart/data --out compared --dry-run
"""

import argparse
from pathlib import Path

from fairseq_masking.cli.options import add_devices, add_shared


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--config", required=True, metavar="FILE", help="YAML of runs, or tiny, small, base of configs/compare")
    add_shared(parser, "data", required=True)
    add_shared(parser, "out", "folder of runs and results", metavar="DIR", required=True)
    add("--minimal-pairs", type=Path, metavar="DIR", help="also score these, as the verb score does")
    add("--dry-run", action="store_true", help="print commands, expected hours and disk; train nothing")
    add_devices(parser)
    add("overrides", nargs="*", metavar="KEY=VALUE", help="of the file, such as budget.tokens=1e6 seeds=2")


def run(args: argparse.Namespace) -> None:
    from fairseq_masking.comparing.comparison import read_settings

    settings = read_settings(args.config, args.overrides)
    told = {"minimal_pairs": args.minimal_pairs, "devices": args.devices, "dry": args.dry_run}
    settings.compare(args.data, args.out, argv=args.command, **told)
