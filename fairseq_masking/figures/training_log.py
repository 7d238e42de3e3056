"""Reads what fairseq-train writes with ``--log-format json`` or ``simple``.

Of a ``--log-file`` (one JSON object a line between lines of plain text), of Hydra's log and of what stood on
the terminal: whatever comes before the values is passed over. fairseq adds a handler with each progress bar,
so that later lines stand there several times. All values are numbers in quotes.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from fairseq_masking.errors import UserError

__all__ = ["TrainingLog", "named_log", "read_training_log"]

_VALID = "valid_"
_SIMPLE_TRAIN = re.compile(r"epoch \d+: +\d+ / \d+ (.*)")
_SIMPLE_VALID = re.compile(r"epoch \d+ \| valid on '[^']*' subset \| (.*)")


class TrainingLog(NamedTuple):
    """What a run logged, by the number of updates, ascending; a resumed run's later values win."""

    train: dict[int, dict[str, float]]  # updates -> the interval's values (``loss``, ``ppl``, ``wps``, ...)
    valid: dict[int, dict[str, float]]  # updates -> the validation's values, without the prefix ``valid_``

    @property
    def tokens_per_second(self) -> float:
        """Median of the intervals' ``wps``: validations and hiccups do not count."""
        return median(values["wps"] for values in self.train.values())

    def train_curve(self, key: str) -> tuple[list[int], list[float]]:
        """Updates and training's ``key`` at each interval that has it."""
        return _curve(self.train, key)

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Updates and validation's ``key`` at each."""
        return _curve(self.valid, key)

    def final(self, key: str) -> float:
        """Validation's ``key`` at the last update at which there was one."""
        return self.curve(key)[1][-1]


def _curve(logged: dict[int, dict[str, float]], key: str) -> tuple[list[int], list[float]]:
    updates = [update for update, values in logged.items() if key in values]
    return updates, [logged[update][key] for update in updates]


def named_log(run: str) -> tuple[str, Path]:
    """Read NAME=LOG, where LOG may be the folder with its log: train.log, or Hydra's hydra_train.log.

    Raises:
        UserError: that is not its form.
    """
    name, equals, path = run.partition("=")
    if not equals or not name:
        raise UserError(f"--run {run!r}: give NAME=LOG")
    log = Path(path)
    if log.is_dir():
        logs = [log / "train.log", log / "hydra_train.log"]
        log = next((path for path in logs if path.exists()), logs[0])
    return name, log


def read_training_log(path: str | Path, *, needs_validation: bool = True) -> TrainingLog:
    """Read a log file.

    Args:
        needs_validation: refuse a log without validations.

    Raises:
        UserError: the file is missing, or holds no interval or no validation.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist: train with --log-format json --log-file {path}")
    with path.open(encoding="utf-8", errors="replace") as lines:
        log = _collect(lines)
    for name, values in (("training interval", log.train), ("validation", log.valid)):
        if not values and (needs_validation or name != "validation"):
            raise UserError(
                f"{path} holds no {name}: train longer, with --log-format json, a smaller --log-interval and"
                " --validate-interval-updates"
            )
    return log


def _collect(lines: Iterable[str]) -> TrainingLog:
    train: dict[int, dict[str, float]] = {}
    valid: dict[int, dict[str, float]] = {}
    for line in lines:
        values = _numbers(line)
        if f"{_VALID}num_updates" in values:
            own = {key.removeprefix(_VALID): value for key, value in values.items() if key.startswith(_VALID)}
            valid[int(own["num_updates"])] = own
        elif "num_updates" in values and "wps" in values:
            train[int(values["num_updates"])] = values
    return TrainingLog(dict(sorted(train.items())), dict(sorted(valid.items())))


def _numbers(line: str) -> dict[str, float]:
    """The numbers of a line of values; {} for any other line, one cut short by a kill among them."""
    numbers = {}
    for key, value in _values(line).items():
        try:
            numbers[key] = float(value)
        except (TypeError, ValueError):
            continue
    return numbers


def _values(line: str) -> dict[str, str]:
    if found := _SIMPLE_TRAIN.search(line):
        return dict(pair.split("=", 1) for pair in found[1].strip().split(", ") if "=" in pair)
    if found := _SIMPLE_VALID.search(line):
        pairs = (pair.split(" ", 1) for pair in found[1].strip().split(" | ") if " " in pair)
        return {f"{_VALID}{key}": value for key, value in pairs}
    start = line.find("{")
    try:
        values = json.loads(line[start:]) if start >= 0 else {}
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}
