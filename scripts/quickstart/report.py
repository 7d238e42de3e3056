"""The quickstart's report: a table, the learning curves, and what the models write into gaps."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from unigram import Score, Unigram, format_fillings, top_candidates, training_unigram, validation_targets

from fairseq_masking.checkpoints.hub import HubInterface
from fairseq_masking.errors import UserError
from fairseq_masking.figures.figure import plot_panels
from fairseq_masking.figures.tables import format_table
from fairseq_masking.figures.training_log import PRESETS, TrainingLog, curves_of, read_training_log
from fairseq_masking.tasks import MaskedPretrainingTask
from fairseq_masking.tasks.masked_pretraining import MaskedPretrainingConfig

__all__ = ["SENTENCES", "main", "score_table"]

# Written for this report; none is in the corpus.
SENTENCES = (
    "I thank the members of the House of <mask> for their work this year.",
    "The people of the United <mask> expect us to act.",
    "The Secretary of the <mask> will report to Congress on this subject.",
    "We must reduce taxes and create new <mask> for working families.",
    "Peace with all <mask> has been the policy of this Government.",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; return the exit status."""
    parser = argparse.ArgumentParser(prog="report.py", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="prepared corpus")
    parser.add_argument(
        "--run",
        dest="runs",
        action="append",
        required=True,
        metavar="NAME=DIR",
        help="name and folder of a run: DIR/train.log and DIR/checkpoint_last.pt; repeat for several",
    )
    parser.add_argument("--tokens-per-sample", type=int, required=True, metavar="N", help="as in the training")
    parser.add_argument("--figure", type=Path, required=True, metavar="PNG", help="figure to write")
    args = parser.parse_args(argv)
    try:
        _report(args)
    except UserError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    return 0


def _report(args: argparse.Namespace) -> None:
    folders = dict(_name_and_folder(run) for run in args.runs)
    logs = {name: read_training_log(folder / "train.log") for name, folder in folders.items()}
    config = MaskedPretrainingConfig(
        data=str(args.data), tokens_per_sample=args.tokens_per_sample, seed=1, train_subset="train", bpe=None
    )
    task = MaskedPretrainingTask.setup_task(config)
    unigram = training_unigram(task)
    baseline = unigram.score(validation_targets(task))
    print(score_table(logs, baseline))
    plot_learning_curves(logs, args.figure, unigram_ppl=baseline.ppl)
    print(verdict(logs, baseline))
    best = min(logs, key=lambda name: logs[name].final("loss"))
    print(f"\nTop 5 fillings of {best}, their probabilities, and the unigram's for the same token:\n")
    print(_fillings(folders[best], args.data, unigram))


def score_table(logs: dict[str, TrainingLog], unigram: Score) -> str:
    """Validation of each run after its last update, beside the unigram on the same masked tokens."""
    rows = [["unigram (no context)", "", *_scores(unigram), ""]]
    for name, log in logs.items():
        score = Score(log.final("loss"), log.final("ppl"), log.final("accuracy"))
        rows.append(
            [name, str(log.curve("loss")[0][-1]), *_scores(score), f"{log.train[max(log.train)]['wall']:,.0f}"]
        )
    return format_table(["validation", "updates", "loss (bits)", "perplexity", "accuracy", "seconds"], rows)


def verdict(logs: dict[str, TrainingLog], unigram: Score) -> str:
    """Say which objectives are ahead of the first one, which behind, and what that does not mean."""
    (first, baseline), *others = ((name, log.final("loss")) for name, log in logs.items())
    lines = [
        f"{first} is {unigram.loss - baseline:.2f} bits better than the unigram. Beside it, in about the same time:"
    ]
    lines += [f"  {name}: {_apart(loss, baseline)}" for name, loss in others]
    return "\n".join(
        [*lines, "One seed, a tiny encoder, minutes of training: no verdict on the objectives at their papers' scale."]
    )


def _apart(loss: float, other: float) -> str:
    return f"{abs(loss - other):.2f} bits {'better' if loss < other else 'worse'}"


def plot_learning_curves(logs: Mapping[str, TrainingLog], path: Path, *, unigram_ppl: float) -> None:
    """Draw the preset ``mlm``, with the unigram's perplexity on the same masked tokens as a line."""
    _, perplexity, accuracy = PRESETS["mlm"].panels
    perplexity = perplexity._replace(level=unigram_ppl, level_label=f"unigram ({unigram_ppl:.0f})")
    runs = {name: curves_of(log) for name, log in logs.items()}
    plot_panels(runs, [perplexity, accuracy], path)


def _scores(score: Score) -> list[str]:
    return [f"{score.loss:.3f}", f"{score.ppl:.1f}", f"{score.accuracy:.1f}%"]


def _fillings(folder: Path, data: Path, unigram: Unigram) -> str:
    hub = HubInterface.from_pretrained(folder, "checkpoint_last.pt", data)
    return "\n".join(format_fillings(text, top_candidates(hub, text, unigram)) for text in SENTENCES)


def _name_and_folder(run: str) -> tuple[str, Path]:
    name, equals, folder = run.partition("=")
    if not equals or not Path(folder).is_dir():
        raise UserError(f"--run {run!r}: give NAME=DIR, the folder of a run")
    return name, Path(folder)


if __name__ == "__main__":
    sys.exit(main())
