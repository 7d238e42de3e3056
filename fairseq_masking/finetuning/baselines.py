"""What a score has to beat: the most frequent answer, and logistic regression on weighted word counts.

Both see the rows that a model is fine-tuned on, read again from the task's own files.
"""

from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, hstack
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from fairseq_masking.corpus.manifest import read_manifest
from fairseq_masking.corpus.reading import hash_file
from fairseq_masking.errors import UserError
from fairseq_masking.finetuning.metrics import classification_scores, regression_scores
from fairseq_masking.finetuning.prepare import finetuning_settings
from fairseq_masking.finetuning.rows import Row, read_task, subsample
from fairseq_masking.finetuning.squad.prepare import SQUAD

__all__ = ["BASELINES", "TFIDF", "baseline_scores"]

MAJORITY, TFIDF = "majority", "tfidf"
BASELINES = (MAJORITY, TFIDF)


def baseline_scores(data: str | Path) -> dict[str, dict[str, dict[str, float]]]:
    """Scores both baselines on the splits with labels of a prepared folder.

    Scores (STS-B) get the mean of the training scores, and ridge regression. Of SQuAD there is the majority
    alone: no answer.

    Returns:
        baseline -> split -> scores in percent, named as in evaluation/metrics.py.

    Raises:
        UserError: the folder was not made by ``prepare_finetuning``, or its files have changed since.
    """
    settings = finetuning_settings(data)
    if settings["task"] == SQUAD:
        return {MAJORITY: _no_answer(Path(data))}
    splits, labels = read_task(settings["task"], _files(Path(data)))
    train = subsample(splits["train"].rows, settings["max_train_rows"], settings["seed"])
    labelled = {
        split: read.rows
        for split, read in splits.items()
        if split != "train" and all(row.label is not None for row in read.rows)
    }
    targets = _targets(train, labels)
    predictions = {
        MAJORITY: {split: _majority(targets, len(rows), labels) for split, rows in labelled.items()},
        TFIDF: _tfidf(train, targets, labelled, is_regression=not labels),
    }
    return {
        name: {
            split: _scores(found[split], _targets(rows, labels), labels) for split, rows in labelled.items()
        }
        for name, found in predictions.items()
    }


def _files(data: Path) -> dict[str, Path]:
    """Returns the task's own files, as the manifest names them."""
    manifest = read_manifest(data)
    assert manifest is not None
    files = {}
    for split, (file,) in manifest.inputs.items():
        files[split] = Path(file["name"])
        if hash_file(files[split]) != file["sha256"]:
            raise UserError(f"{files[split]} has changed since {data} was made from it; prepare that again")
    return files


def _targets(rows: list[Row], labels: tuple[str, ...]) -> npt.NDArray:
    if not labels:
        return np.array([float(str(row.label)) for row in rows])
    return np.array([labels.index(str(row.label)) for row in rows])


def _majority(targets: npt.NDArray, count: int, labels: tuple[str, ...]) -> npt.NDArray:
    return np.full(count, np.bincount(targets).argmax() if labels else targets.mean())


def _tfidf(
    train: list[Row], targets: npt.NDArray, splits: dict[str, list[Row]], *, is_regression: bool
) -> dict[str, npt.NDArray]:
    words = _vocabulary([text for row in train for text in row.texts])
    regression = Ridge() if is_regression else LogisticRegression(C=10.0, max_iter=1000)
    model = DummyClassifier() if len(np.unique(targets)) == 1 else regression  # it wants two classes
    model.fit(_features(words, train), targets)
    return {split: model.predict(_features(words, rows)) for split, rows in splits.items()}


def _vocabulary(texts: list[str]) -> TfidfVectorizer:
    """Words and pairs of neighbours that stand in two texts; sublinear: a second occurrence says less."""
    tfidf = partial(TfidfVectorizer, ngram_range=(1, 2), sublinear_tf=True)
    try:
        return tfidf(min_df=2).fit(texts)
    except ValueError:  # there are none: whatever blanks part
        return tfidf(token_pattern=r"\S+").fit(texts)


def _features(words: TfidfVectorizer, rows: list[Row]) -> csr_matrix:
    """Words of the text; of two texts also what they share and what tells them apart."""
    parts = [words.transform(column) for column in zip(*(row.texts for row in rows), strict=True)]
    if len(parts) == 2:
        first, second = parts
        parts += [first.multiply(second), abs(first - second)]
    return csr_matrix(hstack(parts))


def _scores(predictions: npt.NDArray, targets: npt.NDArray, labels: tuple[str, ...]) -> dict[str, float]:
    if not labels:
        return regression_scores(predictions, targets)
    return classification_scores(predictions, targets, num_classes=len(labels))


def _no_answer(data: Path) -> dict[str, dict[str, float]]:
    manifest = read_manifest(data)
    assert manifest is not None
    counts = manifest.counts["valid"]
    share = 100 * counts["without answer"] / counts["rows"]
    return {"valid": {"exact": share, "f1": share}}
