"""How MAP-Net's proposal network learned, from the logs of one or several runs.

Source: 2008.05333, Section 3.3; the metrics are the criterion's (``criterions/map_net.py``).
"""

from collections.abc import Mapping

from fairseq_masking.errors import UserError
from fairseq_masking.figures.panels import Curve, Curves, Panel, curve, last_tenth, logged_curves
from fairseq_masking.figures.training_log import TrainingLog

__all__ = ["PANELS", "proposal_curves", "summary_cells"]

_METRICS = (
    "loss_proposed",
    "loss_uniform",
    "rank_correlation",
    "rank_correlation_uniform",
    "proposal_entropy",
    "share_proposed",
    "importance_weight",
    "clipped_low",
    "clipped_high",
)
_NEEDED = ("loss_uniform", "proposal_entropy")
PANELS = (
    Panel(
        "encoder's loss, bits",
        (("loss_proposed", "-", "proposed positions"), ("loss_uniform", "--", "uniform positions")),
    ),
    Panel("loss at proposed - at uniform, bits", (("gap", "-", ""),), zero=True),
    Panel(
        "rank correlation of p_prop and loss",
        (("rank_correlation_uniform", "-", "exploring sentences"), ("rank_correlation", ":", "all")),
        zero=True,
    ),
    Panel("entropy of p_prop, bits", (("proposal_entropy", "-", ""),)),
    Panel("share of sentences that explore", (("explored", "-", ""),)),
    Panel(
        "share of proposed sentences clipped",
        (("clipped_low", "-", "at 1 - eps"), ("clipped_high", "--", "at 1 + eps")),
    ),
)


def proposal_curves(name: str, log: TrainingLog) -> dict[str, Curve]:
    """Return updates and values by metric; ``gap`` and ``explored`` are computed. Metrics that a run does not
    have (no sentence was proposed yet) are shorter or empty.

    Raises:
        UserError: the log is not one of a ``map_net`` run.
    """
    curves = logged_curves(log, _METRICS)
    missing = [key for key in _NEEDED if not len(curves[key][0])]
    if missing:
        raise UserError(
            f"run {name}: its log has no {' or '.join(missing)}: give logs of --criterion map_net with"
            " --log-format json (or simple)"
        )
    both = [
        update for update, values in log.train.items() if {"loss_proposed", "loss_uniform"} <= values.keys()
    ]
    gaps = [log.train[update]["loss_proposed"] - log.train[update]["loss_uniform"] for update in both]
    updates, shares = curves["share_proposed"]
    return {**curves, "gap": curve(both, gaps), "explored": (updates, 1.0 - shares)}


def summary_cells(runs: Mapping[str, Curves]) -> tuple[list[str], list[list[str]]]:
    """Return header and a line for each run: means over the last tenth of its updates."""
    header = [
        "last tenth of the updates", "loss, proposed", "loss, uniform", "difference", "rank correlation",
        "entropy (at first)", "explored", "clipped low / high",
    ]  # fmt: skip
    cells = []
    for name, curves in runs.items():
        last = {key: last_tenth(found) for key, found in curves.items()}
        first = curves["proposal_entropy"][1][0]
        cells.append(
            [
                name,
                f"{last['loss_proposed']:.3f}",
                f"{last['loss_uniform']:.3f}",
                f"{last['gap']:+.3f}",
                f"{last['rank_correlation_uniform']:.3f}",
                f"{last['proposal_entropy']:.3f} ({first:.3f})",
                f"{last['explored']:.1%}",
                f"{last['clipped_low']:.1%} / {last['clipped_high']:.1%}",
            ]
        )
    return header, cells
