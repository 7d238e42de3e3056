"""FLOPs of pre-training with 3ML, and what it saves against plain masked language modelling.

Source: 2211.04898, Appendix D, with its misprints put right as spec/three_ml.md says: ``phi_out = 2nd^2``; in
Eq. 4 ``n_en = (1 - 0.8r)n``, ``n_de = 0.8rn`` and ``2bu`` multiplies every term. Like the paper this counts
matrix products only, and backward as much as forward; a ratio does not depend on the latter.
Letters: n tokens of a sequence, n_en that the encoder reads, n_de [MASK]s, d_en and d_de widths, r masking rate.
"""

from dataclasses import dataclass

from fairseq_masking.errors import UserError
from fairseq_masking.masking.corruption import corruption_counts, num_masked

__all__ = [
    "BASELINE_RATE", "DECODER_ATTENTIONS", "Counts", "ThreeMLShape", "block_flops", "cross_block_flops",
    "exact_counts", "feed_forward_flops", "ideal_counts", "mlm_flops", "prediction_flops", "share_saved", "speedup",
    "three_ml_flops",
]  # fmt: skip

BASELINE_RATE = 0.15  # of the plain masked language model that 3ML is measured against
DECODER_ATTENTIONS = ("self", "cross")

# "2 at the beginning denotes the forward and backward process" (Eq. 2)
_PASSES = 2


@dataclass(frozen=True)
class ThreeMLShape:
    decoder_attention: str  # ``self`` or ``cross``
    encoder_layers: int
    encoder_dim: int
    decoder_layers: int
    decoder_dim: int
    vocab_size: int
    # FLOPs of a feed-forward layer over ``nd^2``: 16 where it is 4 times as wide as its block
    feed_forward: float = 16

    def __post_init__(self) -> None:
        if self.decoder_attention not in DECODER_ATTENTIONS:
            raise UserError(f"decoder attention {self.decoder_attention!r}: choose {' or '.join(DECODER_ATTENTIONS)}")


@dataclass(frozen=True)
class Counts:
    """Tokens of a sequence: all (n), replaced by [MASK] (n_de), predicted though they are no [MASK]."""

    num_tokens: float
    num_mask: float
    num_other: float

    @property
    def num_visible(self) -> float:
        """n_en: what 3ML's encoder reads."""
        return self.num_tokens - self.num_mask

    @property
    def num_predicted(self) -> float:
        """All corrupted tokens."""
        return self.num_mask + self.num_other


def ideal_counts(num_tokens: float, mask_prob: float, mask_share: float = 0.8) -> Counts:
    """The paper's counts, which need not be whole: every token may be masked, ``n_en = (1 - mask_share * r)n``."""
    predicted = mask_prob * num_tokens
    return Counts(num_tokens, mask_share * predicted, (1 - mask_share) * predicted)


def exact_counts(
    num_tokens: int,
    mask_prob: float,
    leave_unmasked_prob: float = 0.1,
    random_token_prob: float = 0.1,
    *,
    num_specials: int = 2,
) -> Counts:
    """The counts of a real full block: whole numbers, and special tokens are never masked."""
    maskable = num_tokens - num_specials
    predicted = num_masked(maskable, maskable, mask_prob)
    num_mask, *others = corruption_counts(predicted, leave_unmasked_prob, random_token_prob)
    return Counts(num_tokens, num_mask, sum(others))


def block_flops(num_tokens: float, dim: float, feed_forward: float = 16) -> float:
    """A Transformer block, forward: ``phi_BLK(n, d) = 24nd^2 + 4n^2d``; 16 of the 24 are ``feed_forward``."""
    return (8 + feed_forward) * num_tokens * dim**2 + 4 * num_tokens**2 * dim


def feed_forward_flops(kind: str, ffn_dim: int, dim: int) -> float:
    """FLOPs over ``nd^2`` of a feed-forward layer: the paper's 16, or those of the three products of a gated one."""
    return 6 * ffn_dim / dim if kind == "glu" else 16


def cross_block_flops(num_visible: float, num_mask: float, dim: float, feed_forward: float = 16) -> float:
    """A block with cross-attention, forward: ``phi_CBLK = phi_BLK(n_de, d) + phi_MCA(n_en, n_de, d)``."""
    projections = 4 * num_visible * dim**2 + 4 * num_mask * dim**2
    return block_flops(num_mask, dim, feed_forward) + projections + 4 * num_visible * num_mask * dim


def prediction_flops(num_predicted: float, dim: float, vocab_size: int, *, input_dim: float | None = None) -> float:
    """The prediction layer on predicted tokens alone, forward: ``2N(d' d + d|V|)``; d' = d if not given."""
    return 2 * num_predicted * ((dim if input_dim is None else input_dim) * dim + dim * vocab_size)


def mlm_flops(
    counts: Counts,
    *,
    num_layers: int,
    dim: int,
    vocab_size: int,
    feed_forward: float = 16,
    batch_size: float = 1,
    num_updates: float = 1,
) -> float:
    """Eq. 2: pre-training of a plain masked language model."""
    forward = num_layers * block_flops(counts.num_tokens, dim, feed_forward)
    forward += prediction_flops(counts.num_predicted, dim, vocab_size)
    return _PASSES * batch_size * num_updates * forward


def three_ml_flops(shape: ThreeMLShape, counts: Counts, *, batch_size: float = 1, num_updates: float = 1) -> float:
    """Eq. 3 (``self``) and Eq. 4 (``cross``): pre-training with 3ML.

    Deviation: where encoder and decoder are equally wide there is no projection between them, in the paper's
    Section 2.2 as in the model here, so its ``2 n_en d_en d_de`` is not counted.
    """
    d_en, d_de, visible, inner = shape.encoder_dim, shape.decoder_dim, counts.num_visible, shape.feed_forward
    forward = shape.encoder_layers * block_flops(visible, d_en, inner)
    if d_en != d_de:
        forward += 2 * visible * d_en * d_de
    if shape.decoder_attention == "self":
        forward += shape.decoder_layers * block_flops(counts.num_tokens, d_de, inner)
        forward += prediction_flops(counts.num_predicted, d_en, shape.vocab_size, input_dim=d_de)
    else:
        forward += shape.decoder_layers * cross_block_flops(visible, counts.num_mask, d_de, inner)
        forward += prediction_flops(counts.num_other, d_en, shape.vocab_size)
        forward += prediction_flops(counts.num_mask, d_en, shape.vocab_size, input_dim=d_de)
    return _PASSES * batch_size * num_updates * forward


def speedup(shape: ThreeMLShape, counts: Counts, baseline: Counts) -> float:
    """Eq. 2 (``baseline`` usually at ``BASELINE_RATE``) over Eq. 3 or 4, for the same encoder."""
    sizes = {"num_layers": shape.encoder_layers, "dim": shape.encoder_dim, "vocab_size": shape.vocab_size}
    return mlm_flops(baseline, **sizes, feed_forward=shape.feed_forward) / three_ml_flops(shape, counts)


def share_saved(shape: ThreeMLShape, counts: Counts, baseline: Counts) -> float:
    """``1 - 1/speedup``: negative where 3ML costs more."""
    return 1 - 1 / speedup(shape, counts, baseline)
