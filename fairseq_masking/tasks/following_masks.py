"""Masks that follow the training: how many by the update, which tokens by what the model has learned.

A data loader reads ahead and cannot know for which update. These masks are drawn in ``train_step`` instead, from
(seed, epoch, index) and the state at the update: workers, ranks and a resume do not change them.

Shapes: V symbols, N masked tokens of the batch.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from fairseq import utils
from fairseq.logging import metrics
from torch import Tensor

from fairseq_masking.data import collate
from fairseq_masking.masking import Masker, MaskingRate

__all__ = ["AdaptiveLaw", "draw_masks"]

SMOOTHING = 0.2  # lambda


class AdaptiveLaw:
    """Weights of the symbols, by how often the model did not guess them when they were masked.

    w <- lambda w + (1 - lambda) (1 - accuracy) of each symbol that was masked since the last renewal, from w = 1
    on. All ranks have the same counts after each update, so that rank 0's checkpoint is everyone's.

    Args:
        num_symbols: V.
        updates: between renewals.

    Source: Edman and Fraser 2025, "Mask and You Shall Receive", 2510.20475, the hard score. Deviation: w is a
    weight among the tokens of a sequence, whose number of masks stays exact; there it is a probability.
    """

    def __init__(self, num_symbols: int, updates: int) -> None:
        self.updates = updates
        self.weights_V = torch.ones(num_symbols, dtype=torch.float64)
        self._counts = torch.zeros(2, num_symbols, dtype=torch.float64)  # guessed and masked; since the last renewal
        self._pending = torch.zeros(2, num_symbols)  # the same, of this update and rank, on the model's device

    def observe(self, targets_N: Tensor, correct_N: Tensor) -> None:
        """Count masked tokens, without a wait for the device."""
        if self._pending.device != targets_N.device:
            self._pending = torch.zeros_like(self._pending, device=targets_N.device)
        seen_2N = torch.stack((correct_N.float(), torch.ones_like(correct_N, dtype=torch.float32)))
        self._pending.index_add_(1, targets_N, seen_2N)

    def end_update(self, num_updates: int) -> None:
        """Add up the ranks' counts; renew the weights where it is time.

        Args:
            num_updates: this one included.
        """
        if dist.is_initialized():
            dist.all_reduce(self._pending)
        self._counts = self._counts.to(self._pending.device) + self._pending
        self._pending.zero_()
        if num_updates % self.updates == 0:
            correct_V, masked_V = self._counts.cpu()
            missed_V = 1.0 - correct_V / masked_V.clamp(min=1)
            renewed_V = SMOOTHING * self.weights_V + (1.0 - SMOOTHING) * missed_V
            self.weights_V = torch.where(masked_V > 0, renewed_V, self.weights_V).clamp(min=1e-6)
            self._counts.zero_()

    def state(self) -> dict[str, Tensor]:
        """What a resumed run goes on from."""
        return {"weights": self.weights_V, "counts": self._counts.cpu()}

    def resume(self, state: dict[str, Tensor]) -> None:
        """Go on from another run's state."""
        self.weights_V, self._counts = state["weights"], state["counts"]


def draw_masks(
    sample: dict[str, Any],
    masker: Masker,
    *,
    update: int,
    rate: MaskingRate | None,
    law: AdaptiveLaw | None,
    pad_index: int,
    seed: int,
) -> dict[str, Any]:
    """Return the batch of a ``MaskedDataset`` that leaves its masks to the update, with them.

    Args:
        sample: on any device; its ``undrawn`` is the examples on the host, and their epoch.
        update: from 0.
        rate: None for the masker's own.
        law: None for uniform masks.
        pad_index: of <pad>.
        seed: of the run.
    """
    examples, epoch = sample["undrawn"]
    mask_prob = None if rate is None else rate.at(update)
    weights_V = None if law is None else law.weights_V.numpy()
    drawn = [
        replace(
            example,
            masked=masker(example.tokens, epoch=epoch, index=example.index, mask_prob=mask_prob, weights_V=weights_V),
        )
        for example in examples
    ]
    if mask_prob is not None:
        metrics.log_scalar("mask_prob", mask_prob, priority=35, round=4)
    device = sample["net_input"]["src_tokens"].device
    batch = collate(drawn, pad_index, seed=seed, epoch=epoch)

    def ship(tensor: Tensor) -> Tensor:
        pinned = tensor.pin_memory() if device.type == "cuda" else tensor  # then the copy is not waited for
        return pinned.to(device, non_blocking=True)

    return utils.apply_to_sample(ship, batch)
