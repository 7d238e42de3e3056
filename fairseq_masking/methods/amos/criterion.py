"""AMOS's objective: masked cross-entropy at every depth, and replaced-token detection.

Source: 2204.03243, Eq. 1, 2 and 4; spec/amos.md, "Discriminator".
Shapes: B batch, T length, N masked tokens (or values), K depths.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from fairseq.criterions import register_criterion
from fairseq.dataclass import FairseqDataclass
from torch import Tensor, nn

from fairseq_masking.compat.options import option
from fairseq_masking.methods.amos.generator import depth_names
from fairseq_masking.methods.amos.model import AmosOutput
from fairseq_masking.methods.base.masked_tokens import (
    Loss,
    MaskedTokenOutput,
    log_mean_of,
    masked_token_logs,
    reduce_masked_token_logs,
)
from fairseq_masking.methods.mlm.criterion import MLMCriterion

__all__ = ["AmosCriterion", "AmosCriterionConfig", "ranked_pairs"]

logger = logging.getLogger(__name__)

MLM_LOSS, WEIGHT = "mlm_loss_", "mixture_"  # before the name of a depth


@dataclass
class AmosCriterionConfig(FairseqDataclass):
    """Weight of the discriminator's loss."""

    discriminator_weight: float = option(
        50.0, "lambda, the weight of the discriminator's mean loss a token beside the generator's"
    )


@register_criterion("amos", dataclass=AmosCriterionConfig)
class AmosCriterion(MLMCriterion):
    """L_GEN + lambda * L_DISC, a masked token.

    L_GEN is the sum over depths and masked tokens, L_DISC the mean over all tokens but padding, times the
    number of masked tokens; ``sample_size`` is that number, each counted once.

    Deviation: Eq. 1 and 2 are sums over different numbers of tokens, by which the discriminator would weigh
    1 / 0.15 as much again.
    """

    required_output = AmosOutput
    cfg: AmosCriterionConfig

    def __init__(self, cfg: AmosCriterionConfig, task: Any) -> None:
        super().__init__(cfg, task)
        if any(getattr(getattr(task, "cfg", None), name, 0) for name in ("leave_unmasked_prob", "random_token_prob")):
            logger.warning(
                "AMOS's generators predict what is <mask> (2204.03243, Section 3.1), here also random or unchanged"
                " tokens: the paper's setting is --leave-unmasked-prob 0 --random-token-prob 0"
            )

    def forward(self, model: nn.Module, sample: dict[str, Any], reduce: bool = True) -> Loss:
        """Losses are in nats."""
        output: AmosOutput = model(**sample["net_input"])
        num_tokens = output.sampled_N.numel()
        detection_loss = output.detection_losses_BT.sum()
        share = self.cfg.discriminator_weight * num_tokens / sample["ntokens"]
        loss = output.losses_KN.sum() + share * detection_loss
        deepest = MaskedTokenOutput(output.losses_KN[-1], output.predictions_KN[-1])
        logs = masked_token_logs(deepest, sample)
        logs.update(objective=loss.detach(), **_logs(output, model.depths))
        return loss, num_tokens, logs

    @staticmethod
    def reduce_metrics(logging_outputs: Sequence[dict[str, Any]]) -> None:
        """Log the masked-token metrics of the deepest generator, and how the game goes.

        Losses are in bits: ``objective`` and ``mlm_loss_<depth>`` a masked token, ``disc_loss`` a token.
        ``mixture_<depth>`` is the mean weight at the masked tokens, ``replace_rate`` the share of them where
        another token was sampled; the discriminator's accuracies are percentages of all tokens, of the
        replaced and of the original ones. ``disc_auc`` needs no threshold: how often a replaced token looks
        less original than an original one of its batch (area under the ROC curve, 50%: by chance).
        """
        sums = reduce_masked_token_logs(logging_outputs)
        log_mean = partial(log_mean_of, sums)
        bits = 1.0 / math.log(2)
        log_mean("objective", "objective", "sample_size", scale=bits, priority=40)
        for key in sums:
            if key.startswith(MLM_LOSS):
                log_mean(key, key, "sample_size", scale=bits, priority=41)
            elif key.startswith(WEIGHT):
                log_mean(key, key, "sample_size", priority=42)
        log_mean("disc_loss", "disc_loss", "ntokens", scale=bits, priority=43)
        log_mean("disc_accuracy", "num_detected", "ntokens", scale=100, priority=44)
        log_mean("disc_accuracy_replaced", "num_detected_replaced", "num_replaced", scale=100, priority=45)
        log_mean("disc_accuracy_original", "num_detected_original", "num_original", scale=100, priority=46)
        log_mean("disc_auc", "num_pairs_ordered", "num_pairs", scale=100, priority=47)
        log_mean("replace_rate", "num_replaced", "sample_size", scale=100, priority=48)


@torch.no_grad()
def _logs(output: AmosOutput, depths: Sequence[int]) -> dict[str, Tensor]:
    names = depth_names(depths)
    right_BT = (output.detection_logits_BT > 0) == output.original_BT
    original_BT, replaced_BT = output.original_BT, ~output.original_BT
    if output.padding_BT is not None:
        right_BT = right_BT & ~output.padding_BT
        original_BT = original_BT & ~output.padding_BT
    num_ordered, num_pairs = ranked_pairs(
        -output.detection_logits_BT.flatten(), replaced_BT.flatten(), original_BT.flatten()
    )
    return {
        **{MLM_LOSS + name: loss for name, loss in zip(names, output.losses_KN.sum(1), strict=True)},
        **{WEIGHT + name: weight for name, weight in zip(names, output.weights_NK.sum(0), strict=True)},
        "disc_loss": output.detection_losses_BT.sum(),
        "num_detected": right_BT.sum(),
        "num_detected_replaced": (right_BT & replaced_BT).sum(),
        "num_detected_original": (right_BT & original_BT).sum(),
        "num_replaced": replaced_BT.sum(),
        "num_original": original_BT.sum(),
        "num_pairs_ordered": num_ordered,
        "num_pairs": num_pairs,
    }


@torch.no_grad()
def ranked_pairs(scores_N: Tensor, upper_N: Tensor, lower_N: Tensor) -> tuple[Tensor, Tensor]:
    """Count the pairs (fp64) of an ``upper`` and a ``lower`` value where the former scores higher, and all of them.

    Equal scores are half in order. Counts of batches and ranks add up; the one over the other is the area under the
    ROC curve. Source: Hanley and McNeil 1982: the area is the Mann-Whitney statistic.

    Args:
        scores_N: floating point, finite.
        upper_N: bool, who ought to score higher.
        lower_N: bool, who ought to score lower; who is neither does not count.
    """
    ordered_N, order_N = scores_N.sort()
    lower_below = torch.nn.functional.pad(lower_N[order_N].long().cumsum(0), (1, 0))
    first_N, last_N = (torch.searchsorted(ordered_N, scores_N, right=right) for right in (False, True))
    won_N = (lower_below[first_N] + lower_below[last_N]).double() / 2
    return (won_N * upper_N).sum(), upper_N.sum().double() * lower_N.sum()
