"""Laws without replacement against a list of all ordered draws; how hard positions are, against loops."""

import itertools
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tiny_problem import MASK_INDEX

from fairseq_masking.masking import MaskedItem, MaskingConfig
from fairseq_masking.measure.gradient_variance.draws import DrawnMasks, FixedSequence, covering_masks
from fairseq_masking.measure.gradient_variance.gradients import MaskGradient, select_parameters
from fairseq_masking.measure.gradient_variance.laws import (
    WEIGHTINGS,
    gradient_norms_of_positions,
    law_proportional_to,
    losses_of_positions,
    mask_weights,
    ordered_log_weights,
    set_log_weights,
)


class Listed(NamedTuple):
    """All ordered draws of a law: ``orders_Ok``, their probabilities, and those of their sets."""

    log_p_T: np.ndarray
    orders_Ok: np.ndarray
    probabilities_O: np.ndarray
    set_probabilities_O: np.ndarray


def list_draws(n: int, k: int, spread: float, seed: int = 0) -> Listed:
    scores = np.random.default_rng(seed).normal(size=n) * spread
    p_T = np.zeros(n + 2)
    p_T[1:-1] = np.exp(scores) / np.exp(scores).sum()
    orders = np.array(list(itertools.permutations(range(1, n + 1), k)))
    probabilities = np.ones(len(orders))
    for number, order in enumerate(orders):
        left = 1.0
        for column in order:
            probabilities[number] *= p_T[column] / left
            left -= p_T[column]
    by_set: dict[tuple[int, ...], float] = {}
    for order, probability in zip(orders, probabilities, strict=True):
        key = tuple(sorted(order))
        by_set[key] = by_set.get(key, 0.0) + probability
    sets = np.array([by_set[tuple(sorted(order))] for order in orders])
    with np.errstate(divide="ignore"):
        return Listed(np.log(p_T), orders, probabilities, sets)


@pytest.mark.parametrize(("n", "k", "spread"), [(6, 3, 1.0), (6, 1, 2.0), (7, 5, 3.0), (5, 4, 0.0), (6, 2, 6.0)])
def test_weights_equal_their_definitions(n: int, k: int, spread: float) -> None:
    law = list_draws(n, k, spread)
    found = mask_weights(law.log_p_T, law.orders_Ok, clip=0.3)
    p_Ok = np.exp(law.log_p_T)[law.orders_Ok]
    paper = np.clip((1 / n) ** k / p_Ok.prod(1), 0.7, 1.3)
    expected = {
        "set": 1 / math.comb(n, k) / law.set_probabilities_O,
        "ordered": 1 / len(law.orders_Ok) / law.probabilities_O,
        "clipped": paper,
        "none": np.ones(len(paper)),
    }
    assert tuple(found) == WEIGHTINGS
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("weight", ["set", "ordered"])
def test_exact_weights_are_unbiased_and_the_set_has_the_smaller_variance(weight: str) -> None:
    law = list_draws(6, 3, 1.5)
    function_O = np.sin(np.sort(law.orders_Ok, 1) @ np.array([1.0, 7.0, 49.0]))  # of the set alone
    weights = mask_weights(law.log_p_T, law.orders_Ok, clip=0.2)
    mean = (law.probabilities_O * weights[weight] * function_O).sum()
    assert mean == pytest.approx(function_O.mean(), rel=1e-10)
    clipped = (law.probabilities_O * weights["clipped"] * function_O).sum()
    assert abs(clipped - function_O.mean()) > 1e-3, "the paper's is biased"
    squares = {name: (law.probabilities_O * weights[name] ** 2).sum() for name in ("set", "ordered")}
    assert 1 < squares["set"] < squares["ordered"]


def test_a_mask_of_all_positions_weighs_1() -> None:
    law = list_draws(4, 4, 2.0)
    np.testing.assert_allclose(np.exp(set_log_weights(law.log_p_T, law.orders_Ok)), 1.0)


def test_long_sequences_neither_overflow_nor_lose_digits() -> None:
    rng = np.random.default_rng(0)
    log_p_T = rng.normal(size=510)
    log_p_T -= np.logaddexp.reduce(log_p_T)
    columns = rng.permutation(510)[:77]
    found = float(set_log_weights(log_p_T, columns[None])[0])
    # The harmonic mean of the ordered weights over random orders: 1 / w_set = mean of 1 / w_ordered.
    orders = np.array([rng.permutation(columns) for _ in range(4000)])
    inverse = -ordered_log_weights(log_p_T, orders)
    assert found == pytest.approx(-(np.logaddexp.reduce(inverse) - np.log(len(inverse))), abs=0.1)
    uniform = np.full(510, -np.log(510.0))
    assert float(set_log_weights(uniform, columns[None])[0]) == pytest.approx(0.0, abs=1e-9)


def test_draws_follow_the_law(vocabulary) -> None:
    law = list_draws(5, 2, 1.2)
    tokens_T = np.array([0, 4, 5, 6, 7, 8, 2])
    config = MaskingConfig(leave_unmasked_prob=0.0, random_token_prob=0.0)
    number = 8000

    def draw(index: int, number: int, stream: int) -> DrawnMasks:
        fixed = FixedSequence(tokens_T, index, config, vocabulary)
        return fixed.draw_masks(law.log_p_T, 2, num_masks=number, stream=stream)

    drawn = draw(3, number, 1)
    codes = (law.orders_Ok * [10, 1]).sum(1)
    counts = np.array([((drawn.columns_Mk * [10, 1]).sum(1) == code).sum() for code in codes])
    assert counts.sum() == number
    expected = number * law.probabilities_O
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # 19 degrees of freedom, 0.1%
    np.testing.assert_array_equal(np.sort(drawn.columns_Mk, 1), np.sort(drawn.masks.columns, 1))
    assert (drawn.masks.replacements == MASK_INDEX).all()
    again, other, elsewhere = (draw(i, 50, stream).columns_Mk for i, stream in ((3, 1), (3, 2), (4, 1)))
    np.testing.assert_array_equal(draw(3, 50, 1).columns_Mk, again)
    assert (again != other).any() and (again != elsewhere).any()


def test_corruption_types_do_not_follow_the_order_of_the_draws(vocabulary) -> None:
    law = list_draws(10, 4, 3.0)
    tokens_T = np.concatenate(([0], 4 + np.arange(10) % 8, [2]))
    config = MaskingConfig(leave_unmasked_prob=0.5, random_token_prob=0.0)
    fixed = FixedSequence(tokens_T, 0, config, vocabulary)
    drawn = fixed.draw_masks(law.log_p_T, 4, num_masks=600, stream=0)
    first_M = drawn.columns_Mk[:, 0]
    is_mask_M = (drawn.masks.columns[:, :2] == first_M[:, None]).any(1)
    assert 0.4 < is_mask_M.mean() < 0.6


def test_a_law_leaves_no_position_out() -> None:
    maskable_T = np.array([False, True, True, True, False])
    log_p_T = law_proportional_to(np.array([9.0, 1.0, 0.0, 3.0, 9.0]), maskable_T)
    np.testing.assert_allclose(np.exp(log_p_T), [0, 0.25, 0, 0.75, 0], atol=1e-6)
    assert np.isfinite(log_p_T[maskable_T]).all() and (log_p_T[~maskable_T] == -np.inf).all()


def all_masks(n: int, k: int) -> MaskedItem:
    columns = np.array(list(itertools.combinations(range(1, n + 1), k)))
    return MaskedItem(columns, np.zeros(k, dtype=np.int8), np.full_like(columns, MASK_INDEX))


def position_losses(model, tokens_T, columns_k) -> torch.Tensor:
    """Written without the batch: mask, encode, one cross-entropy after the other."""
    model.eval()
    corrupted = torch.from_numpy(tokens_T)[None].clone()
    corrupted[0, columns_k] = MASK_INDEX
    hidden = model.encoder(corrupted)[-1][0]
    logits = model.lm_head(hidden, model.encoder.embed_tokens.weight)
    return torch.stack([-logits[c].log_softmax(-1)[tokens_T[c]] for c in columns_k])


def test_losses_and_gradient_norms_equal_loops(tiny_model, sequence) -> None:
    tokens_T, masks = sequence(5), all_masks(5, 2)
    parameters = select_parameters(tiny_model)
    losses = {column: [] for column in range(1, 6)}
    squares = {column: [] for column in range(1, 6)}
    for columns_k in masks.columns:
        values = position_losses(tiny_model, tokens_T, columns_k)
        for column, value in zip(columns_k, values, strict=True):
            gradients = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
            losses[column].append(value.item())
            squares[column].append(sum(float((g**2).sum()) for g in gradients if g is not None))
    found_losses = losses_of_positions(tiny_model, tokens_T, masks)
    found_norms = gradient_norms_of_positions(tiny_model, tokens_T, masks, parameters)
    assert np.isnan(found_losses[[0, -1]]).all() and np.isnan(found_norms[[0, -1]]).all()
    np.testing.assert_allclose(found_losses[1:-1], [np.mean(losses[c]) for c in range(1, 6)], rtol=1e-10)
    np.testing.assert_allclose(found_norms[1:-1], [np.mean(squares[c]) ** 0.5 for c in range(1, 6)], rtol=1e-10)


def test_a_position_masked_alone_has_the_masks_own_gradient(tiny_model, sequence) -> None:
    tokens_T, masks = sequence(4), all_masks(4, 1)
    gradient = MaskGradient(tiny_model, tokens_T, masks, select_parameters(tiny_model))
    found = gradient_norms_of_positions(tiny_model, tokens_T, masks, gradient.parameters)
    np.testing.assert_allclose(found[1:-1], [float(gradient(m).norm()) for m in range(4)], rtol=1e-10)


def test_many_masks_are_taken_in_several_batches(tiny_model, sequence) -> None:
    tokens_T, rng = sequence(9), np.random.default_rng(0)
    masks = covering_masks(np.arange(1, 10), 2, MASK_INDEX, num_rounds=30, rng=rng)
    assert len(masks.columns) == 150
    found = losses_of_positions(tiny_model, tokens_T, masks)
    one = [
        losses_of_positions(tiny_model, tokens_T, MaskedItem(columns, masks.kinds, written))
        for columns, written in zip(masks.columns[:, None], masks.replacements[:, None], strict=True)
    ]
    np.testing.assert_allclose(found[1:-1], np.nanmean(np.array(one)[:, 1:-1], axis=0), rtol=1e-9)
