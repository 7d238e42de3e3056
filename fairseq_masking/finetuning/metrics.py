"""Scores of classes and of numbers over a whole set, in percent, by scikit-learn's and SciPy's definitions.

Shapes: N rows.
"""

import numpy as np
import numpy.typing as npt
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

__all__ = ["classification_scores", "metric_names", "regression_scores"]


def metric_names(*, num_classes: int, is_regression: bool) -> tuple[str, ...]:
    """Return the names of the scores of a task; F1 proper exists for two classes only."""
    if is_regression:
        return ("pearson", "spearman", "pearson_and_spearman")
    binary = ("f1", "acc_and_f1") if num_classes == 2 else ()
    return ("accuracy", *binary, "mcc", "macro_f1", "micro_f1")


def classification_scores(
    predictions_N: npt.ArrayLike, targets_N: npt.ArrayLike, *, num_classes: int
) -> dict[str, float]:
    """Return accuracy, Matthews' correlation, macro- and micro-F1, and with two classes F1 of class 1.

    Matthews' correlation is 0 where predictions or targets are all the same, F1 is 0 without a true
    positive. Macro-F1 is the mean over the classes that are met in targets or predictions.
    """
    predicted, actual = np.asarray(predictions_N), np.asarray(targets_N)
    scores = {
        "accuracy": float((predicted == actual).mean()),
        "mcc": float(matthews_corrcoef(actual, predicted)),
        "macro_f1": float(f1_score(actual, predicted, average="macro", zero_division=0)),
        "micro_f1": float(f1_score(actual, predicted, average="micro", zero_division=0)),
    }
    if num_classes == 2:
        scores["f1"] = float(f1_score(actual, predicted, pos_label=1, zero_division=0))
        scores["acc_and_f1"] = (scores["accuracy"] + scores["f1"]) / 2
    return _in_percent(scores)


def regression_scores(predictions_N: npt.ArrayLike, targets_N: npt.ArrayLike) -> dict[str, float]:
    """Return Pearson's and Spearman's correlation and their mean.

    A correlation is 0 where predictions or targets are all the same: it is not defined there, and a nan
    would be a best checkpoint that no later one beats.
    """
    predicted = np.asarray(predictions_N, dtype=np.float64)
    actual = np.asarray(targets_N, dtype=np.float64)
    defined = len(actual) > 1 and np.ptp(predicted) > 0 and np.ptp(actual) > 0
    pearson = float(pearsonr(predicted, actual)[0]) if defined else 0.0
    spearman = float(spearmanr(predicted, actual)[0]) if defined else 0.0
    return _in_percent(
        {"pearson": pearson, "spearman": spearman, "pearson_and_spearman": (pearson + spearman) / 2}
    )


def _in_percent(scores: dict[str, float]) -> dict[str, float]:
    return {name: 100 * value for name, value in scores.items()}
