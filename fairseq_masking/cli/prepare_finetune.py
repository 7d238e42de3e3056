"""prepare_finetune: makes a labelled task's own files the data that fine-tuning takes.

GLUE's tasks from GLUE's own files (train.tsv, dev.tsv, test.tsv), {"text", "label"} lines (train.jsonl,
dev.jsonl, test.jsonl), or SQuAD (train*.json, dev*.json). Rows that cannot be used are counted, and named one
by one in OUT/skipped.log.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fairseq_masking.cli.parsing import OneLineParser, at_least, run_reporting
from fairseq_masking.corpus.manifest import Manifest
from fairseq_masking.corpus.workspace import Reporter
from fairseq_masking.figures.tables import format_table
from fairseq_masking.finetuning.glue import GLUE_TASKS
from fairseq_masking.finetuning.prepare import FinetunePreparation, prepare_finetuning
from fairseq_masking.finetuning.rows import JSONL
from fairseq_masking.finetuning.squad.prepare import SQUAD
from fairseq_masking.finetuning.tasks import corpus_of

__all__ = ["get_parser", "main"]

_OF_ROWS = ("max_length", "max_train_rows", "seed")


def get_parser() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = OneLineParser(
        prog="prepare_finetune", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--task", required=True, choices=(*GLUE_TASKS, JSONL, SQUAD))
    add("--data", type=Path, required=True, metavar="DIR", help="folder of the task's own files")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--corpus", type=Path, metavar="DIR", help="prepared corpus to take the tokeniser of")
    source.add_argument("--checkpoint", type=Path, metavar="FILE", help="take the corpus it was trained on")
    add("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    add("--max-length", type=int, metavar="N",
        help="cut rows to so many tokens, the longer of two texts first (default: 512; not for squad, whose"
        " task cuts windows)")  # fmt: skip
    add("--max-train-rows", type=int, metavar="N",
        help="keep so many training rows, drawn by --seed (not for squad)")  # fmt: skip
    add("--seed", type=int, help="of that draw (default: 1)")
    add("--workers", type=int, default=1, metavar="N", help="processes; the result does not depend on it")
    add("--force", action="store_true", help="replace a folder made with other settings or inputs")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 1 for bad input, 130 interrupted (2: wrong options)."""
    parser = get_parser()
    args = parser.parse_args(argv)
    at_least(parser, args, max_length=8, max_train_rows=2, seed=0, workers=1)
    of_rows = {name: vars(args)[name] for name in _OF_ROWS if vars(args)[name] is not None}
    if args.task == SQUAD and of_rows:
        parser.error(
            f"--{next(iter(of_rows)).replace('_', '-')} is of rows, not of --task {SQUAD}: leave it out; all"
            " questions are kept, and task.tokens_per_sample is the length in training"
        )
    return run_reporting(parser, lambda: _prepare(args, of_rows), args.out)


def _prepare(args: argparse.Namespace, of_rows: dict[str, int]) -> None:
    preparation = FinetunePreparation(
        task=args.task,
        source=args.data.absolute(),  # recorded: the baselines read the same files again
        corpus=args.corpus or corpus_of(args.checkpoint),
        output=args.out,
        **of_rows,
    )
    manifest, is_new = prepare_finetuning(
        preparation, workers=args.workers, force=args.force, reporter=Reporter()
    )
    if not is_new:
        print(f"{args.out} was prepared with these settings and inputs: nothing to do")
    _print_summary(manifest, args.out)


def _print_summary(manifest: Manifest, output: Path) -> None:
    names = list(dict.fromkeys(name for counts in manifest.counts.values() for name in counts))
    rows = [
        [split, *(f"{counts.get(name, 0):,}" for name in names)] for split, counts in manifest.counts.items()
    ]
    print(format_table(["split", *names], rows))
    if any(counts["faulty"] for counts in manifest.counts.values()):
        print(f"faulty rows are named in {output / 'skipped.log'}")


if __name__ == "__main__":
    sys.exit(main())
