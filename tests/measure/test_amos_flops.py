"""AMOS's FLOPs: the figure of the spec, a count by hand, and PyTorch's own count of the products."""

import pytest
import small_amos
import torch
from small_batches import NUM_SYMBOLS
from torch.utils.flop_counter import FlopCounterMode

from fairseq_masking.measure.amos_flops import amos_flops, flops_over_mlm
from fairseq_masking.measure.flops import EncoderShape

BASE = EncoderShape(12, 768, 3072, 32_768)


def test_the_base_model_of_the_paper() -> None:
    ratio = flops_over_mlm(BASE, (4, 6, 8), num_tokens=512, num_masked=77)
    assert f"{ratio:.2f}" == "1.76"
    # One generator in place of three saves 10 of 30 layers; one head saves two of them.
    separate = flops_over_mlm(BASE, (4, 6, 8), num_tokens=512, num_masked=77, separate=True)
    assert f"{separate:.2f}" == "2.56"
    assert f"{flops_over_mlm(BASE, (4,), num_tokens=512, num_masked=77):.2f}" == "1.36"


def test_by_hand() -> None:
    # T = 3, D = 2, F = 7, V = 9, N = 1: one discriminator layer, generator of 3 layers with heads on 2 and 3.
    layer = 2 * 3 * 2 * 8 + 2 * (2 * 3 * 3 * 2) + 2 * (2 * 3 * 2 * 7)
    head, mixture = 2 * 2 * 2 + 2 * 2 * 9, 2 * 2 * 9
    shape = EncoderShape(1, 2, 7, 9)
    found = amos_flops(shape, (2, 3), num_tokens=3, num_masked=1)
    assert found == 4 * layer + 2 * head + mixture
    assert amos_flops(shape, (2, 3), num_tokens=3, num_masked=1, separate=True) == found + 2 * layer


@pytest.mark.parametrize("options", [{}, {"generator_layers": [2]}, {"separate_generators": [1, 2]}])
def test_equals_what_the_model_multiplies_forward(options):
    """But for the mixture's scores and the discriminator's output, which the formula leaves out."""
    # Dropout keeps the CPU off its own fused attention, which PyTorch's counter does not know.
    model = small_amos.build("cpu", attention_dropout=0.1, **options).train()
    model.generator.train()
    sample = small_amos.batch("cpu")["net_input"]
    (rows, length), num_masked = sample["src_tokens"].shape, len(sample["positions"]) // 3
    # Custom operations are closed to the counter: this one multiplies h_bar with the embedding.
    sampling = {torch.ops.fairseq_masking.gumbel_mixture: _product_of_mixture}
    with FlopCounterMode(display=False, custom_mapping=sampling) as counter:
        model(**sample)
    shape = EncoderShape(2, 32, 64, NUM_SYMBOLS)
    depths, separate = model.depths, "separate_generators" in options
    assert torch.ops.fairseq_masking.gumbel_mixture in counter.get_flop_counts()["Global"]
    wanted = rows * amos_flops(shape, depths, num_tokens=length, num_masked=num_masked, separate=separate)
    scores = 2 * rows * num_masked * 32 * (len(depths) if model.mixture.score is not None else 0)
    assert counter.get_total_flops() == wanted + scores + 2 * rows * length * 32


def _product_of_mixture(hidden_KND, weights_NK, embedding_VD, *_, **__):
    return 2 * hidden_KND[1] * embedding_VD[1] * embedding_VD[0]
