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

from fairseq_masking.corpus.manifest import Manifest, read_manifest
from fairseq_masking.errors import UserError
from fairseq_masking.files import hash_file
from fairseq_masking.finetuning.glue import SQUAD
from fairseq_masking.finetuning.metrics import row_scores
from fairseq_masking.finetuning.prepare import finetuning_settings
from fairseq_masking.finetuning.rows import Row, read_task, subsample

__all__ = ["BASELINES", "TFIDF", "baseline_scores"]

MAJORITY, TFIDF = "majority", "tfidf"
BASELINES = (MAJORITY, TFIDF)


def baseline_scores(data: str | Path) -> dict[str, dict[str, dict[str, float]]]:
    """Score both baselines on the splits with labels of a prepared folder: baseline -> split -> metric -> percent.

    Scores (STS-B) get the mean of the training scores, and ridge regression. Of SQuAD there is the majority
    alone: no answer. A folder whose files have changed since is a ``UserError``.
    """
    settings, manifest = finetuning_settings(data), read_manifest(data)
    assert manifest is not None
    if settings["task"] == SQUAD:
        counts = manifest.counts["valid"]
        share = 100 * counts["without answer"] / counts["rows"]
        return {MAJORITY: {"valid": {"exact": share, "f1": share}}}
    splits, labels = read_task(settings["task"], _files(data, manifest))
    train = subsample(splits.pop("train").rows, settings["max_train_rows"], settings["seed"])
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in BASELINES}
    targets = _targets(train, labels)
    model = _Tfidf(train, targets, bool(labels))
    major = np.bincount(targets).argmax() if labels else targets.mean()
    for split, read in splits.items():
        if any(row.label is None for row in read.rows):
            continue
        predictions = {MAJORITY: np.full(len(read.rows), major), TFIDF: model.predict(read.rows)}
        for name, predicted in predictions.items():
            actual = _targets(read.rows, labels)
            found[name][split] = row_scores(predicted, actual, num_classes=len(labels) or 1)
    return found


class _Tfidf:
    """Ridge or logistic regression on words and pairs of neighbours, weighted by TF-IDF."""

    def __init__(self, train: list[Row], targets: npt.NDArray, is_classification: bool) -> None:
        self._words = _vocabulary([text for row in train for text in row.texts])
        model = LogisticRegression(C=10.0, max_iter=1000) if is_classification else Ridge()
        if len(np.unique(targets)) == 1:  # the others want two classes
            model = DummyClassifier()
        self._model = model.fit(self._features(train), targets)

    def predict(self, rows: list[Row]) -> npt.NDArray:
        return self._model.predict(self._features(rows))

    def _features(self, rows: list[Row]) -> csr_matrix:
        """Words of the text; of two texts also what they share and what tells them apart."""
        columns = zip(*(row.texts for row in rows), strict=True)
        parts = [self._words.transform(column) for column in columns]
        if len(parts) == 2:
            first, second = parts
            parts += [first.multiply(second), abs(first - second)]
        return csr_matrix(hstack(parts))


def _vocabulary(texts: list[str]) -> TfidfVectorizer:
    """Words and pairs of neighbours that stand in two texts; sublinear: a second occurrence says less."""
    tfidf = partial(TfidfVectorizer, ngram_range=(1, 2), sublinear_tf=True)
    try:
        return tfidf(min_df=2).fit(texts)
    except ValueError:  # there are none: whatever blanks part
        return tfidf(token_pattern=r"\S+").fit(texts)


def _targets(rows: list[Row], labels: tuple[str, ...]) -> npt.NDArray:
    names = [str(row.label) for row in rows]
    return np.array([labels.index(name) if labels else float(name) for name in names])


def _files(data: str | Path, manifest: Manifest) -> dict[str, Path]:
    """Return the task's own files, as the manifest names them."""
    files = {split: Path(file["name"]) for split, (file,) in manifest.inputs.items()}
    for split, path in files.items():
        if hash_file(path) != manifest.inputs[split][0]["sha256"]:
            raise UserError(f"{path} has changed since {data} was made from it; prepare that again")
    return files
