"""The gradient of a mask against autograd on the loss written out, and inner products in blocks."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_problem import MASK_INDEX, TinyMLM

from fairseq_masking.errors import UserError
from fairseq_masking.masking import MaskedItem
from fairseq_masking.measure.gradient_variance.gradients import (
    MaskGradient,
    gram_matrix,
    mask_batch,
    mean_gradient,
    select_parameters,
)


@pytest.fixture
def masks() -> MaskedItem:
    columns = np.array([[1, 3, 4], [2, 3, 6], [5, 1, 2]])
    replacements = np.where(np.arange(3) < 2, MASK_INDEX, 7) * np.ones_like(columns)
    return MaskedItem(columns, np.array([0, 0, 1], dtype=np.int8), replacements)


def test_a_batch_has_a_row_for_each_mask(sequence: Callable[[int], np.ndarray]) -> None:
    columns = np.array(list(itertools.combinations(range(1, 5), 2)))
    masks = MaskedItem(columns, np.zeros(2, dtype=np.int8), np.full_like(columns, MASK_INDEX))
    batch = mask_batch(sequence(4), masks, torch.device("cpu"))
    assert batch["src_tokens"].shape == (6, 6) and batch["num_masked"].tolist() == [2] * 6
    assert batch["positions"].tolist()[:4] == [1, 2, 7, 9]
    assert batch["shape"]["num_mask"] == 12 and batch["shape"]["max_visible"] == 4


@pytest.mark.parametrize("scale", ["mean", "sum"])
def test_gradient_is_that_of_eq_1(
    tiny_model: TinyMLM, sequence: Callable[[int], np.ndarray], masks: MaskedItem, scale: str
) -> None:
    tokens = sequence(6)
    corrupted = torch.tensor([0, 4, MASK_INDEX, MASK_INDEX, *tokens[4:6], 7, 2])[None]  # mask 1
    tiny_model.eval()
    hidden = tiny_model.encoder(corrupted)[-1]
    logits = tiny_model.lm_head(hidden[0, [2, 3, 6]], tiny_model.encoder.embed_tokens.weight)
    loss = F.cross_entropy(logits, torch.from_numpy(tokens[[2, 3, 6]]), reduction=scale)
    tiny_model.zero_grad()
    loss.backward()
    expected = [
        torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for parameter in tiny_model.parameters()
    ]
    tiny_model.train()  # measuring turns dropout off by itself
    gradient = MaskGradient(tiny_model, tokens, masks, select_parameters(tiny_model), scale=scale)
    torch.testing.assert_close(gradient(1), torch.cat([each.flatten() for each in expected]), rtol=1e-10, atol=1e-12)
    assert len(gradient(1)) == sum(parameter.numel() for parameter in tiny_model.parameters())


def test_selected_parameters(tiny_model: TinyMLM, sequence: Callable[[int], np.ndarray], masks: MaskedItem) -> None:
    everything = MaskGradient(tiny_model, sequence(6), masks, select_parameters(tiny_model))(0)
    names = [name for name, _ in tiny_model.named_parameters()]
    sizes = [parameter.numel() for parameter in tiny_model.parameters()]
    part = MaskGradient(tiny_model, sequence(6), masks, select_parameters(tiny_model, r"fc\d\.weight"))(0)
    of_names = dict(zip(names, everything.split(sizes), strict=True))
    layer = "encoder.layers.0."
    torch.testing.assert_close(part, torch.cat([of_names[f"{layer}fc1.weight"], of_names[f"{layer}fc2.weight"]]))
    assert not of_names["unused.weight"].any()
    for pattern in ("no_such", "("):
        with pytest.raises(UserError, match="--parameters"):
            select_parameters(tiny_model, pattern)


def test_mean_gradient(tiny_model: TinyMLM, sequence: Callable[[int], np.ndarray], masks: MaskedItem) -> None:
    gradient = MaskGradient(tiny_model, sequence(6), masks, select_parameters(tiny_model))
    torch.testing.assert_close(mean_gradient(gradient, range(1, 3)), (gradient(1) + gradient(2)) / 2)
    torch.testing.assert_close(mean_gradient(gradient, range(3)), torch.stack([gradient(i) for i in range(3)]).mean(0))


@pytest.mark.parametrize(("rows", "computed"), [(1, 28), (2, 16), (3, 12), (6, 8), (7, 7), (100, 7)])
def test_gram_in_blocks(rows: int, computed: int) -> None:
    vectors = torch.randn(7, 150_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    asked: list[int] = []

    def gradient_of(number: int) -> torch.Tensor:
        asked.append(number)
        return vectors[number]

    gram = gram_matrix(gradient_of, 7, rows)
    np.testing.assert_allclose(gram.inner_MM, vectors.numpy() @ vectors.numpy().T, rtol=1e-10, atol=1e-8)
    torch.testing.assert_close(gram.mean_P, vectors.mean(0))
    assert len(asked) == computed


def test_gram_of_single_precision_is_exact_enough() -> None:
    """Variances are small differences of these numbers."""
    vectors = 1.0 + 0.01 * torch.randn(2, 1_000_000, generator=torch.Generator().manual_seed(0))
    gram = gram_matrix(lambda number: vectors[number], 2, 2)
    exact = vectors.double() @ vectors.double().t()
    np.testing.assert_allclose(gram.inner_MM, exact.numpy(), rtol=2e-7)
