"""Learning curves as a PNG."""

from collections.abc import Mapping
from pathlib import Path

from fairseq_masking.evaluation.training_log import TrainingLog

__all__ = ["plot_learning_curves"]


def plot_learning_curves(logs: Mapping[str, TrainingLog], path: Path, *, unigram_ppl: float) -> None:
    """Draws validation perplexity and accuracy of several runs against updates.

    Args:
        logs: name of a run -> its log.
        path: PNG to write.
        unigram_ppl: perplexity of the unigram on the same masked tokens, drawn as a line.
    """
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    from matplotlib import pyplot

    figure, (perplexity, accuracy) = pyplot.subplots(1, 2, figsize=(11, 4.2), constrained_layout=True)
    for name, log in logs.items():
        perplexity.plot(*log.curve("ppl"), marker="o", markersize=3, label=name)
        accuracy.plot(*log.curve("accuracy"), marker="o", markersize=3, label=name)
    perplexity.axhline(unigram_ppl, color="0.5", linestyle="--", label=f"unigram ({unigram_ppl:.0f})")
    perplexity.set_ylabel("validation perplexity of masked tokens")
    accuracy.set_ylabel("validation accuracy of masked tokens, %")
    for axes in (perplexity, accuracy):
        axes.set_xlabel("updates")
        axes.grid(alpha=0.3)
        axes.legend()
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, dpi=120, format="png")
    pyplot.close(figure)
    partial.replace(path)
