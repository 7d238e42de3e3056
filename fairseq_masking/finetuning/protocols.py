"""How each paper turns fine-tuning runs into a score: recipes, seeds, metrics, selection, GLUE's average.

The hyper-parameters and their grids stand in configs/finetune/. A configuration here is one cell of a grid.

Shapes: C configurations, S seeds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fairseq_masking.finetuning.glue import JSONL, SQUAD

__all__ = ["PROTOCOLS", "Protocol", "best_of_all_seeds", "best_of_each_seed"]

_SMALL = ("CoLA", "SST-2", "MRPC", "STS-B", "RTE")
_LARGE = ("QQP", "MNLI", "QNLI")
_NINE = (*_SMALL, *_LARGE, "MNLI")
# What GLUE's leaderboard averages; two metrics of a task count by their mean.
_GLUE_METRICS = {"CoLA": "mcc", "MRPC": "acc_and_f1", "QQP": "acc_and_f1", "STS-B": "pearson_and_spearman"}
_OTHER_METRICS = {SQUAD: "f1", JSONL: "macro_f1"}
_SQUAD = {SQUAD: "amos_squad"}  # no other paper fine-tunes on it

Summary = Callable[[npt.ArrayLike], np.floating]


def best_of_all_seeds(scores_CS: npt.ArrayLike, summary: Summary) -> npt.NDArray[np.int64]:
    """One configuration for all seeds, the one whose summary is best (MAP-Net, RoBERTa, AMOS); ``[S]``."""
    scores = np.asarray(scores_CS, dtype=np.float64)
    best = int(np.argmax([summary(row) for row in scores]))
    return np.full(scores.shape[1], best)


def best_of_each_seed(scores_CS: npt.ArrayLike, summary: Summary) -> npt.NDArray[np.int64]:
    """Each seed's own best configuration (3ML); ``[S]``."""
    return np.asarray(scores_CS, dtype=np.float64).argmax(axis=0)


@dataclass(frozen=True)
class Protocol:
    recipe: str  # file of configs/finetune, without its ending
    num_seeds: int  # runs of each configuration, with seeds 1, 2, ...
    # scores ``[C, S]`` on the validation set and ``summary`` -> the configuration of each seed
    choose: Callable[[npt.ArrayLike, Summary], npt.NDArray[np.int64]]
    summary: Summary  # what is reported of the chosen runs: their mean or median
    summaries: Mapping[str, Summary] = field(default_factory=dict)  # task -> another summary
    recipes: Mapping[str, str] = field(default_factory=lambda: _SQUAD)  # task -> another recipe
    # task -> what is scored, chosen and reported, in metrics.py's names; accuracy where none is named. MNLI is the
    # mean of matched and mismatched.
    metrics: Mapping[str, str] = field(default_factory=lambda: _GLUE_METRICS)
    by_rows: bool = False  # MNLI's mean by the rows of either
    # tasks of the GLUE average. MNLI stands there twice where matched and mismatched count apart.
    average: tuple[str, ...] = (*_SMALL, *_LARGE)
    starts_from: Mapping[str, str] = field(default_factory=dict)  # task -> the task whose best model it starts from

    def recipe_of(self, task: str) -> str:
        return self.recipes.get(task, self.recipe)

    def summary_of(self, task: str) -> Summary:
        return self.summaries.get(task, self.summary)

    def metric_of(self, task: str) -> str:
        return {**_OTHER_METRICS, **self.metrics}.get(task, "accuracy")


PROTOCOLS: dict[str, Protocol] = {
    # Section 4.1.2: ten runs of each configuration; the best mean.
    "map_net": Protocol("map_net", 10, best_of_all_seeds, np.mean, average=_NINE),
    # The paper names none: RoBERTa's, and Gururangan et al.'s for the domains. Where its Table 4 lists two
    # metrics, Table 2 has the first: MRPC's 87.01 and 87.99 are 355 and 359 of 408 pairs, an accuracy.
    "fully_explored": Protocol(
        "fully_explored", 5, best_of_all_seeds, np.median,
        recipes={**_SQUAD, JSONL: "fully_explored_domain"},
        summaries={JSONL: np.mean},  # its Table 1: means and standard deviations
        metrics={"CoLA": "mcc", "STS-B": "pearson"},
        average=_NINE,
    ),
    # Appendix B: the best of each seed; the median of five.
    "three_ml": Protocol(
        "three_ml", 5, best_of_each_seed, np.median,
        recipes={**_SQUAD, **dict.fromkeys(_LARGE, "three_ml_large_tasks")},
        starts_from=dict.fromkeys(("RTE", "STS-B", "MRPC"), "MNLI"),
    ),
    # Section 3.1: of ablations (Fig. 3, Table 2) accuracy on the larger tasks, MNLI's weighted by rows.
    "three_ml_ablation": Protocol(
        "three_ml_large_tasks", 5, best_of_each_seed, np.median,
        metrics={**_GLUE_METRICS, "QQP": "accuracy"}, by_rows=True, average=_LARGE,
    ),
    # Appendix B: the median of five; Table 1: the metrics.
    "amos": Protocol(
        "amos", 5, best_of_all_seeds, np.median, metrics={"CoLA": "mcc", "STS-B": "spearman"}
    ),
    "tiny": Protocol("tiny", 3, best_of_all_seeds, np.mean, recipes={SQUAD: "tiny_squad"}),
}  # fmt: skip
