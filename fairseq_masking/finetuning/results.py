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

__all__ = ["Baselines", "Result", "average", "gains_table", "plot_over", "result_of", "scores_table"]

_TEST = " test"

# task -> baseline -> split -> metric -> score
Baselines = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]


@dataclass(frozen=True)
class Result:
    name: str  # of the start
    updates: int  # of the start
    task: str  # its name, followed by " test" for the test set
    metric: str  # of the values
    configurations: tuple[str, ...]  # the one chosen for each seed
    values: tuple[float, ...]  # one a seed, in percent
    score: float  # their mean or median, as the protocol has it
    hours: float = 0.0  # of the start

    @property
    def start(self) -> str:
        return f"{self.name}, {self.updates:,} updates" if self.updates else self.name

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; nan of a single one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else math.nan

    @property
    def cell(self) -> str:
        return _with_error(f"{self.score:.2f}", self.spread)


def result_of(runs: Sequence[Run], protocol: Protocol) -> list[Result]:
    """Return what all runs of one start and task come to: in validation, and on a labelled test set.

    The configuration is chosen on the validation set. A run's score is the mean over the validation sets.
    """
    first, found = runs[0], {(run.configuration_name, run.seed): run.scores() or {} for run in runs}
    configurations = list(dict.fromkeys(name for name, _ in found))
    seeds = sorted({seed for _, seed in found})

    def score(name: str, seed: int, splits: Sequence[str] = first.task.splits) -> float:
        weights = [first.task.num_rows(split) for split in splits] if protocol.by_rows and len(splits) > 1 else None
        return float(np.average([found[name, seed][split][first.metric] for split in splits], weights=weights))

    scores_CS = [[score(name, seed) for seed in seeds] for name in configurations]
    summary = protocol.summary_of(first.task.kind)
    chosen = [configurations[index] for index in protocol.choose(scores_CS, summary)]
    kept = list(zip(chosen, seeds, strict=True))
    columns = {first.task.name: [score(*run) for run in kept]}
    if all("test" in found[run] for run in kept):
        columns[f"{first.task.name}{_TEST}"] = [score(*run, ["test"]) for run in kept]
    start, metric, cells = first.start, first.metric, tuple(chosen)
    return [
        Result(start.name, start.updates, column, metric, cells, tuple(values), float(summary(values)), start.hours)
        for column, values in columns.items()
    ]


def average(scores: Mapping[str, float], protocol: Protocol) -> float | None:
    """Return GLUE's average as the paper defines it; None where a task is missing."""
    if not set(protocol.average) <= scores.keys():
        return None
    return float(np.mean([scores[task] for task in protocol.average]))


def scores_table(results: Sequence[Result], baselines: Baselines, protocol: Protocol) -> str:
    """Return all scores, a line for each start, under those of the baselines."""
    columns = {result.task: result.metric for result in results}
    lines = [_baseline_line(name, columns, baselines) for name in BASELINES]
    for start, own in _by_start(results).items():
        cells = [own[task].cell if task in own else "" for task in columns]
        mean = average({task: result.score for task, result in own.items()}, protocol)
        lines.append([start, *cells, "" if mean is None else f"{mean:.2f}"])
    header = ["", *(f"{task} ({metric})" for task, metric in columns.items()), "GLUE average"]
    if all(not line[-1] for line in lines):
        header, lines = header[:-1], [line[:-1] for line in lines]
    return format_table(header, lines)


def gains_table(results: Sequence[Result]) -> str:
    """Return the differences of mean scores to the first start, with their standard errors over seeds."""
    columns = list(dict.fromkeys(result.task for result in results))
    (name, first), *others = _by_start(results).items()
    lines = [[start, *(_gain(own.get(task), first.get(task)) for task in columns)] for start, own in others]
    return format_table([f"mean gain over {name}", *columns], lines) if lines else ""


def plot_over(curve: str, results: Sequence[Result], path: Path) -> bool:
    """Draw scores against "updates" or "hours" of pre-training, a panel a task, a line a name; False: no name has two.

    Source: 2008.05333, Figure 3; 2010.06040, Figure 4; of hours 2204.03243, Figure 6.
    """
    lines: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        lines.setdefault(result.task, {}).setdefault(result.name, []).append(result)
    if all(len(line) < 2 for by_name in lines.values() for line in by_name.values()):
        return False
    figure, (axes,) = new_figure(1, len(lines), (4.5 * len(lines), 3.6))
    for (task, by_name), axis in zip(lines.items(), axes, strict=True):
        for name, line in by_name.items():
            if len(line) == 1:  # from random weights: no place on the axis
                axis.axhline(line[0].score, linestyle="--", color="0.5", label=name)
                continue
            points = sorted((getattr(each, curve), each.score, np.nan_to_num(each.spread)) for each in line)
            axis.errorbar(*zip(*points, strict=True), marker="o", capsize=3, label=name)
        axis.set(xlabel=f"{curve} of pre-training", ylabel=f"{task}, {line[0].metric}")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    save_figure(figure, path)
    return True


def _by_start(results: Sequence[Result]) -> dict[str, dict[str, Result]]:
    """Name of a start -> task -> its result."""
    found: dict[str, dict[str, Result]] = {}
    for result in results:
        found.setdefault(result.start, {})[result.task] = result
    return found


def _baseline_line(name: str, columns: Mapping[str, str], baselines: Baselines) -> list[str]:
    cells = []
    for column, metric in columns.items():
        splits = baselines.get(column.removesuffix(_TEST), {}).get(name, {})
        wanted = ("test",) if column.endswith(_TEST) else ("valid", "valid1")
        kept = [splits[split][metric] for split in wanted if split in splits]
        cells.append(f"{np.mean(kept):.2f}" if kept else "")
    return [{TFIDF: "TF-IDF, logistic regression"}.get(name, name), *cells, ""]


def _gain(result: Result | None, other: Result | None) -> str:
    if result is None or other is None:
        return ""
    error = math.sqrt(sum(part.spread**2 / len(part.values) for part in (result, other)))
    return _with_error(f"{np.mean(result.values) - np.mean(other.values):+.2f}", error)


def _with_error(value: str, error: float) -> str:
    return value if math.isnan(error) else f"{value} ± {error:.2f}"
