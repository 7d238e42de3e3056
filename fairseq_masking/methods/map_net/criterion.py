"""MAP-Net's objective: importance-weighted cross-entropy for the encoder, Eq. 10 for the proposal network.

Both are trained in one update, by L_MAP + lambda * L_enc (2008.05333, Section 4.1.1).
Shapes: B rows, T length, N masked tokens, K the most masked tokens of a row.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from fairseq.criterions import register_criterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from torch import Tensor, nn

from fairseq_masking.compat.options import option
from fairseq_masking.methods.base.masked_tokens import Loss, log_mean_of, masked_token_logs, reduce_masked_token_logs
from fairseq_masking.methods.map_net.model import MapNetOutput
from fairseq_masking.methods.map_net.ragged import RaggedRows, rank_correlation
from fairseq_masking.methods.map_net.sampling import clip_log_weight, log_bounds, log_weight_exact, log_weight_paper
from fairseq_masking.methods.mlm.criterion import MLMCriterion

__all__ = ["MapNetCriterion", "MapNetCriterionConfig", "Weights", "encoder_loss", "proposal_loss"]

IMPORTANCE_WEIGHTS = {"paper": log_weight_paper, "exact": log_weight_exact}
IMPORTANCE_WEIGHT_CHOICES = ChoiceEnum(list(IMPORTANCE_WEIGHTS))


@dataclass
class MapNetCriterionConfig(FairseqDataclass):
    """Weights of the two losses, and the importance weight in the encoder's."""

    encoder_loss_weight: float = option(1e-2, "lambda, the weight of the encoder's loss")
    proposal_loss_weight: float = option(
        1.0,
        "weight of the proposal network's loss; with --encoder-loss-weight 1, 100 is the paper's ratio at the"
        " ordinary scale of gradients; a negative weight teaches it the easy positions, as a control",
    )
    importance_clip: float = option(
        0.2, "eps: importance weights are clipped to [1 - eps, 1 + eps]; 0 weighs all the same"
    )
    importance_weight: IMPORTANCE_WEIGHT_CHOICES = option(
        "paper", "paper: the ratio of draws with replacement; exact: that of the draws made"
    )


class Weights(NamedTuple):
    """``clipped_B`` importance weights, 1 in exploring rows, and the logarithms before clipping."""

    clipped_B: Tensor
    log_B: Tensor


def importance_weights(output: MapNetOutput, layout: RaggedRows, *, clip: float, weight: str) -> Weights:
    """Return r_clip of each row; no gradient flows."""
    log_weight = torch.zeros_like(output.proposed_B, dtype=output.losses_N.dtype)
    if output.log_proposal_BT is not None:
        log_weight = IMPORTANCE_WEIGHTS[weight](output.log_proposal_BT.detach(), output.drawn_N, layout)
        log_weight = log_weight.masked_fill(~output.proposed_B, 0.0)
    return Weights(clip_log_weight(log_weight, clip), log_weight)


def encoder_loss(losses_N: Tensor, weights_B: Tensor, layout: RaggedRows) -> Tensor:
    """Return L_enc: sum over sentences of r_clip * sum of masked cross-entropies (2008.05333, Eq. 5, clipped)."""
    return (layout.spread(weights_B.detach()) * losses_N).sum()


def proposal_loss(output: MapNetOutput, layout: RaggedRows) -> Tensor:
    """Return L_MAP: sum over learning sentences of sum_k -log p_prop(pos_k) * (l_k - mean_k l) (2008.05333, Eq. 10).

    The gradient of the score at pos_k is -(l_k - mean l), and 0 at every other position.
    """
    if output.log_proposal_BT is None:
        return output.losses_N.new_zeros(())
    losses_N = output.losses_N.detach()
    baseline_B = layout.pad(losses_N).sum(1) / layout.filled_BK.sum(1).clamp(min=1)
    advantages_N = (losses_N - layout.spread(baseline_B)) * layout.spread(output.learning_B)
    log_chosen_N = output.log_proposal_BT.flatten().index_select(0, output.positions_N)
    return -(log_chosen_N * advantages_N).sum()


@register_criterion("map_net", dataclass=MapNetCriterionConfig)
class MapNetCriterion(MLMCriterion):
    """L_MAP + lambda * L_enc in training; in validation ``mlm``'s loss, comparable between methods."""

    required_output = MapNetOutput
    cfg: MapNetCriterionConfig

    def forward(self, model: nn.Module, sample: dict[str, Any], reduce: bool = True) -> Loss:
        """Losses are in nats."""
        net_input = sample["net_input"]
        output: MapNetOutput = model(**net_input)
        num_tokens = output.losses_N.numel()
        layout = RaggedRows.of(net_input["num_masked"], num_values=num_tokens, width=net_input["shape"]["max_masked"])
        weights = importance_weights(
            output, layout, clip=self.cfg.importance_clip, weight=str(self.cfg.importance_weight)
        )
        logs = masked_token_logs(output, {**sample, "net_input": {**net_input, "positions": output.positions_N}})
        logs.update(_proposal_logs(output, layout, weights, self.cfg.importance_clip))
        sum_encoder = encoder_loss(output.losses_N, weights.clipped_B, layout)
        sum_proposal = proposal_loss(output, layout)
        logs.update(encoder_loss=sum_encoder.detach(), proposal_loss=sum_proposal.detach())
        if not self.training:
            return output.losses_N.sum(), num_tokens, {**logs, **dict.fromkeys(_TRAINING_ONLY, 0.0)}
        loss = self.cfg.proposal_loss_weight * sum_proposal + self.cfg.encoder_loss_weight * sum_encoder
        return loss, num_tokens, logs

    @staticmethod
    def reduce_metrics(logging_outputs: Sequence[dict[str, Any]]) -> None:
        """Log the masked-token metrics and, of training, how the proposal network does.

        ``encoder_loss`` and ``proposal_loss`` are L_enc and L_MAP a masked token, without their weights.
        Losses of the encoder and the entropy are in bits, L_MAP in nats squared. Weights and clipped shares
        are of the proposed sentences; ``rank_correlation`` is Spearman's between p_prop and the encoder's
        loss at the masked positions of a sentence, ``rank_correlation_uniform`` that of exploring ones.
        """
        sums = reduce_masked_token_logs(logging_outputs)
        log_mean = partial(log_mean_of, sums)
        bits = 1.0 / math.log(2)
        log_mean("encoder_loss", "encoder_loss", "num_trained", scale=bits, priority=40)
        log_mean("proposal_loss", "proposal_loss", "num_trained", priority=41)
        log_mean("loss_proposed", "loss_proposed", "tokens_proposed", scale=bits, priority=42)
        log_mean("loss_uniform", "loss_uniform", "tokens_uniform", scale=bits, priority=43)
        log_mean("share_proposed", "rows_proposed", "rows", priority=44)
        log_mean("importance_weight", "sum_weight", "rows_proposed", priority=45)
        log_mean("clipped_low", "rows_clipped_low", "rows_proposed", priority=46)
        log_mean("clipped_high", "rows_clipped_high", "rows_proposed", priority=47)
        log_mean("proposal_entropy", "entropy", "rows_with_entropy", scale=bits, priority=48)
        log_mean("rank_correlation", "rank", "rows_ranked", priority=49)
        log_mean("rank_correlation_uniform", "rank_uniform", "rows_ranked_uniform", priority=50)


# Counts that are 0 in validation, so that nothing of the proposal is logged there.
_TRAINING_ONLY = ("num_trained", "tokens_uniform", "rows")


@torch.no_grad()
def _proposal_logs(
    output: MapNetOutput, layout: RaggedRows, weights: Weights, clip: float
) -> dict[str, Tensor | float]:
    """Sums over the batch; the same keys whether or not the proposal network ran."""
    losses_N, log_proposal_BT = output.losses_N.detach(), output.log_proposal_BT
    masked_B = layout.filled_BK.any(1) if layout.filled_BK.shape[1] else torch.zeros_like(output.proposed_B)
    proposed_B = output.proposed_B & masked_B
    proposed_N = layout.spread(output.proposed_B)
    zero, (lowest, highest) = losses_N.new_zeros(()), log_bounds(clip)
    logs: dict[str, Tensor | float] = {
        "num_trained": losses_N.numel(),
        "loss_proposed": (losses_N * proposed_N).sum(),
        "tokens_proposed": proposed_N.sum(),
        "loss_uniform": (losses_N * ~proposed_N).sum(),
        "tokens_uniform": (~proposed_N).sum(),
        "rows": masked_B.sum(),
        "rows_proposed": proposed_B.sum(),
        "sum_weight": (weights.clipped_B * proposed_B).sum(),
        "rows_clipped_low": (proposed_B & (weights.log_B < lowest)).sum(),
        "rows_clipped_high": (proposed_B & (weights.log_B > highest)).sum(),
        **dict.fromkeys(
            ("entropy", "rows_with_entropy", "rank", "rows_ranked", "rank_uniform", "rows_ranked_uniform"), zero
        ),
    }
    if log_proposal_BT is None:
        return logs
    surprise_BT = log_proposal_BT.exp() * log_proposal_BT.masked_fill(log_proposal_BT == -math.inf, 0.0)
    log_chosen_BK = layout.pad(log_proposal_BT.flatten().index_select(0, output.positions_N))
    rank_B, defined_B = rank_correlation(log_chosen_BK, layout.pad(losses_N), layout.filled_BK)
    uniform_B = defined_B & ~output.proposed_B
    logs.update(
        entropy=-(surprise_BT.sum(1) * masked_B).sum(),
        rows_with_entropy=masked_B.sum(),
        rank=rank_B.sum(),
        rows_ranked=defined_B.sum(),
        rank_uniform=(rank_B * uniform_B).sum(),
        rows_ranked_uniform=uniform_B.sum(),
    )
    return logs
