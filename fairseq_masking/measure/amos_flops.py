"""FLOPs of an AMOS training step, and over those of plain masked language modelling with the same encoder.

A step is three kinds of matrix products, each once forward and twice backward: the layers of discriminator
and generator over all tokens; a prediction head for each of the K depths on the masked tokens; the mixture's
logits ``E h_bar``, whose backward is ``E G`` and ``dS E`` (E is detached there, h_bar's gradient is taken).
For base (12 layers, generator of 8, depths 4, 6, 8), 512 tokens, 77 of them masked, and V = 32,768:

    layers 20/12 of 96.6 GFLOPs, heads 3 of 4.0, mixture 3.9: 176.8 over 100.6 = 1.76

Left out beside ``flops.py``'s: the mixture's scores ``v . f`` and the discriminator's one output a token,
under 0.01%; what stop-gradient spares, the input gradient of a layer's query, key and value for each head.

Source: 2204.03243, Section 3.3 (what is computed); the counting is ``flops.py``'s.
"""

from collections.abc import Sequence

from fairseq_masking.measure.flops import EncoderShape, encoder_flops, layer_flops, prediction_flops

__all__ = ["amos_flops", "flops_over_mlm"]


def amos_flops(
    shape: EncoderShape,
    depths: Sequence[int],
    *,
    num_tokens: int,
    num_masked: int,
    separate: bool = False,
) -> int:
    """FLOPs of one sequence, forward; a training step is 3 times as many.

    Args:
        shape: of the discriminator; the generator has its width.
        depths: D, the generator layers with a head.
        num_tokens: T, special tokens included, which both networks read.
        num_masked: N.
        separate: a generator for each depth (``--separate-generators``), not one as deep as the deepest.
    """
    generator_layers = sum(depths) if separate else max(depths)
    layers = (shape.num_layers + generator_layers) * layer_flops(num_tokens, shape.embed_dim, shape.ffn_dim)
    heads = len(depths) * prediction_flops(num_masked, shape.embed_dim, shape.vocab_size)
    mixture = 2 * num_masked * shape.embed_dim * shape.vocab_size
    return layers + heads + mixture


def flops_over_mlm(
    shape: EncoderShape, depths: Sequence[int], *, num_tokens: int, num_masked: int, separate: bool = False
) -> float:
    """Return ``amos_flops`` over those of encoder and prediction head: 1.76 for base and depths 4, 6, 8."""
    cost = amos_flops(shape, depths, num_tokens=num_tokens, num_masked=num_masked, separate=separate)
    return cost / encoder_flops(shape, num_tokens, num_masked)
