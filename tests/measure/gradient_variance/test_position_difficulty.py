"""How hard positions are, against loops over every mask."""

import itertools

import numpy as np
import torch
from tiny_problem import MASK_INDEX

from fairseq_masking.measure.gradient_variance.gradients import MaskGradient, Masks, select_parameters
from fairseq_masking.measure.gradient_variance.position_difficulty import (
    covering_masks,
    gradient_norms_of_positions,
    losses_of_positions,
    mask_batch,
)


def all_masks(n: int, k: int) -> Masks:
    columns = np.array(list(itertools.combinations(range(1, n + 1), k)))
    return Masks(columns, np.zeros(k, dtype=np.int8), np.full_like(columns, MASK_INDEX))


def position_losses(model, tokens_T, columns_k) -> torch.Tensor:
    """Written without the batch: mask, encode, one cross-entropy after the other."""
    model.eval()
    corrupted = torch.from_numpy(tokens_T)[None].clone()
    corrupted[0, columns_k] = MASK_INDEX
    hidden = model.encoder(corrupted).hidden_BTD[0]
    logits = model.lm_head(hidden, model.encoder.embed_tokens.weight)
    return torch.stack([-logits[c].log_softmax(-1)[tokens_T[c]] for c in columns_k])


def test_losses_and_gradient_norms_equal_loops(tiny_model, sequence) -> None:
    tokens_T, masks = sequence(5), all_masks(5, 2)
    parameters = select_parameters(tiny_model)
    losses = {column: [] for column in range(1, 6)}
    squares = {column: [] for column in range(1, 6)}
    for columns_k in masks.columns_Mk:
        values = position_losses(tiny_model, tokens_T, columns_k)
        for column, value in zip(columns_k, values, strict=True):
            gradients = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
            losses[column].append(value.item())
            squares[column].append(sum(float((g**2).sum()) for g in gradients if g is not None))
    found_losses = losses_of_positions(tiny_model, tokens_T, masks)
    found_norms = gradient_norms_of_positions(tiny_model, tokens_T, masks, parameters)
    assert np.isnan(found_losses[[0, -1]]).all() and np.isnan(found_norms[[0, -1]]).all()
    np.testing.assert_allclose(found_losses[1:-1], [np.mean(losses[c]) for c in range(1, 6)], rtol=1e-10)
    np.testing.assert_allclose(
        found_norms[1:-1], [np.mean(squares[c]) ** 0.5 for c in range(1, 6)], rtol=1e-10
    )


def test_a_position_masked_alone_has_the_masks_own_gradient(tiny_model, sequence) -> None:
    tokens_T, masks = sequence(4), all_masks(4, 1)
    gradient = MaskGradient(tiny_model, tokens_T, masks, select_parameters(tiny_model))
    found = gradient_norms_of_positions(tiny_model, tokens_T, masks, gradient.parameters)
    np.testing.assert_allclose(found[1:-1], [float(gradient(m).norm()) for m in range(4)], rtol=1e-10)


def test_many_masks_are_taken_in_several_batches(tiny_model, sequence) -> None:
    tokens_T, rng = sequence(9), np.random.default_rng(0)
    masks = covering_masks(np.arange(1, 10), 2, MASK_INDEX, num_rounds=30, rng=rng)
    assert len(masks) == 150
    found = losses_of_positions(tiny_model, tokens_T, masks)
    one = [
        losses_of_positions(tiny_model, tokens_T, Masks(columns, masks.kinds_k, written))
        for columns, written in zip(masks.columns_Mk[:, None], masks.replacements_Mk[:, None], strict=True)
    ]
    np.testing.assert_allclose(found[1:-1], np.nanmean(np.array(one)[:, 1:-1], axis=0), rtol=1e-9)


def test_every_round_covers_every_position_with_uniform_masks() -> None:
    maskable_n, k = np.array([1, 2, 4, 5, 7, 8, 9]), 3
    masks = covering_masks(maskable_n, k, MASK_INDEX, num_rounds=2000, rng=np.random.default_rng(1))
    rounds = masks.columns_Mk.reshape(2000, 3, k)
    assert all(len(set(mask)) == k for mask in masks.columns_Mk.tolist())
    assert (np.sort(rounds.reshape(2000, -1)[:, :7], 1) == maskable_n).all()
    for place in range(3):  # the filled-up last mask among them
        counts = np.bincount(rounds[:, place].ravel(), minlength=10)[maskable_n]
        expected = 2000 * k / 7
        assert ((counts - expected) ** 2 / expected).sum() < 22.5
    pairs = np.sort(rounds[:, 2], 1) @ [100, 10, 1]
    assert len(np.unique(pairs)) == 35, "every mask of 3 of 7 occurs"


def test_a_batch_has_a_row_for_each_mask(sequence) -> None:
    masks = all_masks(4, 2)
    batch = mask_batch(sequence(4), masks, torch.device("cpu"))
    assert batch["src_tokens"].shape == (6, 6) and batch["num_masked"].tolist() == [2] * 6
    assert batch["positions"].tolist()[:4] == [1, 2, 7, 9]
    assert batch["shape"]["num_mask"] == 12 and batch["shape"]["max_visible"] == 4
