"""Baselines on rows that are few or alike."""

import numpy as np

from fairseq_masking.finetuning.baselines import _Tfidf
from fairseq_masking.finetuning.rows import Row


def rows(*texts):
    return [Row((text,), None, str(number)) for number, text in enumerate(texts)]


def predicted(train, targets, texts):
    return _Tfidf(rows(*train), np.array(targets), is_classification=True).predict(rows(*texts))


def test_words_that_stand_in_one_text_only():
    assert predicted(["good film", "bad play"], [1, 0], ["so bad", "so good"]).tolist() == [0, 1]


def test_texts_without_words():
    assert predicted(["a b", "! ?"], [1, 0], ["? !", "b"]).tolist() == [0, 1]


def test_training_rows_of_one_class():
    assert predicted(["good film", "good play"], [1, 1], ["bad film", ""]).tolist() == [1, 1]
