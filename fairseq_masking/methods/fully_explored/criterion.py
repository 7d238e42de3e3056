"""Fully-explored MLM: the cross-entropy of K masks of a sequence that never overlap, and their spread.

The gradient is the average over the masks (2010.06040, Eq. 4 and 6), which is what ``mlm`` computes on the
K adjacent rows; this criterion also measures how much the masks of one sequence differ.
Shapes: N masked tokens, B rows, S sequences, K splits (B = S * K).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from fairseq.criterions import register_criterion
from fairseq.logging import metrics
from torch import Tensor, nn

from fairseq_masking.errors import UserError
from fairseq_masking.methods.base.masked_tokens import Loss, masked_token_logs, reduce_masked_token_logs
from fairseq_masking.methods.mlm.criterion import MLMCriterion, MLMCriterionConfig
from fairseq_masking.ops import rows_of_positions

__all__ = ["FullyExploredMLMCriterion", "split_statistics"]


class SplitStatistics(NamedTuple):
    """Sums over sequences: of W, of the K-means, of their squares; and the number of sequences."""

    within: Tensor
    means: Tensor
    squared_means: Tensor
    num_sequences: Tensor


def split_statistics(losses_N: Tensor, num_masked_B: Tensor, num_splits: int) -> SplitStatistics:
    """Return what the variances within and between sequences are computed from.

    W is the unbiased variance between the K split losses of one sequence, a split's loss being the mean over
    its masked tokens; it estimates (mask variance - mask covariance). Sequences without masks do not count.

    Source: spec/fully_explored_mlm.md, "Logged"; 2010.06040, Theorem 1.
    """
    rows = rows_of_positions(num_masked_B, losses_N.numel())
    sums = losses_N.new_zeros(num_masked_B.shape[0]).index_add_(0, rows, losses_N)
    split_losses_SK = (sums / num_masked_B.clamp(min=1)).view(-1, num_splits).double()
    counts = (num_masked_B.view(-1, num_splits)[:, 0] > 0).double()
    means = split_losses_SK.mean(1)
    within = split_losses_SK.var(1, unbiased=True)
    return SplitStatistics((within * counts).sum(), means.sum(), means.square().sum(), counts.sum())


@register_criterion("fully_explored_mlm", dataclass=MLMCriterionConfig)
class FullyExploredMLMCriterion(MLMCriterion):
    """``mlm``'s loss on K disjoint masks, with the variance within and between sequences logged.

    It has no options of its own: the task's ``--mask-splits`` is K.
    """

    def __init__(self, cfg: MLMCriterionConfig, task: Any) -> None:
        super().__init__(cfg, task)
        num_splits = getattr(task.cfg, "mask_splits", 1)
        if num_splits < 2:
            raise UserError(
                f"criterion fully_explored_mlm needs --mask-splits 2 or more (task.mask_splits), not"
                f" {num_splits}: the paper takes 4; for a single mask use criterion mlm"
            )

    def forward(self, model: nn.Module, sample: dict[str, Any], reduce: bool = True) -> Loss:
        batch = sample["net_input"]
        output = model(**batch)
        num_splits = batch["shape"]["num_splits"]
        with torch.no_grad():
            statistics = (
                split_statistics(output.losses_N, batch["num_masked"], num_splits)
                # Validation has one mask a sequence, so nothing to compare; the keys stay the same.
                if num_splits > 1
                else SplitStatistics(*output.losses_N.new_zeros(4))
            )
        logs = {f"split_{key}": value for key, value in statistics._asdict().items()}
        logs["split_weight"] = statistics.num_sequences * num_splits
        return output.losses_N.sum(), output.losses_N.numel(), masked_token_logs(output, sample) | logs

    @staticmethod
    def reduce_metrics(logging_outputs: Sequence[dict[str, Any]]) -> None:
        """Log the masked-token metrics, and the variances in nats squared.

        ``var_within`` is the mean W; ``var_between`` the variance of the K-means between sequences minus W/K,
        which estimates the sentence variance plus the mask covariance.
        """
        sums = reduce_masked_token_logs(logging_outputs)
        num_sequences = sums.get("split_num_sequences", 0)
        if num_sequences < 2:
            return
        num_splits, within, mean, squares = (
            sums[f"split_{key}"] / num_sequences for key in ("weight", "within", "means", "squared_means")
        )
        spread = (squares - mean**2) * num_sequences / (num_sequences - 1)
        metrics.log_scalar("var_within", within, num_sequences, priority=40, round=5)
        metrics.log_scalar("var_between", spread - within / num_splits, num_sequences - 1, priority=41, round=5)
