"""How AMOS's generator, mixture and discriminator learned, from the logs of one or several runs.

Source: 2204.03243, Fig. 1b, 5a and 5b; the metrics are the criterion's (``criterions/amos.py``).
"""

import re
from collections.abc import Iterable, Mapping

from fairseq_masking.errors import UserError
from fairseq_masking.figures.panels import Curve, Curves, Panel, curve, last_tenth, logged_curves
from fairseq_masking.figures.training_log import TrainingLog

__all__ = ["amos_curves", "depths_of", "panels_of", "summary_cells"]

_LOSS, _WEIGHT = "mlm_loss_", "mixture_"  # before a depth
_DISCRIMINATOR = (
    "disc_loss",
    "disc_accuracy",
    "disc_accuracy_replaced",
    "disc_accuracy_original",
    "replace_rate",
)
_AREA = "disc_auc"  # not in logs of before it was there
_STYLES = (":", "--", "-", "-.")


def amos_curves(name: str, log: TrainingLog) -> dict[str, Curve]:
    """Return updates and values by metric; ``above_chance`` is computed.

    Raises:
        UserError: the log is not one of an ``amos`` run.
    """
    logged = dict.fromkeys(key for values in log.train.values() for key in values)
    depths = depths_of(logged)
    missing = [key for key in _DISCRIMINATOR if key not in logged]
    if not depths or missing:
        raise UserError(
            f"run {name}: its log has no {(missing or [_LOSS])[0]}: give logs of --criterion amos with"
            " --log-format json (or simple)"
        )
    curves = logged_curves(
        log, [*(prefix + depth for prefix in (_LOSS, _WEIGHT) for depth in depths), *_DISCRIMINATOR, _AREA]
    )
    updates, replaced = curves["disc_accuracy_replaced"]
    original = dict(zip(*curves["disc_accuracy_original"], strict=True))
    both = [(update, value) for update, value in zip(updates, replaced, strict=True) if update in original]
    above = [value + original[update] - 100 for update, value in both]
    return {**curves, "above_chance": curve([update for update, _ in both], above)}


def panels_of(runs: Mapping[str, Curves]) -> list[Panel]:
    """Return the panels, with a line for each depth that any run has."""
    depths = depths_of(metric for curves in runs.values() for metric in curves)
    styles = [_STYLES[number % len(_STYLES)] for number in range(len(depths))]

    def lines(prefix: str) -> list[tuple[str, str, str]]:
        return [
            (prefix + depth, style, f"layer {depth}") for depth, style in zip(depths, styles, strict=True)
        ]

    return [
        Panel("generator's loss, bits (Fig. 1b)", lines(_LOSS)),
        Panel("mean mixture weight (Fig. 5a)", lines(_WEIGHT)),
        Panel(
            "discriminator, % (Fig. 5b)",
            (
                ("disc_accuracy_replaced", "-", "accuracy, replaced tokens"),
                ("disc_accuracy_original", "--", "accuracy, original tokens"),
                ("disc_accuracy", ":", "accuracy, all"),
                (_AREA, "-.", "area under the ROC curve"),
            ),
        ),
        Panel("accuracy on replaced + on original - 100%", (("above_chance", "-", ""),), zero=True),
        Panel("discriminator's loss, bits a token", (("disc_loss", "-", ""),)),
        Panel("masked tokens that are replaced, %", (("replace_rate", "-", ""),)),
    ]


def summary_cells(runs: Mapping[str, Curves]) -> tuple[list[str], list[list[str]]]:
    """Return header and a line for each run: means over the last tenth of its updates."""
    header = [
        "last tenth of the updates", "loss by depth", "mixture weights (at first)", "accuracy, all",
        "replaced", "original", "above chance", "area", "masked tokens replaced",
    ]  # fmt: skip
    cells = []
    for name, curves in runs.items():
        last = {key: last_tenth(found) for key, found in curves.items()}
        depths = depths_of(curves)
        weights = [last[_WEIGHT + depth] for depth in depths]
        first = [curves[_WEIGHT + depth][1][0] for depth in depths]
        cells.append(
            [
                name,
                " / ".join(f"{last[_LOSS + depth]:.3f}" for depth in depths),
                f"{_slashed(weights)} ({_slashed(first)})",
                f"{last['disc_accuracy']:.1f}%",
                f"{last['disc_accuracy_replaced']:.1f}%",
                f"{last['disc_accuracy_original']:.1f}%",
                f"{last['above_chance']:+.1f}",
                f"{last[_AREA]:.1f}%" if len(curves[_AREA][1]) else "",
                f"{last['replace_rate']:.1f}%",
            ]
        )
    return header, cells


def depths_of(metrics: Iterable[str], prefix: str = _LOSS) -> list[str]:
    """Return what stands behind the prefix, shallow first; 4_1 and 4_2 where two are equally deep."""
    found = dict.fromkeys(metric.removeprefix(prefix) for metric in metrics if metric.startswith(prefix))
    return sorted(found, key=lambda depth: [int(number) for number in re.findall(r"\d+", depth)])


def _slashed(values: Iterable[float]) -> str:
    return " / ".join(f"{value:.2f}" for value in values)
