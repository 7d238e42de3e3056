"""Which of two sentences a model finds likelier: accuracy on minimal pairs, such as BLiMP's.

A sentence's score is its pseudo-log-likelihood in nats: each token is masked, with the later tokens of its
word (--pll plain: alone), and predicted from all the others. A tie counts half. OUT/NAME/PARADIGM.jsonl keeps
the scores of every pair, OUT/scores.csv the table with every paradigm; what OUT has is not computed again.

Example:
  fairseq-masking score --checkpoint MLM=mlm.pt AMOS=amos.pt --minimal-pairs blimp --out scores
"""

import argparse
import time
from pathlib import Path

from fairseq_masking.cli.options import add_data, add_models, add_out, at_least, named_models, write_numbers

_COLUMNS = {"": "{name}", "pairs": "{pairs:,}", "accuracy": "{accuracy:.1f}", "95% interval": "{low:.1f} - {high:.1f}",
            "length alone": "{length_alone:.1f}"}  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_models(parser, "of any method (AMOS: its generator), or a Hugging Face folder")
    add("--minimal-pairs", type=Path, required=True, metavar="DIR",
        help="PARADIGM.jsonl with sentence_good, sentence_bad and, for phenomena, linguistics_term")  # fmt: skip
    add_data(parser, "prepared corpus that they were trained on (default: as stored in each)")
    add_out(parser, "folder for the scores", metavar="DIR")
    add("--pll", choices=("l2r", "plain"), default="l2r", help="what is masked")
    add("--by", choices=("sum", "mean"), default="sum",
        help="compare sums over tokens, or means; 'length alone' is what constants get")  # fmt: skip
    add("--tokens", type=at_least(1), default=4096, metavar="N", help="read at once")


def run(args: argparse.Namespace) -> None:
    """Score what is not there, print the tables, write the file."""
    from tqdm import tqdm

    from fairseq_masking.figures.tables import format_rows
    from fairseq_masking.finetuning.tasks import Start
    from fairseq_masking.measure.minimal_pairs import accuracy_rows, load_predictor, read_paradigms, score_pairs

    started, models = time.perf_counter(), named_models(args)
    paradigms, rows = read_paradigms(args.minimal_pairs), []
    for name, path in models.items():
        predictor = load_predictor(path, args.data, args.device)
        told = {"pll": args.pll, "tokens": args.tokens, "stamp": Start.of_checkpoint(name, str(path), 0).stamp}
        folder = args.out and args.out / name.replace("/", "_")
        shown = tqdm(paradigms, unit="paradigm", desc=name, disable=None)
        found = accuracy_rows({one: score_pairs(predictor, one, out=folder, **told) for one in shown}, by=args.by)
        print(f"{name}, by its {predictor.said} (--pll {args.pll} --by {args.by})")
        print(format_rows([row for row in found if row["level"] != "paradigm"], _COLUMNS), end="\n\n")
        rows += [{"model": name, **row, "pll": args.pll, "by": args.by} for row in found]
    args.out = args.out and args.out / "scores.csv"
    write_numbers(args, rows, since=started)
