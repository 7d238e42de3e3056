"""A sweep's scores by a protocol, as rows, as a table and as curves over pre-training.

Shapes: C configurations, S seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq_masking.figures.figure import new_figure, save_figure
from fairseq_masking.figures.tables import format_table
from fairseq_masking.finetuning.baselines import BASELINES, TFIDF
from fairseq_masking.finetuning.protocols import Protocol
from fairseq_masking.finetuning.runs import Run
from fairseq_masking.finetuning.tasks import FinetuningTask

__all__ = [
    "Baselines",
    "Result",
    "average",
    "gains_table",
    "plot_over_updates",
    "result_of",
    "score_of",
    "scores_table",
]

_TEST = " test"

Baselines = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]


@dataclass(frozen=True)
class Result:
    """What a start scores on a task.

    Attributes:
        name, updates: of the start.
        task: its name, followed by " test" for the test set.
        metric: of the values.
        configurations: the one chosen for each seed.
        values: one a seed, in percent.
        score: their mean or median, as the protocol has it.
    """

    name: str
    updates: int
    task: str
    metric: str
    configurations: tuple[str, ...]
    values: tuple[float, ...]
    score: float

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; nan of a single one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else math.nan


def score_of(scores: Mapping[str, Mapping[str, float]], task: FinetuningTask, metric: str) -> float:
    """Return a run's score: the mean over the validation sets."""
    return float(np.mean([scores[split][metric] for split in task.splits]))


def result_of(runs: Sequence[Run], protocol: Protocol) -> list[Result]:
    """Return what all runs of one start and task come to: in validation, and on a labelled test set.

    The configuration is chosen on the validation set.
    """
    first, found = runs[0], {(run.configuration_name, run.seed): run.scores() for run in runs}
    configurations = list(dict.fromkeys(name for name, _ in found))
    seeds = sorted({seed for _, seed in found})
    scores_CS = [
        [score_of(found[name, seed] or {}, first.task, first.metric) for seed in seeds]
        for name in configurations
    ]
    chosen = [configurations[index] for index in protocol.choose(scores_CS, protocol.summary)]
    kept = [found[name, seed] or {} for name, seed in zip(chosen, seeds, strict=True)]
    columns = {first.task.name: [score_of(scores, first.task, first.metric) for scores in kept]}
    if all("test" in scores for scores in kept):
        columns[f"{first.task.name}{_TEST}"] = [scores["test"][first.metric] for scores in kept]
    return [
        Result(
            first.start.name,
            first.start.updates,
            column,
            first.metric,
            tuple(chosen),
            tuple(values),
            float(protocol.summary(values)),
        )
        for column, values in columns.items()
    ]


def average(scores: Mapping[str, float], protocol: Protocol) -> float | None:
    """Return GLUE's average as the paper defines it; None where a task is missing."""
    if not set(protocol.average) <= scores.keys():
        return None
    return float(np.mean([scores[task] for task in protocol.average]))


def scores_table(results: Sequence[Result], baselines: Baselines, protocol: Protocol) -> str:
    """Return all scores, a line for each start, under those of the baselines.

    Args:
        baselines: task -> baseline -> split -> metric -> score.
    """
    columns = {result.task: result.metric for result in results}
    lines = [_baseline_line(name, columns, baselines) for name in BASELINES]
    for start in dict.fromkeys((result.name, result.updates) for result in results):
        own = {result.task: result for result in results if (result.name, result.updates) == start}
        cells = [_cell(own[task]) if task in own else "" for task in columns]
        mean = average({task: result.score for task, result in own.items()}, protocol)
        lines.append([_label(*start), *cells, "" if mean is None else f"{mean:.2f}"])
    header = ["", *(f"{task} ({metric})" for task, metric in columns.items()), "GLUE average"]
    if all(not line[-1] for line in lines):
        header, lines = header[:-1], [line[:-1] for line in lines]
    return format_table(header, lines)


def gains_table(results: Sequence[Result]) -> str:
    """Return the differences of mean scores to the first start, with their standard errors over seeds."""
    columns = list(dict.fromkeys(result.task for result in results))
    starts = list(dict.fromkeys((result.name, result.updates) for result in results))
    found = {(result.name, result.updates, result.task): result for result in results}
    lines = [
        [
            _label(*start),
            *(_gain(found.get((*start, task)), found.get((*starts[0], task))) for task in columns),
        ]
        for start in starts[1:]
    ]
    return format_table([f"mean gain over {_label(*starts[0])}", *columns], lines) if lines else ""


def plot_over_updates(results: Sequence[Result], path: Path) -> bool:
    """Draw scores against updates of pre-training, a panel a task, a line a name; False: no name has two.

    Source: 2008.05333, Figure 3; 2010.06040, Figure 4.
    """
    tasks = list(dict.fromkeys(result.task for result in results))
    names = list(dict.fromkeys(result.name for result in results))
    lines = {
        (task, name): sorted(
            (result for result in results if (result.task, result.name) == (task, name)),
            key=lambda result: result.updates,
        )
        for task in tasks
        for name in names
    }
    if all(len(line) < 2 for line in lines.values()):
        return False
    figure, (axes,) = new_figure(1, len(tasks), (4.5 * len(tasks), 3.6))
    for task, axis in zip(tasks, axes, strict=True):
        for name in names:
            line = lines[task, name]
            if len(line) == 1:  # from random weights: no place on the axis of updates
                axis.axhline(line[0].score, linestyle="--", color="0.5", label=name)
            elif line:
                spreads = [0.0 if math.isnan(result.spread) else result.spread for result in line]
                axis.errorbar(
                    [result.updates for result in line],
                    [result.score for result in line],
                    spreads,
                    marker="o",
                    capsize=3,
                    label=name,
                )
        metric = next(result.metric for result in results if result.task == task)
        axis.set(xlabel="updates of pre-training", ylabel=f"{task}, {metric}")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    save_figure(figure, path)
    return True


def _baseline_line(name: str, columns: Mapping[str, str], baselines: Baselines) -> list[str]:
    cells = []
    for column, metric in columns.items():
        splits = baselines.get(column.removesuffix(_TEST), {}).get(name, {})
        wanted = ("test",) if column.endswith(_TEST) else ("valid", "valid1")
        kept = [splits[split] for split in wanted if split in splits]
        cells.append(f"{np.mean([scores[metric] for scores in kept]):.2f}" if kept else "")
    return [{TFIDF: "TF-IDF, logistic regression"}.get(name, name), *cells, ""]


def _label(name: str, updates: int) -> str:
    return f"{name}, {updates:,} updates" if updates else name


def _cell(result: Result) -> str:
    if math.isnan(result.spread):
        return f"{result.score:.2f}"
    return f"{result.score:.2f} ± {result.spread:.2f}"


def _gain(result: Result | None, other: Result | None) -> str:
    if result is None or other is None:
        return ""
    gain = f"{np.mean(result.values) - np.mean(other.values):+.2f}"
    if math.isnan(result.spread) or math.isnan(other.spread):
        return gain
    error = math.sqrt(sum(part.spread**2 / len(part.values) for part in (result, other)))
    return f"{gain} ± {error:.2f}"
