"""The FLOPs formula against numbers worked out by hand and against what the modules really multiply."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import small_amos
import torch
from small_batches import NUM_SYMBOLS
from torch.utils.flop_counter import FlopCounterMode

from fairseq_masking.measure.flops import (
    EncoderShape,
    amos_flops,
    attention_flops,
    encoder_flops,
    layer_flops,
    mean_share_proposed,
    prediction_flops,
    proposal_flops,
    proposal_share,
    step_flops,
)
from fairseq_masking.modules import MaskedLMHead, TransformerEncoder
from fairseq_masking.modules.encoder import EncoderConfig
from fairseq_masking.ops import gather_positions

ROWS, TOKENS, MASKED = 3, 24, 5
SHAPE = EncoderShape(num_layers=2, embed_dim=32, ffn_dim=80, vocab_size=57)
BASE = EncoderShape(12, 768, 3072, 32_768)


def test_parts_by_hand() -> None:
    # T=2, D=3, F=5. qkv: 2*2*3*9 = 108; scores and sum: 2 * 2*2*2*3 = 48; out: 2*2*3*3 = 36;
    # feed-forward: 2 * 2*2*3*5 = 120.
    assert attention_flops(2, 2, 3) == 48
    assert layer_flops(2, 3, 5) == 108 + 48 + 36 + 120
    # N=4, D=3, V=7. dense: 2*4*3*3 = 72; embedding: 2*4*3*7 = 168.
    assert prediction_flops(4, 3, 7) == 72 + 168
    # Queries and keys of different numbers (cross-attention): 2 * 2*4*6*3.
    assert attention_flops(4, 6, 3) == 288


def test_step_by_hand() -> None:
    shape = EncoderShape(num_layers=2, embed_dim=3, ffn_dim=5, vocab_size=7)
    assert encoder_flops(shape, num_tokens=2, num_masked=4) == 2 * 312 + 240
    assert step_flops(shape, num_rows=10, num_tokens=2, num_masked=4) == 3 * 10 * (2 * 312 + 240)


def test_layer_is_the_papers_block() -> None:
    # 2211.04898, Appendix D, with phi_out = 2nd^2: 24 n d^2 + 4 n^2 d where F = 4D.
    n, d = 512, 768
    assert layer_flops(n, d, 4 * d) == 24 * n * d**2 + 4 * n**2 * d


def test_base_is_six_flops_a_parameter_and_token() -> None:
    # Kaplan et al.: 6 FLOPs a token and parameter of the layers, plus attention.
    shape = EncoderShape(num_layers=12, embed_dim=768, ffn_dim=3072, vocab_size=30522)
    parameters = 12 * 12 * 768**2
    attention = 12 * 3 * 4 * 512 * 768
    got = step_flops(shape, num_rows=1, num_tokens=512, num_masked=0)
    assert got == 512 * (6 * parameters + attention)


@pytest.mark.parametrize("kind", [{}, {"feed_forward": "glu", "position_encoding": "rotary", "attention_window": 4}])
def test_equals_what_the_modules_multiply(kind: dict[str, Any], device: torch.device) -> None:
    """Exact, forward and backward, where nothing is computed twice.

    A GPU's fused attention computes the scores again in backward, 5 products for 4: what PyTorch's counter
    has above the formula. Dropout keeps the CPU off its own fused kernel, which the counter does not know.
    """
    torch.manual_seed(0)
    config = EncoderConfig(
        vocab_size=SHAPE.vocab_size, pad_index=1, num_layers=SHAPE.num_layers, embed_dim=SHAPE.embed_dim,
        ffn_dim=SHAPE.ffn_dim, num_heads=4, dropout=0.1, attention_dropout=0.1, **kind,
    )  # fmt: skip
    shape = replace(SHAPE, feed_forward=config.feed_forward)
    encoder = TransformerEncoder(config).to(device).train()
    head = MaskedLMHead(config).to(device).train()
    tokens = torch.randint(4, SHAPE.vocab_size, (ROWS, TOKENS), device=device)
    columns = torch.arange(MASKED, device=device)
    positions = (torch.arange(ROWS, device=device)[:, None] * TOKENS + columns).flatten()

    with _counter() as encoding:
        hidden = encoder(tokens)[-1]
    with _counter() as predicting:
        targets = gather_positions(tokens, positions)
        features = gather_positions(hidden, positions)
        loss = head.losses(features, encoder.embed_tokens.weight, targets)[0].sum()
    with _counter() as backward:
        loss.backward()

    layers = ROWS * SHAPE.num_layers * layer_flops(TOKENS, SHAPE.embed_dim, SHAPE.ffn_dim, shape.feed_forward)
    assert encoding.get_total_flops() == layers
    counts = {str(name): count for name, count in backward.get_flop_counts()["Global"].items()}
    fused = any("scaled_dot_product" in name for name in counts)
    # One product a layer for every two of its forward pass.
    again = ROWS * SHAPE.num_layers * attention_flops(TOKENS, TOKENS, SHAPE.embed_dim) // 2
    counted = sum(mode.get_total_flops() for mode in (encoding, predicting, backward))
    total = step_flops(shape, num_rows=ROWS, num_tokens=TOKENS, num_masked=MASKED)
    assert counted == total + (again if fused else 0)


def flops_over_mlm(shape: EncoderShape, depths: Sequence[int], *, separate: bool = False, **counts: int) -> float:
    return amos_flops(shape, depths, separate=separate, **counts) / encoder_flops(shape, **counts)


def _counter() -> FlopCounterMode:
    # PyTorch's table knows addmm but not addmm_, with which the loss adds up the embedding's gradient.
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _addmm_flops})


def _addmm_flops(_: Any, left: Sequence[int], right: Sequence[int], **__: Any) -> int:
    return 2 * left[0] * left[1] * right[1]


def test_map_net_base_of_the_paper() -> None:
    shape = EncoderShape(12, 768, 3072, 32_678)
    sizes = {"num_layers": 12, "embed_dim": 384, "ffn_dim": 1536}
    share = proposal_share(shape, **sizes, num_tokens=512, num_masked=77)
    assert f"{share:.1%}" == "26.7%"
    assert f"{share * mean_share_proposed(1.0, 0.33):.0%}" == "9%"


def test_map_net_by_hand() -> None:
    # T = 3, encoder D = 2; one layer of width 4, inner width 5
    projection, scores = 2 * 3 * 2 * 4, 2 * 3 * 4
    layer = 2 * 3 * 4 * 12 + 2 * (2 * 3 * 3 * 4) + 2 * 3 * 4 * 4 + 2 * (2 * 3 * 4 * 5)
    found = proposal_flops(EncoderShape(1, 2, 7, 9), num_layers=1, embed_dim=4, ffn_dim=5, num_tokens=3)
    assert found == projection + layer + scores


def test_map_nets_schedule() -> None:
    assert mean_share_proposed(1.0, 0.33) == pytest.approx(0.335)
    assert mean_share_proposed(0.0, 0.0) == 1.0


def test_amos_base_of_the_paper() -> None:
    ratio = flops_over_mlm(BASE, (4, 6, 8), num_tokens=512, num_masked=77)
    assert f"{ratio:.2f}" == "1.76"
    # One generator in place of three saves 10 of 30 layers; one head saves two of them.
    separate = flops_over_mlm(BASE, (4, 6, 8), num_tokens=512, num_masked=77, separate=True)
    assert f"{separate:.2f}" == "2.56"
    assert f"{flops_over_mlm(BASE, (4,), num_tokens=512, num_masked=77):.2f}" == "1.36"


def test_amos_by_hand() -> None:
    # T = 3, D = 2, F = 7, V = 9, N = 1: one discriminator layer, generator of 3 layers with heads on 2 and 3.
    layer = 2 * 3 * 2 * 8 + 2 * (2 * 3 * 3 * 2) + 2 * (2 * 3 * 2 * 7)
    head, mixture = 2 * 2 * 2 + 2 * 2 * 9, 2 * 2 * 9
    shape = EncoderShape(1, 2, 7, 9)
    found = amos_flops(shape, (2, 3), num_tokens=3, num_masked=1)
    assert found == 4 * layer + 2 * head + mixture
    assert amos_flops(shape, (2, 3), num_tokens=3, num_masked=1, separate=True) == found + 2 * layer


@pytest.mark.parametrize("options", [{}, {"generator_layers": [2]}, {"separate_generators": [1, 2]}])
def test_amos_equals_what_the_model_multiplies_forward(options):
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
