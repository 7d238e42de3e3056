"""A labelled task's own files to the data folder that fine-tuning takes.

GLUE's tasks from GLUE's own files (train.tsv, dev.tsv, test.tsv), {"text", "label"} lines (train.jsonl,
dev.jsonl, test.jsonl), or SQuAD (train*.json, dev*.json). Rows that cannot be used are counted, and named one
by one in OUT/skipped.log.

Example:
  fairseq-masking prepare task --task SST-2 --data glue/SST-2 --corpus data/wiki --out data/SST-2
"""

import argparse
from pathlib import Path

from fairseq_masking.cli.options import add_shared, at_least
from fairseq_masking.finetuning.glue import SQUAD, TASKS

_OF_ROWS = ("max_length", "max_train_rows", "seed")


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--task", required=True, choices=TASKS)
    add_shared(parser, "data", "folder of the task's own files", required=True)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--corpus", type=Path, metavar="DIR", help="prepared corpus to take the tokeniser of")
    source.add_argument("--checkpoint", type=Path, metavar="FILE", help="take the corpus it was trained on")
    add_shared(parser, "out", "folder to make", metavar="DIR", required=True)
    add("--max-length", type=at_least(8), metavar="N",
        help="cut rows to so many tokens, the longer of two texts first (default: 512; not for squad, whose"
        " task cuts windows)")  # fmt: skip
    add("--max-train-rows", type=at_least(2), metavar="N",
        help="keep so many training rows, drawn by --seed (not for squad)")  # fmt: skip
    add("--seed", type=at_least(0), metavar="N", help="of that draw (default: 1)")
    add("--workers", type=at_least(1), default=1, metavar="N",
        help="processes; the result does not depend on it")  # fmt: skip
    add("--force", action="store_true", help="replace a folder made with other settings or inputs")


def check(args: argparse.Namespace) -> None:
    args.of_rows = {name: value for name in _OF_ROWS if (value := vars(args)[name]) is not None}
    if args.task == SQUAD and args.of_rows:
        raise argparse.ArgumentError(
            None,
            f"--{next(iter(args.of_rows)).replace('_', '-')} is of rows, not of --task {SQUAD}: leave it out; all"
            " questions are kept, and task.tokens_per_sample is the length in training",
        )


def run(args: argparse.Namespace) -> None:
    from fairseq_masking.corpus.workspace import Reporter
    from fairseq_masking.figures.tables import format_table
    from fairseq_masking.finetuning.prepare import prepare_finetuning
    from fairseq_masking.finetuning.tasks import corpus_of

    data = args.data.absolute()  # recorded: the baselines read the same files again
    told = {"corpus": args.corpus or corpus_of(args.checkpoint), "workers": args.workers, "force": args.force}
    manifest, is_new = prepare_finetuning(args.task, data, args.out, reporter=Reporter(), **told, **args.of_rows)
    if not is_new:
        print(f"{args.out} was prepared with these settings and inputs: nothing to do")
    counts = manifest.counts
    names = list(dict.fromkeys(name for found in counts.values() for name in found))
    rows = [[split, *(f"{found.get(name, 0):,}" for name in names)] for split, found in counts.items()]
    print(format_table(["split", *names], rows))
    if any(found["faulty"] for found in counts.values()):
        print(f"faulty rows are named in {args.out / 'skipped.log'}")
