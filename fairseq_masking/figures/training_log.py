"""How runs learned: what fairseq-train writes with ``--log-format json`` or ``simple``, and its curves and tables.

Of a ``--log-file`` (one JSON object a line between lines of plain text), of Hydra's log and of what stood on
the terminal: whatever comes before the values is passed over. fairseq adds a handler with each progress bar,
so that later lines stand there several times. All values are numbers in quotes.
"""

import json
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import yaml

from fairseq_masking.errors import UserError
from fairseq_masking.figures.figure import Curve, Curves, Panel

__all__ = [
    "PRESETS", "Preset", "TrainingLog", "curve_rows", "curves_of", "depths_of", "find_preset", "named_log",
    "panels_of", "read_training_log", "summary_cells",
]  # fmt: skip

Logged = dict[int, dict[str, float]]  # updates -> values

_VALID = "valid_"
_SIMPLE_TRAIN = re.compile(r"epoch \d+: +\d+ / \d+ (.*)")
_SIMPLE_VALID = re.compile(r"epoch \d+ \| valid on '[^']*' subset \| (.*)")
_STYLES = (":", "--", "-", "-.")  # of a line's depths, shallow first


class TrainingLog(NamedTuple):
    """What a run logged, by the number of updates, ascending; a resumed run's later values win."""

    train: Logged  # the interval's values (``loss``, ``ppl``, ``wps``, ...)
    valid: Logged  # the validation's values, without the prefix ``valid_``

    @property
    def tokens_per_second(self) -> float:
        """Median of the intervals' ``wps``: validations and hiccups do not count."""
        return median(values["wps"] for values in self.train.values())

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Updates and validation's ``key`` at each."""
        return _curve(self.valid, key)

    def final(self, key: str) -> float:
        """Validation's ``key`` at the last update at which there was one."""
        return self.curve(key)[1][-1]


def _curve(logged: Logged, key: str) -> tuple[list[int], list[float]]:
    updates = [update for update, values in logged.items() if key in values]
    return updates, [logged[update][key] for update in updates]


def named_log(run: str) -> tuple[str, Path]:
    """Read NAME=LOG, where LOG may be the folder with its log: train.log, or Hydra's hydra_train.log."""
    name, equals, path = run.partition("=")
    if not equals or not name:
        raise UserError(f"--run {run!r}: give NAME=LOG")
    log = Path(path)
    if log.is_dir():
        logs = [log / "train.log", log / "hydra_train.log"]
        log = next((path for path in logs if path.exists()), logs[0])
    return name, log


def read_training_log(path: str | Path, *, needs_validation: bool = True) -> TrainingLog:
    """Read a log file; a UserError where it is missing, or holds no interval or no validation."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist: train with --log-format json --log-file {path}")
    train: Logged = {}
    valid: Logged = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for values in map(_numbers, lines):
            if f"{_VALID}num_updates" in values:
                own = {key.removeprefix(_VALID): value for key, value in values.items() if key.startswith(_VALID)}
                valid[int(own["num_updates"])] = own
            elif "num_updates" in values and "wps" in values:
                train[int(values["num_updates"])] = values
    for name, found, needed in (("training interval", train, True), ("validation", valid, needs_validation)):
        if needed and not found:
            raise UserError(
                f"{path} holds no {name}: train longer, with --log-format json, a smaller --log-interval and"
                " --validate-interval-updates"
            )
    return TrainingLog(dict(sorted(train.items())), dict(sorted(valid.items())))


def _numbers(line: str) -> dict[str, float]:
    """The numbers of a line of values; {} for any other line, one cut short by a kill among them."""
    values: Any = None
    if found := _SIMPLE_TRAIN.search(line):
        values = dict(pair.split("=", 1) for pair in found[1].strip().split(", ") if "=" in pair)
    elif found := _SIMPLE_VALID.search(line):
        pairs = (pair.split(" ", 1) for pair in found[1].strip().split(" | ") if " " in pair)
        values = {f"{_VALID}{key}": value for key, value in pairs}
    else:
        with suppress(ValueError):
            values = json.loads(line[line.index("{") :])
    numbers = {}
    for key, value in values.items() if isinstance(values, dict) else ():
        with suppress(TypeError, ValueError):
            numbers[key] = float(value)
    return numbers


class Preset(NamedTuple):
    """What is drawn and tabled of a method's runs, as ``presets.yaml`` says."""

    needs: Sequence[str]
    panels: Sequence[Panel]
    columns: Mapping[str, str]


PRESETS = {
    name: Preset(found["needs"], [Panel(**panel) for panel in found["panels"]], found["columns"])
    for name, found in yaml.safe_load((Path(__file__).parent / "presets.yaml").read_text(encoding="utf-8")).items()
}
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
    computed = {
        update: {
            metric: compute(*(values[name] for name in names))
            for metric, (names, compute) in _COMPUTED.items()
            if values.keys() >= set(names)
        }
        for update, values in log.train.items()
    }
    found = {}
    for prefix, logged in (("", log.train), (_VALID, log.valid), ("", computed)):
        for key in dict.fromkeys(key for values in logged.values() for key in values if key != "num_updates"):
            updates, values = _curve(logged, key)
            found[f"{prefix}{key}"] = (np.asarray(updates, dtype=np.int64), np.asarray(values, dtype=np.float64))
    return found


def find_preset(runs: Mapping[str, Curves], wanted: str | None = None) -> str:
    """Return the name of the preset that shows these runs: ``wanted``, or the first that all have fields for."""

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
    metrics = dict.fromkeys((metric for curves in runs.values() for metric in curves), "")
    rows = []
    for run, curves in runs.items():
        own: dict[int, dict[str, Any]] = {}
        for metric, (updates, values) in curves.items():
            for update, value in zip(updates.tolist(), values.tolist(), strict=True):
                own.setdefault(update, {"run": run, "updates": update, **metrics})[metric] = value
        rows += [own[update] for update in sorted(own)]
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
