"""How runs learned, from their training logs, shown by a method's preset of ``presets.yaml``."""

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from fairseq_masking.errors import UserError
from fairseq_masking.figures.figure import Curve, Curves, Panel
from fairseq_masking.figures.training_log import TrainingLog

__all__ = ["PRESETS", "Preset", "curve_rows", "curves_of", "depths_of", "find_preset", "panels_of", "summary_cells"]

_STYLES = (":", "--", "-", "-.")  # of a line's depths, shallow first


class Preset(NamedTuple):
    """What is drawn and tabled of a method's runs, as ``presets.yaml`` says."""

    needs: Sequence[str]
    panels: Sequence[Panel]
    columns: Mapping[str, str]


def _read_presets() -> dict[str, Preset]:
    text = (Path(__file__).parent / "presets.yaml").read_text(encoding="utf-8")
    return {
        name: Preset(found["needs"], [Panel(**panel) for panel in found["panels"]], found["columns"])
        for name, found in yaml.safe_load(text).items()
    }


PRESETS = _read_presets()
# Training's metric -> what it is computed from, at the updates that have all of it, and how.
_COMPUTED: dict[str, tuple[tuple[str, ...], Callable[..., float]]] = {
    "gap": (("loss_proposed", "loss_uniform"), operator.sub),
    "explored": (("share_proposed",), lambda proposed: 1.0 - proposed),
    "above_chance": (
        ("disc_accuracy_replaced", "disc_accuracy_original"),
        lambda replaced, original: replaced + original - 100,
    ),
}
_MEANS: dict[str, Callable[[Curve], float]] = {
    "last": lambda curve: float(curve[1][curve[0] > 0.9 * curve[0][-1]].mean()),
    "first": lambda curve: float(curve[1][0]),
    "end": lambda curve: float(curve[1][-1]),
    "median": lambda curve: float(np.median(curve[1])),
}


def curves_of(log: TrainingLog) -> dict[str, Curve]:
    """Return all that was logged, and what is computed from it; one not always logged is shorter."""
    found = {key: _curve(*log.train_curve(key)) for key in _keys(log.train)}
    found |= {f"valid_{key}": _curve(*log.curve(key)) for key in _keys(log.valid)}
    for metric, (names, compute) in _COMPUTED.items():
        both = [update for update, values in log.train.items() if values.keys() >= set(names)]
        if both:
            values = [compute(*(log.train[update][name] for name in names)) for update in both]
            found[metric] = _curve(both, values)
    return found


def _keys(values: Mapping[int, Mapping[str, float]]) -> list[str]:
    return [key for key in dict.fromkeys(key for one in values.values() for key in one) if key != "num_updates"]


def _curve(updates: Iterable[int], values: Iterable[float]) -> Curve:
    return np.asarray(updates, dtype=np.int64), np.asarray(values, dtype=np.float64)


def find_preset(runs: Mapping[str, Curves], wanted: str | None = None) -> str:
    """Return the name of the preset that shows these runs: ``wanted``, or the first that all have fields for.

    Raises:
        UserError: a log lacks what the preset needs.
    """

    def missing(name: str, curves: Curves) -> list[str]:
        return [metric for metric in PRESETS[name].needs if not _matching(metric, curves)]

    fitting = (name for name in PRESETS if not any(missing(name, curves) for curves in runs.values()))
    taken = wanted or next(fitting, "mlm")
    for name, curves in runs.items():
        if lacks := missing(taken, curves):
            raise UserError(
                f"run {name}: its log has no {lacks[0].rstrip('*_')}: give logs of --criterion {taken} with"
                " --log-format json (or simple), or another --preset"
            )
    return taken


def panels_of(preset: Preset, runs: Mapping[str, Curves]) -> list[Panel]:
    """Return the preset's panels, with a line for each depth that any run has."""
    every = [metric for curves in runs.values() for metric in curves]
    return [
        panel._replace(lines=[one for line in panel.lines for one in _lines(line, every)]) for panel in preset.panels
    ]


def _lines(line: tuple[str, str, str], metrics: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    metric, style, meaning = line
    for number, found in enumerate(_matching(metric, metrics)):
        depth = found.removeprefix(metric[:-1])
        yield found, style or _STYLES[number % len(_STYLES)], meaning.replace("*", depth)


def summary_cells(preset: Preset, runs: Mapping[str, Curves]) -> tuple[list[str], list[list[str]]]:
    """Return the table's header and a line for each run; a cell of what it does not have is empty."""
    lines = [[name, *(_cell(cell, curves) for cell in preset.columns.values())] for name, curves in runs.items()]
    return ["last tenth of the updates", *preset.columns], lines


def _cell(template: str, curves: Curves) -> str:
    means = {name: _Values({metric: mean(curve) for metric, curve in curves.items()}) for name, mean in _MEANS.items()}
    try:
        return template.format(updates=max(int(curve[0][-1]) for curve in curves.values()), **means)
    except KeyError:
        return ""


class _Values(dict[str, Any]):
    """A number for each metric; those of all depths for one with ``*``."""

    def __missing__(self, asked: str) -> "_Slashed":
        if asked.endswith("*") and (found := _matching(asked, self)):
            return _Slashed(self[metric] for metric in found)
        raise KeyError(asked)


class _Slashed(tuple[float, ...]):
    """Numbers that are written with slashes between."""

    def __format__(self, spec: str) -> str:
        return " / ".join(format(value, spec) for value in self)


def curve_rows(runs: Mapping[str, Curves]) -> list[dict[str, Any]]:
    """Return a row for each run and interval: run, updates and the metrics ("" where there is none)."""
    metrics = list(dict.fromkeys(metric for curves in runs.values() for metric in curves))
    rows = []
    for run, curves in runs.items():
        values = {
            metric: dict(zip(*(part.tolist() for part in found), strict=True)) for metric, found in curves.items()
        }
        for update in sorted({update for found in values.values() for update in found}):
            cells = {metric: values.get(metric, {}).get(update, "") for metric in metrics}
            rows.append({"run": run, "updates": update, **cells})
    return rows


def depths_of(metrics: Iterable[str], prefix: str) -> list[str]:
    """Return what stands behind the prefix, shallow first; 4_1 and 4_2 where two are equally deep."""
    found = dict.fromkeys(metric.removeprefix(prefix) for metric in metrics if metric.startswith(prefix))
    return sorted(found, key=lambda depth: [int(number) for number in re.findall(r"\d+", depth)])


def _matching(asked: str, metrics: Iterable[str]) -> list[str]:
    """The metrics that are asked for: one, or with ``*`` all depths of it, shallow first."""
    if asked.endswith("*"):
        return [asked[:-1] + depth for depth in depths_of(metrics, asked[:-1])]
    return [asked] if asked in metrics else []
