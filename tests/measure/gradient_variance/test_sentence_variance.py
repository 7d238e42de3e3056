"""Eq. 5: the sentence term without the mask variance that an estimated mean gradient carries."""

import itertools

import numpy as np
import pytest

from fairseq_masking.measure.gradient_variance.sentence_variance import batch_variances, sentence_variance

# Three sequences, each with two equally probable gradients.
GRADIENTS = np.array([[[1.0, 0.0], [3.0, 1.0]], [[0.0, -2.0], [1.0, 5.0]], [[-4.0, 0.5], [0.0, 0.0]]])


def test_the_sentence_variance_is_unbiased() -> None:
    means = GRADIENTS.mean(1)
    exact = ((means - means.mean(0)) ** 2).sum(1).mean()
    estimates = []
    for sequences in itertools.product(range(3), repeat=2):
        for draws in itertools.product(range(2), repeat=4):
            found = GRADIENTS[np.repeat(sequences, 2), draws].reshape(2, 2, 2)  # [S, D, P]
            mean_norms = (found[:, 0] * found[:, 1]).sum(1)
            mean_SP = found.mean(1)
            estimates.append(sentence_variance(mean_norms, mean_SP @ mean_SP.T, np.ones((1, 2)))[0])
    assert np.mean(estimates) == pytest.approx(exact, rel=1e-12)


def test_terms_at_equal_rows() -> None:
    batches = batch_variances(
        np.array([8.0, 12.0, 10.0]),
        np.array([1.0, 2.0, 1.5]),
        np.array([2.0, 2.0, 2.0]),
        np.full((3, 3), 0.5),
        num_masks=4,
        num_replicates=10,
        rng=np.random.default_rng(0),
    )
    found = {name: (batch.mask_term[0], batch.sentence_term[0]) for name, batch in batches.items()}
    assert found == {"one_mask": (10.0, 1.5), "independent": (10.0, 6.0), "disjoint": (6.0, 6.0)}
