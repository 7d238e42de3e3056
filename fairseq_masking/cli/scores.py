"""What a model scores on pairs of sentences, what a fine-tuned one scores on its task, and what it has to beat."""

import argparse
from pathlib import Path

from fairseq_masking.cli.options import add_models, add_shared, at_least, named_models, write_numbers

_OF_PAIRS = {"": "{name}", "pairs": "{pairs:,}", "accuracy": "{accuracy:.1f}",
             "95% interval": "{low:.1f} - {high:.1f}", "length alone": "{length_alone:.1f}"}  # fmt: skip


class Score:
    """Which of two sentences a model finds likelier: accuracy on minimal pairs, such as BLiMP's.

    A sentence's score is its pseudo-log-likelihood in nats: each token is masked, with the later tokens of its
    word (--pll plain: alone), and predicted from all the others. A tie counts half. OUT/NAME/PARADIGM.jsonl keeps
    the scores of every pair, OUT/scores.csv the table with every paradigm; what OUT has is not computed again.

    Example:
      fairseq-masking score --checkpoint MLM=mlm.pt AMOS=amos.pt --minimal-pairs blimp --out scores
    """

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add_models(parser, "of any method (AMOS: its generator), or a Hugging Face folder")
        add("--minimal-pairs", type=Path, required=True, metavar="DIR",
            help="PARADIGM.jsonl with sentence_good, sentence_bad and, for phenomena, linguistics_term")  # fmt: skip
        add_shared(parser, "data", "prepared corpus that they were trained on (default: as stored in each)")
        add_shared(parser, "out", "folder for the scores", metavar="DIR")
        add("--pll", choices=("l2r", "plain"), default="l2r", help="what is masked")
        add("--by", choices=("sum", "mean"), default="sum",
            help="compare sums over tokens, or means; 'length alone' is what constants get")  # fmt: skip
        add("--tokens", type=at_least(1), default=4096, metavar="N", help="read at once")

    @staticmethod
    def run(args: argparse.Namespace) -> None:
        from tqdm import tqdm

        from fairseq_masking.figures.tables import format_rows
        from fairseq_masking.finetuning.tasks import Start
        from fairseq_masking.measure.minimal_pairs import accuracy_rows, load_predictor, read_paradigms, score_pairs

        models, paradigms, rows = named_models(args), read_paradigms(args.minimal_pairs), []
        for name, path in models.items():
            predictor = load_predictor(path, args.data, args.device)
            told = {"pll": args.pll, "tokens": args.tokens, "stamp": Start.of_checkpoint(name, str(path), 0).stamp}
            folder = args.out and args.out / name.replace("/", "_")
            shown = tqdm(paradigms, unit="paradigm", desc=name, disable=None)
            found = accuracy_rows({one: score_pairs(predictor, one, out=folder, **told) for one in shown}, by=args.by)
            print(f"{name}, by its {predictor.said} (--pll {args.pll} --by {args.by})")
            print(format_rows([row for row in found if row["level"] != "paradigm"], _OF_PAIRS), end="\n\n")
            rows += [{"model": name, **row, "pll": args.pll, "by": args.by} for row in found]
        args.out = args.out and args.out / "scores.csv"
        write_numbers(args, rows)


class Predict:
    """A fine-tuned checkpoint's predictions and scores.

    GLUE and JSONL: a file for each test set without labels, as the leaderboard takes it (CoLA.tsv, MNLI-m.tsv,
    ...). SQuAD: SPLIT/predictions.json, null_odds.json and nbest_predictions.json of the development and the test
    set, as its evaluation script takes them. scores.json holds the scores of the sets that have labels, over all
    their rows; these sets' predictions are written for SQuAD alone.

    Example:
      fairseq-masking predict --checkpoint checkpoints/SST-2/checkpoint_best.pt --out predictions
    """

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        add_shared(parser, "checkpoint", "trained with --task sentence_prediction or squad")
        add_shared(parser, "data", "prepared data (default: those it was trained on)")
        add_shared(parser, "out", "folder to write to", metavar="DIR", required=True)
        add = parser.add_argument
        add("--batch-size", type=at_least(1), default=64, metavar="N", help="rows at a time")
        add("--device", type=_device, default="cpu", help="where the model runs: cpu (default) or cuda")

    @staticmethod
    def run(args: argparse.Namespace) -> None:
        from fairseq_masking.figures.tables import format_table
        from fairseq_masking.finetuning.finetuned import Finetuned, predict

        finetuned = Finetuned.load(args.checkpoint, data=args.data, device=args.device)
        scores = predict(finetuned, args.out, batch_size=args.batch_size)
        for split, found in scores.items():
            print(format_table([split, "score"], [[name, f"{value:.2f}"] for name, value in found.items()]))
        written = sorted(path for path in args.out.rglob("*") if path.is_file())
        print("\n".join(map(str, written)))


def _device(name: str) -> str:
    if name != "cpu":
        import torch

        gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        places = ["cpu", "cuda", *gpus] if gpus else ["cpu"]
        if name not in places:
            raise argparse.ArgumentTypeError(f"'{name}' is not here; choose of {', '.join(places)}")
    return name


class Baselines:
    """What fine-tuned scores have to beat, on the same rows.

    The most frequent class (or mean score, or no answer), and TF-IDF with logistic regression.

    Example:
      fairseq-masking baselines --data data/SST-2 data/CoLA
    """

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="DIR", help="made by prepare task")
        add_shared(parser, "out", "also write the scores", metavar="JSON")

    @staticmethod
    def run(args: argparse.Namespace) -> None:
        from fairseq_masking.figures.tables import format_table
        from fairseq_masking.files import write_json
        from fairseq_masking.finetuning.baselines import baseline_scores
        from fairseq_masking.finetuning.prepare import finetuning_settings

        found = {str(data): baseline_scores(data) for data in args.data}
        for data, baselines in found.items():
            columns = {f"{split} {name}": found for name, own in baselines.items() for split, found in own.items()}
            names = list(dict.fromkeys(name for scores in columns.values() for name in scores))
            rows = [[column, *(f"{scores[name]:.2f}" for name in names)] for column, scores in columns.items()]
            print(f"{finetuning_settings(data)['task']} ({data})")
            print(format_table(["baseline", *names], rows))
        if args.out is not None:
            write_json(args.out, found)
