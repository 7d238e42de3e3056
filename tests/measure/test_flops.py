"""The FLOPs formula against numbers worked out by hand and against what the modules really multiply."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from fairseq_masking.measure.flops import (
    EncoderShape,
    attention_flops,
    encoder_flops,
    layer_flops,
    prediction_flops,
    step_flops,
)
from fairseq_masking.modules import MaskedLMHead, TransformerEncoder
from fairseq_masking.modules.encoder import EncoderConfig
from fairseq_masking.ops import gather_positions

ROWS, TOKENS, MASKED = 3, 24, 5
SHAPE = EncoderShape(num_layers=2, embed_dim=32, ffn_dim=80, vocab_size=57)


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


def test_equals_what_the_modules_multiply(device: torch.device) -> None:
    """Exact, forward and backward, where nothing is computed twice.

    A GPU's fused attention computes the scores again in backward, 5 products for 4: what PyTorch's counter
    has above the formula. Dropout keeps the CPU off its own fused kernel, which the counter does not know.
    """
    torch.manual_seed(0)
    config = EncoderConfig(
        vocab_size=SHAPE.vocab_size, pad_index=1, num_layers=SHAPE.num_layers, embed_dim=SHAPE.embed_dim,
        ffn_dim=SHAPE.ffn_dim, num_heads=4, dropout=0.1, attention_dropout=0.1,
    )  # fmt: skip
    encoder = TransformerEncoder(config).to(device).train()
    head = MaskedLMHead(SHAPE.embed_dim, SHAPE.vocab_size).to(device).train()
    tokens = torch.randint(4, SHAPE.vocab_size, (ROWS, TOKENS), device=device)
    columns = torch.arange(MASKED, device=device)
    positions = (torch.arange(ROWS, device=device)[:, None] * TOKENS + columns).flatten()

    with _counter() as encoding:
        hidden = encoder(tokens).hidden_BTD
    with _counter() as predicting:
        targets = gather_positions(tokens, positions)
        features = gather_positions(hidden, positions)
        loss = head.losses(features, encoder.embed_tokens.weight, targets)[0].sum()
    with _counter() as backward:
        loss.backward()

    layers = ROWS * SHAPE.num_layers * layer_flops(TOKENS, SHAPE.embed_dim, SHAPE.ffn_dim)
    assert encoding.get_total_flops() == layers
    counts = {str(name): count for name, count in backward.get_flop_counts()["Global"].items()}
    fused = any("scaled_dot_product" in name for name in counts)
    # One product a layer for every two of its forward pass.
    again = ROWS * SHAPE.num_layers * attention_flops(TOKENS, TOKENS, SHAPE.embed_dim) // 2
    counted = sum(mode.get_total_flops() for mode in (encoding, predicting, backward))
    total = step_flops(SHAPE, num_rows=ROWS, num_tokens=TOKENS, num_masked=MASKED)
    assert counted == total + (again if fused else 0)


def _counter() -> FlopCounterMode:
    # PyTorch's table knows addmm but not addmm_, with which the loss adds up the embedding's gradient.
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _addmm_flops})


def _addmm_flops(_: Any, left: Sequence[int], right: Sequence[int], **__: Any) -> int:
    return 2 * left[0] * left[1] * right[1]
