"""Reads what fairseq-train writes with ``--log-format json --log-file FILE``.

The file holds one JSON object a line between lines of plain text; fairseq adds a handler with each progress
bar, so that later lines stand there several times. All values are numbers in quotes.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from fairseq_masking.errors import UserError

__all__ = ["TrainingLog", "read_training_log"]

_VALID = "valid_"


class TrainingLog(NamedTuple):
    """What a run logged, by the number of updates, ascending; a resumed run's later values win.

    Attributes:
        train: updates -> the interval's values (``loss``, ``ppl``, ``wps``, ...).
        valid: updates -> the validation's values, without the prefix ``valid_``.
    """

    train: dict[int, dict[str, float]]
    valid: dict[int, dict[str, float]]

    @property
    def tokens_per_second(self) -> float:
        """Median of the intervals' ``wps``: validations and hiccups do not count."""
        return median(values["wps"] for values in self.train.values())

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Updates and validation's ``key`` at each."""
        updates = [update for update, values in self.valid.items() if key in values]
        return updates, [self.valid[update][key] for update in updates]

    def final(self, key: str) -> float:
        """Validation's ``key`` at the last update at which there was one."""
        return self.curve(key)[1][-1]


def read_training_log(path: str | Path) -> TrainingLog:
    """Reads a log file.

    Raises:
        UserError: the file is missing, or holds no interval or no validation.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist: train with --log-format json --log-file {path}")
    with path.open(encoding="utf-8", errors="replace") as lines:
        log = _collect(lines)
    for name, values in (("training interval", log.train), ("validation", log.valid)):
        if not values:
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
    """The numbers of a JSON object; {} for any other line, one cut short by a kill among them."""
    if not line.startswith("{"):
        return {}
    try:
        values = json.loads(line)
    except ValueError:
        return {}
    numbers = {}
    for key, value in values.items():
        try:
            numbers[key] = float(value)
        except (TypeError, ValueError):
            continue
    return numbers
