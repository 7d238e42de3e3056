"""Operations that several methods share."""

from fairseq_masking.ops.attention import dropout, self_attention
from fairseq_masking.ops.dispatch import IMPLEMENTATIONS, choose_impl
from fairseq_masking.ops.indices import corrupt_tokens, gather_positions, rows_of_positions
from fairseq_masking.ops.linear_cross_entropy import LinearCrossEntropyOutput, linear_cross_entropy

__all__ = [
    "IMPLEMENTATIONS", "LinearCrossEntropyOutput", "choose_impl", "corrupt_tokens", "dropout", "gather_positions",
    "linear_cross_entropy", "rows_of_positions", "self_attention",
]  # fmt: skip
