"""Checkpoints' scores on labelled tasks, by a paper's protocol.

Prepares the tasks with the tokeniser of the checkpoints' corpus, trains the grid of configs/finetune times
the seeds, chooses, and writes OUT/table.md, OUT/results.json and, where checkpoints of one training share a
name, OUT/scores.png. Finished runs are not repeated, killed ones go on.

Example:
  fairseq-masking finetune --checkpoint MLM=mlm.pt AMOS=amos.pt --task CoLA RTE --data glue --out scores
"""

import argparse
from pathlib import Path

from fairseq_masking.cli.options import add_devices, add_shared, at_least
from fairseq_masking.finetuning.protocols import PROTOCOLS


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    several = {"nargs": "+", "action": "extend"}
    add("--checkpoint", **several, default=[], metavar="[NAME=]PATH",
        help="of any method, or a Hugging Face folder; checkpoints of one training share a name; gains are"
        " measured against the first")  # fmt: skip
    add("--scratch", metavar="ARCH", help="also train this architecture from random weights, as mlm_base")
    add("--task", **several, required=True, metavar="TASK[=DIR]",
        help="GLUE's names, squad, or jsonl; with its own folder, if --data has not")  # fmt: skip
    add("--data", type=Path, default=Path(), metavar="DIR",
        help="the task's files, folders TASK of them, or data made by prepare task")  # fmt: skip
    add("--corpus", type=Path, metavar="DIR",
        help="prepared corpus to take the tokeniser of (default: the checkpoints')")  # fmt: skip
    add_shared(parser, "out", "folder of runs and results", metavar="DIR", required=True)
    add("--protocol", choices=tuple(PROTOCOLS), default="fully_explored",
        help="grid, seeds, selection and average (default: fully_explored, which is RoBERTa's)")  # fmt: skip
    add("--seeds", type=at_least(1), metavar="N", help="runs of each configuration (default: the protocol's)")
    add("--set", **several, dest="overrides", default=[], metavar="KEY=VALUE",
        help="overrides of the recipe for every run; what they set is not swept")  # fmt: skip
    add_devices(parser)
    add("--curve", choices=("updates", "hours"), default="updates",
        help="what scores.png has scores over, of pre-training (default: updates)")  # fmt: skip
    add("--keep-checkpoints", action="store_true", help="of all runs (default: of each task's best)")
    add("--predict", action="store_true",
        help="also write the best runs' predictions: GLUE's submission files, SQuAD's JSON")  # fmt: skip


def check(args: argparse.Namespace) -> None:
    if not args.checkpoint and not args.scratch:
        raise argparse.ArgumentError(None, "nothing to fine-tune: give --checkpoint PATH or --scratch ARCH")
    if not args.checkpoint and not args.corpus:
        raise argparse.ArgumentError(None, "--scratch alone has no tokeniser: give --corpus DIR")


def run(args: argparse.Namespace) -> None:
    from fairseq_masking.finetuning.sweep import Sweep

    Sweep(**{name: value for name, value in vars(args).items() if name not in ("command", "started")}).run()
