"""Learning curves as a PNG."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairseq_masking.figures.training_log import TrainingLog
from fairseq_masking.files import whole_file

__all__ = ["new_figure", "plot_learning_curves", "save_figure"]


def new_figure(rows: int, columns: int, size: tuple[float, float], **sharing: Any) -> tuple[Any, Any]:
    """A figure and its axes, an array ``[rows, columns]``; needs no display.

    Args:
        size: in inches.
        sharing: ``sharex`` and ``sharey`` of matplotlib's ``subplots``.
    """
    # A figure of its own backend: pyplot would keep it alive and might look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **sharing)


def save_figure(figure: Any, path: Path, *, dpi: int = 120) -> None:
    """Writes a PNG, whole or not at all; its folder is made."""
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=dpi, format="png")


def plot_learning_curves(logs: Mapping[str, TrainingLog], path: Path, *, unigram_ppl: float) -> None:
    """Draws validation perplexity and accuracy of several runs against updates.

    Args:
        logs: name of a run -> its log.
        path: PNG to write.
        unigram_ppl: perplexity of the unigram on the same masked tokens, drawn as a line.
    """
    figure, ((perplexity, accuracy),) = new_figure(1, 2, (11, 4.2))
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
    save_figure(figure, path)
