"""Scores over a whole set, in percent: of classes and numbers by scikit-learn's and SciPy's definitions, of
answers by the rules of SQuAD's official evaluation script (2.0, which contains 1.1's).

SQuAD's exact match and F1 compare words after lower-casing and without punctuation and articles. A question counts as
unanswered where its null margin is above a threshold; the best threshold is searched over the whole set.

Source: Rajpurkar et al. 2018 and their evaluate-v2.0.py.

Shapes: N rows.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "ScoredAnswer", "answer_scores", "best_threshold", "exact_match", "metric_names", "normalize_answer",
    "row_scores", "squad_scores", "word_f1",
]  # fmt: skip

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def metric_names(num_classes: int) -> tuple[str, ...]:
    """Return the names of ``row_scores``; F1 proper exists for two classes only."""
    if num_classes == 1:
        return ("pearson", "spearman", "pearson_and_spearman")
    binary = ("f1", "acc_and_f1") if num_classes == 2 else ()
    return ("accuracy", *binary, "mcc", "macro_f1", "micro_f1")


def row_scores(predictions_N: npt.ArrayLike, targets_N: npt.ArrayLike, *, num_classes: int) -> dict[str, float]:
    """Return the scores of classes, or where ``num_classes`` is 1 of numbers.

    Of classes accuracy, Matthews' correlation, macro- and micro-F1, and with two classes F1 of class 1.
    Matthews' correlation is 0 where predictions or targets are all the same, F1 is 0 without a true positive.
    Macro-F1 is the mean over the classes that are met in targets or predictions.

    Of numbers Pearson's and Spearman's correlation and their mean. A correlation is 0 where predictions or
    targets are all the same: it is not defined there, and a nan would be a best checkpoint that no later one beats.
    """
    score = _correlations if num_classes == 1 else partial(_class_scores, is_binary=num_classes == 2)
    scores = score(np.asarray(predictions_N, np.float64), np.asarray(targets_N, np.float64))
    return {name: 100 * float(value) for name, value in scores.items()}


def _class_scores(predicted_N: npt.NDArray, actual_N: npt.NDArray, *, is_binary: bool) -> dict[str, float]:
    from sklearn.metrics import f1_score, matthews_corrcoef  # late: what trains imports this file

    f1 = partial(f1_score, actual_N, predicted_N, zero_division=0)
    accuracy, mcc = (predicted_N == actual_N).mean(), matthews_corrcoef(actual_N, predicted_N)
    scores = {"accuracy": accuracy, "mcc": mcc, "macro_f1": f1(average="macro"), "micro_f1": f1(average="micro")}
    if is_binary:
        scores |= {"f1": f1(average="binary"), "acc_and_f1": (accuracy + f1(average="binary")) / 2}
    return scores


def _correlations(predicted_N: npt.NDArray, actual_N: npt.NDArray) -> dict[str, float]:
    from scipy.stats import pearsonr, spearmanr

    defined = len(actual_N) > 1 and np.ptp(predicted_N) > 0 and np.ptp(actual_N) > 0
    pearson, spearman = (law(predicted_N, actual_N)[0] if defined else 0.0 for law in (pearsonr, spearmanr))
    return {"pearson": pearson, "spearman": spearman, "pearson_and_spearman": (pearson + spearman) / 2}


class ScoredAnswer(NamedTuple):
    exact: float  # 1.0 where the text is one of the answers, else 0.0
    f1: float  # overlap with the answer that it overlaps most with
    null_margin: float  # score of having no answer minus the score of the text
    has_answer: bool  # whether the question has an answer
    is_text: bool  # whether a text was predicted at all


def normalize_answer(text: str) -> str:
    """Return the text in lower case without punctuation, articles and extra spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, prediction: str) -> float:
    """Return 1.0 where both are the same words, else 0.0."""
    return float(normalize_answer(answer) == normalize_answer(prediction))


def word_f1(answer: str, prediction: str) -> float:
    """Return the F1 of the prediction's words; where one has no words, whether the other has none too."""
    gold, predicted = normalize_answer(answer).split(), normalize_answer(prediction).split()
    if not gold or not predicted:
        return float(gold == predicted)
    common = (Counter(gold) & Counter(predicted)).total()
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(gold)
    return 2 * precision * recall / (precision + recall)


def answer_scores(answers: Sequence[str], prediction: str) -> tuple[float, float]:
    """Return exact match and F1 with the best of the answers; no answer, or none with a word, means ""."""
    gold = [answer for answer in answers if normalize_answer(answer)] or [""]
    return (
        max(exact_match(answer, prediction) for answer in gold),
        max(word_f1(answer, prediction) for answer in gold),
    )


def best_threshold(answers: Sequence[ScoredAnswer], values: Sequence[float]) -> tuple[float, float]:
    """Return the highest reachable mean of ``values`` in percent, and the null margin up to which to answer.

    A value is what a question would earn if answered: its exact match or its F1.

    Deviation: where answering nothing is best, the threshold lies below every margin; the script returns 0,
    which means the same for its probabilities, but not for margins.
    """
    order = sorted(range(len(answers)), key=lambda index: answers[index].null_margin)
    earned = best = float(sum(not answer.has_answer for answer in answers))
    threshold = math.nextafter(answers[order[0]].null_margin, -math.inf)
    for index in order:
        answer = answers[index]
        earned += values[index] if answer.has_answer else -float(answer.is_text)
        if earned > best:
            best, threshold = earned, answer.null_margin
    return 100 * best / len(answers), threshold


def squad_scores(answers: Sequence[ScoredAnswer]) -> dict[str, float]:
    """Return ``exact`` and ``f1``, each at the threshold best for it (the script's best_exact and best_f1), and both.

    Exact match and F1 of the questions with (``HasAns_*``) and without (``NoAns_*``) answer are at the threshold best
    for F1; left out where there are no such questions.
    """
    exact, exact_threshold = best_threshold(answers, [answer.exact for answer in answers])
    f1, threshold = best_threshold(answers, [answer.f1 for answer in answers])
    scores = {"exact": exact, "f1": f1, "exact_threshold": exact_threshold, "f1_threshold": threshold}
    for name, has_answer in (("HasAns", True), ("NoAns", False)):
        group = [answer for answer in answers if answer.has_answer == has_answer]
        for measure in ("exact", "f1") if group else ():
            earned = [
                float(not has_answer) if answer.null_margin > threshold else getattr(answer, measure)
                for answer in group
            ]
            scores[f"{name}_{measure}"] = 100 * sum(earned) / len(earned)
    return scores
