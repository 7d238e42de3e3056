"""A fine-tuned checkpoint's predictions and scores.

GLUE and JSONL: a file for each test set without labels, as the leaderboard takes it (CoLA.tsv, MNLI-m.tsv,
...). SQuAD: SPLIT/predictions.json, null_odds.json and nbest_predictions.json of the development and the test
set, as its evaluation script takes them. scores.json holds the scores of the sets that have labels, over all
their rows; these sets' predictions are written for SQuAD alone.

Example:
  fairseq-masking predict --checkpoint checkpoints/SST-2/checkpoint_best.pt --out predictions
"""

import argparse

from fairseq_masking.cli.options import add_checkpoint, add_data, add_out, at_least


def add_options(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser, "trained with --task sentence_prediction or squad")
    add_data(parser, "prepared data (default: those it was trained on)")
    add_out(parser, "folder to write to", metavar="DIR", required=True)
    add = parser.add_argument
    add("--batch-size", type=at_least(1), default=64, metavar="N", help="rows at a time")
    add("--device", type=_device, default="cpu", help="where the model runs: cpu (default) or cuda")


def run(args: argparse.Namespace) -> None:
    """Write the files; print the scores and where the files are."""
    from fairseq_masking.figures.tables import format_table
    from fairseq_masking.finetuning.finetuned import Finetuned, predict

    finetuned = Finetuned.load(args.checkpoint, data=args.data, device=args.device)
    scores = predict(finetuned, args.out, batch_size=args.batch_size)
    for split, found in scores.items():
        print(format_table([split, "score"], [[name, f"{value:.2f}"] for name, value in found.items()]))
    written = sorted(path for path in args.out.rglob("*") if path.is_file())
    print("\n".join(map(str, written)))


def _device(name: str) -> str:
    if name == "cpu":
        return name
    import torch

    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    places = ["cpu", "cuda", *gpus] if gpus else ["cpu"]
    if name not in places:
        raise argparse.ArgumentTypeError(f"'{name}' is not here; choose of {', '.join(places)}")
    return name
