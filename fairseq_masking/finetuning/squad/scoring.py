"""SQuAD's scores by the rules of its official evaluation script (2.0, which contains 1.1's).

Exact match and F1 compare words after lower-casing and without punctuation and articles. A question counts
as unanswered where its null margin is above a threshold; the best threshold is searched over the whole set.

Source: Rajpurkar et al. 2018 and their evaluate-v2.0.py.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["ScoredAnswer", "best_threshold", "exact_match", "f1", "normalize_answer", "score", "squad_scores"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class ScoredAnswer(NamedTuple):
    """A question's prediction.

    Attributes:
        exact: 1.0 where the text is one of the answers, else 0.0.
        f1: overlap with the answer that it overlaps most with.
        null_margin: score of having no answer minus the score of the text.
        has_answer: whether the question has an answer.
        is_text: whether a text was predicted at all.
    """

    exact: float
    f1: float
    null_margin: float
    has_answer: bool
    is_text: bool


def normalize_answer(text: str) -> str:
    """Return the text in lower case without punctuation, articles and extra spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, prediction: str) -> float:
    """Return 1.0 where both are the same words, else 0.0."""
    return float(normalize_answer(answer) == normalize_answer(prediction))


def f1(answer: str, prediction: str) -> float:
    """Return the F1 of the prediction's words; where one has no words, whether the other has none too."""
    gold, predicted = normalize_answer(answer).split(), normalize_answer(prediction).split()
    if not gold or not predicted:
        return float(gold == predicted)
    common = (Counter(gold) & Counter(predicted)).total()
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(gold)
    return 2 * precision * recall / (precision + recall)


def score(answers: Sequence[str], prediction: str) -> tuple[float, float]:
    """Return exact match and F1 with the best of the answers; no answer, or none with a word, means ""."""
    gold = [answer for answer in answers if normalize_answer(answer)] or [""]
    return (
        max(exact_match(answer, prediction) for answer in gold),
        max(f1(answer, prediction) for answer in gold),
    )


def best_threshold(answers: Sequence[ScoredAnswer], values: Sequence[float]) -> tuple[float, float]:
    """Return the highest reachable mean of ``values`` in percent, and the null margin up to which to answer.

    Args:
        answers: of all questions.
        values: what each would earn if answered: its exact match or its F1.

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
    """Return the scores of a set, in percent.

    Returns:
        ``exact`` and ``f1``, each at the threshold best for it (the script's best_exact and best_f1), the two
        thresholds, and exact match and F1 of the questions with (``HasAns_*``) and without (``NoAns_*``)
        answer, at the threshold best for F1; left out where there are no such questions.
    """
    best_exact, exact_threshold = best_threshold(answers, [answer.exact for answer in answers])
    best_f1, f1_threshold = best_threshold(answers, [answer.f1 for answer in answers])
    scores = {
        "exact": best_exact,
        "f1": best_f1,
        "exact_threshold": exact_threshold,
        "f1_threshold": f1_threshold,
    }
    for name, has_answer in (("HasAns", True), ("NoAns", False)):
        group = [answer for answer in answers if answer.has_answer == has_answer]
        if not group:
            continue
        unanswered = [answer.null_margin > f1_threshold for answer in group]
        for measure in ("exact", "f1"):
            values = [
                float(not has_answer) if empty else getattr(answer, measure)
                for answer, empty in zip(group, unanswered, strict=True)
            ]
            scores[f"{name}_{measure}"] = 100 * sum(values) / len(values)
    return scores
