"""Floating-point operations of training, from shapes: an encoder's, and what MAP-Net and AMOS add to it.

All of their matrix products. A product ``[m, k] @ [k, n]`` is 2 m k n FLOPs (a multiplication and an addition
each). Biases, softmax, LayerNorm, activations, dropout, embedding look-ups and the optimizer are left out:
under 1% of the sum, and bound by memory, not by arithmetic. Backward multiplies each product's gradient with
both its operands, so a training step is 3 times its forward pass. What an implementation computes a second
time (activation checkpointing, flash attention's backward, logits taken in chunks) is no work of the model
and not counted. 3ML's are Eq. 2-4 of its paper, in ``methods/three_ml/flops.py``.

AMOS's step is three kinds of products: the layers of discriminator and generator over all tokens; a
prediction head for each of the K depths on the masked tokens; the mixture's logits ``E h_bar``, whose
backward is ``E G`` and ``dS E`` (E is detached there, h_bar's gradient is taken). Left out there: the mixture's
scores ``v . f`` and the discriminator's one output a token, under 0.01%; what stop-gradient spares, the input
gradient of a layer's query, key and value for each head.

Source: Kaplan et al. 2020 (2001.08361), Section 2.1, and 2211.04898, Appendix D, whose block with F = 4D
(``8nd^2 + 4n^2d + 16nd^2``) is ``layer_flops``; the paper counts backward once where this counts it twice.
2008.05333, Section 4.1 (sizes of the proposal network) and 4.1.1 (when it draws); 2204.03243, Section 3.3.
Letters: T tokens of a sequence, D width, F inner width, L layers, V vocabulary, N masked tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fairseq_masking.methods.three_ml.flops import prediction_flops
from fairseq_masking.modules.config import FEED_FORWARDS

__all__ = [
    "EncoderShape", "amos_flops", "attention_flops", "encoder_flops", "layer_flops",
    "mean_share_proposed", "prediction_flops", "proposal_flops", "proposal_share", "shape_of", "step_flops",
]  # fmt: skip


@dataclass(frozen=True)
class EncoderShape:
    """What the cost of an encoder with a masked-language-model head depends on (heads do not matter)."""

    num_layers: int
    embed_dim: int
    ffn_dim: int
    vocab_size: int
    # ``mlp``, or ``glu`` with a third product. Windows of attention are computed as all of a row, and counted so.
    feed_forward: str = "mlp"


def shape_of(size: Any, vocab_size: int) -> EncoderShape:
    """Return the shape of a row of ``SIZES``."""
    sizes = (size.encoder_layers, size.encoder_embed_dim, size.encoder_ffn_embed_dim)
    return EncoderShape(*sizes, vocab_size, getattr(size, "feed_forward", "mlp"))


def attention_flops(num_queries: int, num_keys: int, embed_dim: int) -> int:
    """FLOPs of scores and weighted sum, one sequence, forward: ``2 * 2 * queries * keys * D``."""
    return 2 * 2 * num_queries * num_keys * embed_dim


def layer_flops(num_tokens: int, embed_dim: int, ffn_dim: int, feed_forward: str = "mlp") -> int:
    """FLOPs of one Transformer layer over one sequence, forward.

    ``2 T D 3D`` (query, key, value) ``+ 4 T^2 D`` (attention) ``+ 2 T D D`` (output) ``+ 2 * 2 T D F``, or
    ``+ 3 * 2 T D F`` where the feed-forward layer is gated.
    """
    projections = 2 * num_tokens * embed_dim * (3 * embed_dim + embed_dim)
    inner = (FEED_FORWARDS[feed_forward] + 1) * 2 * num_tokens * embed_dim * ffn_dim
    return projections + attention_flops(num_tokens, num_tokens, embed_dim) + inner


def encoder_flops(shape: EncoderShape, num_tokens: int, num_masked: int) -> int:
    """FLOPs of one sequence through encoder and head, forward: ``num_masked`` of ``num_tokens`` predicted."""
    layers = shape.num_layers * layer_flops(num_tokens, shape.embed_dim, shape.ffn_dim, shape.feed_forward)
    return layers + int(prediction_flops(num_masked, shape.embed_dim, shape.vocab_size))


def step_flops(shape: EncoderShape, *, num_rows: int, num_tokens: int, num_masked: int) -> int:
    """FLOPs of forward and backward of one batch of ``num_rows`` sequences.

    Over seconds and the device's peak (FLOP/s) it is the model FLOPs utilisation of Chowdhery et al. 2022
    (2204.02311, Appendix B).
    """
    return 3 * num_rows * encoder_flops(shape, num_tokens, num_masked)


def proposal_flops(shape: EncoderShape, *, num_layers: int, embed_dim: int, ffn_dim: int, num_tokens: int) -> int:
    """FLOPs of MAP-Net's proposal network, of those sizes, on the encoder's embeddings of one sequence, forward."""
    projection = 2 * num_tokens * shape.embed_dim * embed_dim
    scores = 2 * num_tokens * embed_dim
    return projection + num_layers * layer_flops(num_tokens, embed_dim, ffn_dim, shape.feed_forward) + scores


def proposal_share(
    shape: EncoderShape, *, num_layers: int, embed_dim: int, ffn_dim: int, num_tokens: int, num_masked: int
) -> float:
    """Return what the network adds where it always runs, over the FLOPs of encoder and prediction head."""
    added = proposal_flops(shape, num_layers=num_layers, embed_dim=embed_dim, ffn_dim=ffn_dim, num_tokens=num_tokens)
    return added / encoder_flops(shape, num_tokens, num_masked)


def mean_share_proposed(start: float, end: float) -> float:
    """Return the mean over the schedule of 1 - q, q falling linearly: the share of updates that propose.

    Of a run as long as the schedule. With ``--explore-unit batch --proposal-learn-from proposed`` the network
    runs in these alone.
    """
    return 1.0 - (start + end) / 2.0


def amos_flops(
    shape: EncoderShape, depths: Sequence[int], *, num_tokens: int, num_masked: int, separate: bool = False
) -> int:
    """FLOPs of one sequence through AMOS, forward; a training step is 3 times as many.

    Args:
        depths: the generator layers with a head.
        separate: a generator for each depth (``--separate-generators``), not one as deep as the deepest.
    """
    generator_layers = sum(depths) if separate else max(depths)
    one = layer_flops(num_tokens, shape.embed_dim, shape.ffn_dim, shape.feed_forward)
    layers = (shape.num_layers + generator_layers) * one
    heads = len(depths) * int(prediction_flops(num_masked, shape.embed_dim, shape.vocab_size))
    mixture = 2 * num_masked * shape.embed_dim * shape.vocab_size
    return layers + heads + mixture
