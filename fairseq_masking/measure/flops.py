"""Floating-point operations of an encoder's training step, from its shape: its matrix products, all of them.

A product ``[m, k] @ [k, n]`` is 2 m k n FLOPs (a multiplication and an addition each). Biases, softmax,
LayerNorm, activations, dropout, embedding look-ups and the optimizer are left out: under 1% of the sum, and
bound by memory, not by arithmetic. Backward multiplies each product's gradient with both its operands, so a
training step is 3 times its forward pass. What an implementation computes a second time (activation
checkpointing, flash attention's backward, logits taken in chunks) is no work of the model and not counted.

Source: Kaplan et al. 2020 (2001.08361), Section 2.1, and 2211.04898, Appendix D, whose block with F = 4D
(``8nd^2 + 4n^2d + 16nd^2``) is ``layer_flops``; the paper counts backward once where this counts it twice.
Letters: T tokens of a sequence, D width, F inner width, L layers, V vocabulary, N masked tokens.
"""

from dataclasses import dataclass

__all__ = [
    "EncoderShape",
    "attention_flops",
    "encoder_flops",
    "layer_flops",
    "prediction_flops",
    "step_flops",
]

# Forward once; backward once for the gradient of each of a product's two operands.
_PASSES_OF_A_STEP = 3


@dataclass(frozen=True)
class EncoderShape:
    """What the cost of an encoder with a masked-language-model head depends on (heads do not matter)."""

    num_layers: int
    embed_dim: int
    ffn_dim: int
    vocab_size: int


def attention_flops(num_queries: int, num_keys: int, embed_dim: int) -> int:
    """FLOPs of scores and weighted sum, one sequence, forward: ``2 * 2 * queries * keys * D``."""
    return 2 * 2 * num_queries * num_keys * embed_dim


def layer_flops(num_tokens: int, embed_dim: int, ffn_dim: int) -> int:
    """FLOPs of one Transformer layer over one sequence, forward.

    ``2 T D 3D`` (query, key, value) ``+ 4 T^2 D`` (attention) ``+ 2 T D D`` (output) ``+ 2 * 2 T D F``.
    """
    projections = 2 * num_tokens * embed_dim * (3 * embed_dim + embed_dim)
    feed_forward = 2 * 2 * num_tokens * embed_dim * ffn_dim
    return projections + attention_flops(num_tokens, num_tokens, embed_dim) + feed_forward


def prediction_flops(num_masked: int, embed_dim: int, vocab_size: int) -> int:
    """FLOPs of the prediction head on masked tokens alone, forward: ``2 N D^2 + 2 N D V``."""
    return 2 * num_masked * embed_dim * (embed_dim + vocab_size)


def encoder_flops(shape: EncoderShape, num_tokens: int, num_masked: int) -> int:
    """FLOPs of one sequence through encoder and head, forward: ``num_masked`` of ``num_tokens`` predicted."""
    layers = shape.num_layers * layer_flops(num_tokens, shape.embed_dim, shape.ffn_dim)
    return layers + prediction_flops(num_masked, shape.embed_dim, shape.vocab_size)


def step_flops(shape: EncoderShape, *, num_rows: int, num_tokens: int, num_masked: int) -> int:
    """FLOPs of forward and backward of one batch.

    Args:
        num_rows: sequences of the batch.
        num_tokens: tokens of each sequence, special ones included.
        num_masked: masked tokens of each sequence.

    Returns:
        ``3 * num_rows * encoder_flops``. Over seconds and the device's peak (FLOP/s) it is the model FLOPs
        utilisation of Chowdhery et al. 2022 (2204.02311, Appendix B).
    """
    return _PASSES_OF_A_STEP * num_rows * encoder_flops(shape, num_tokens, num_masked)
