"""What MAP-Net's proposal network adds to the FLOPs of plain masked language modelling.

Source: 2008.05333, Section 4.1 (its sizes) and 4.1.1 (when it draws); the counting is ``flops.py``'s.
"""

from fairseq_masking.measure.flops import EncoderShape, encoder_flops, layer_flops

__all__ = ["mean_share_proposed", "proposal_flops", "proposal_share"]


def proposal_flops(
    shape: EncoderShape, *, num_layers: int, embed_dim: int, ffn_dim: int, num_tokens: int
) -> int:
    """FLOPs of the proposal network over one sequence, forward.

    Args:
        shape: of the encoder, whose token embeddings it reads through a linear layer.
        num_layers: of the proposal network, as are ``embed_dim`` and ``ffn_dim``.
        num_tokens: T, special tokens included.
    """
    projection = 2 * num_tokens * shape.embed_dim * embed_dim
    scores = 2 * num_tokens * embed_dim
    return projection + num_layers * layer_flops(num_tokens, embed_dim, ffn_dim) + scores


def proposal_share(
    shape: EncoderShape, *, num_layers: int, embed_dim: int, ffn_dim: int, num_tokens: int, num_masked: int
) -> float:
    """Return what the network adds where it always runs, over the FLOPs of encoder and prediction head.

    The same share of forward and of forward and backward.
    """
    added = proposal_flops(
        shape, num_layers=num_layers, embed_dim=embed_dim, ffn_dim=ffn_dim, num_tokens=num_tokens
    )
    return added / encoder_flops(shape, num_tokens, num_masked)


def mean_share_proposed(start: float, end: float) -> float:
    """Return the mean over the schedule of 1 - q, q falling linearly: the share of updates that propose.

    Of a run as long as the schedule. With ``--explore-unit batch --proposal-learn-from proposed`` the network
    runs in these alone.
    """
    return 1.0 - (start + end) / 2.0
