"""Extractive question answering: is an answer's first, or last, token here?

Shapes: B batch, T length, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_masking.modules.encoder import init_bert_weights

__all__ = ["SpanHead", "inside_window", "span_losses"]


class SpanHead(nn.Module):
    """A linear layer with two outputs a token.

    Source: Devlin et al. 2019 (BERT), section 4.2.
    """

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.out_proj = nn.Linear(input_dim, 2)
        self.apply(init_bert_weights)

    def forward(self, features_BTD: Tensor) -> Tensor:
        """Return the logits ``[B, T, 2]`` of first and last token."""
        return self.out_proj(features_BTD)


def inside_window(window_B2: Tensor, length: int) -> Tensor:
    """Return bool ``[B, length]``: whether a column is in the row's stretch ``window_B2`` (first, end)."""
    columns = torch.arange(length, device=window_B2.device)
    return (columns >= window_B2[:, :1]) & (columns < window_B2[:, 1:])


def span_losses(logits_BT2: Tensor, window_B2: Tensor, targets_B2: Tensor) -> Tensor:
    """Return each row's mean cross-entropy (nats) of first and last token, fp32 ``[B]``.

    Args:
        logits_BT2: of first and last token.
        window_B2: int64, the paragraph's columns (first, end): the answer may be there, or at column 0 (<s>).
        targets_B2: int64, columns of first and last token; 0 for no answer.
    """
    allowed_BT = inside_window(window_B2, logits_BT2.shape[1])
    allowed_BT[:, 0] = True
    logits_BT2 = logits_BT2.float().masked_fill(~allowed_BT[..., None], float("-inf"))
    return F.cross_entropy(logits_BT2, targets_B2, reduction="none").mean(-1)
