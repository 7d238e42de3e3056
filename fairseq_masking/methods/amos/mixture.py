"""How AMOS mixes the predictions of its depths: by learned weights, or as its ablations do.

Source: 2204.03243, Eq. 3, Section 5.1 ("Effect of Curriculum Setup") and Table 6; spec/amos.md.
Shapes: N masked tokens, K depths, D width.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fairseq_masking.errors import UserError
from fairseq_masking.modules.encoder import init_bert_weights

__all__ = ["MIXTURES", "Mixture"]

MIXTURES = ("adversarial", "uniform", "random_layer", "layer_switch", "fixed")

_DRAW = 0x64657074  # sets this stream apart from any other SeedSequence((seed, update))


class Mixture(nn.Module):
    """Weights of the depths at each masked token.

    ``adversarial`` is Eq. 3 and has the one parameter, v. The others have none: ``uniform`` weighs all depths
    the same, ``fixed`` as it is told; ``random_layer`` draws one depth an update (in validation one a batch,
    always the same); ``layer_switch`` takes one after the other, each for an equal part of ``max_update`` updates.
    """

    def __init__(
        self,
        kind: str,
        *,
        embed_dim: int,
        num_depths: int,
        weights: Sequence[float] | None = None,
        max_update: int = 0,
        seed: int = 1,
    ) -> None:
        super().__init__()
        if kind not in MIXTURES:
            raise UserError(f"--mixture {kind}: choose one of {', '.join(MIXTURES)}")
        if (kind == "fixed") != (weights is not None):
            raise UserError(
                "--mixture fixed needs --mixture-weights, one a depth"
                if kind == "fixed"
                else f"--mixture-weights are those of --mixture fixed, not of {kind}: leave them out"
            )
        if kind == "layer_switch" and max_update < num_depths:
            raise UserError(
                f"--mixture layer_switch divides the training among {num_depths} depths: give its length,"
                f" --max-update, which is {max_update}"
            )
        self.kind = kind
        self.num_depths = num_depths
        self.fixed = _check_weights(weights or [1 / num_depths] * num_depths, num_depths)
        self.max_update = max_update
        self.seed = seed
        self.num_updates = 0
        # With one depth there is nothing to learn.
        learns = kind == "adversarial" and num_depths > 1
        self.score = nn.Linear(embed_dim, 1, bias=False) if learns else None
        self.apply(init_bert_weights)

    def set_num_updates(self, num_updates: int) -> None:
        """Take the update number from the trainer, which knows it after a resume too."""
        self.num_updates = num_updates

    def forward(self, features_KND: Tensor, given_K: Tensor) -> Tensor:
        """Return the weights ``[N, K]``, fp32 (fp64 for fp64): a softmax of v.f, or ``given_K`` for all."""
        if self.score is None:
            return given_K.expand(features_KND.shape[1], -1)
        scores_KN = self.score(features_KND).squeeze(-1)
        scores_KN = scores_KN if scores_KN.dtype == torch.float64 else scores_KN.float()
        return scores_KN.softmax(dim=0).T

    def given(self, batch_seed: int, like: Tensor) -> Tensor:
        """Return the weights ``[K]`` that do not come from features, for the present update.

        Args:
            batch_seed: ``noise_seed`` of the batch, which draws in place of the update in validation.
            like: gives device and precision: fp32, or fp64 for fp64.
        """
        dtype = torch.promote_types(like.dtype, torch.float32)
        # Filled one by one: a list would be copied to the device, and the host would wait for that.
        return torch.stack(
            [torch.full((), weight, dtype=dtype, device=like.device) for weight in self._on_host(batch_seed)]
        )

    def _on_host(self, batch_seed: int) -> Sequence[float]:
        if self.kind == "random_layer":
            moment = (self.seed, self.num_updates) if self.training else (batch_seed,)
            words = np.random.SeedSequence((_DRAW, *moment)).generate_state(1, np.uint64)
            chosen = int(words[0]) % self.num_depths
        elif self.kind == "layer_switch":
            chosen = min(self.num_depths * self.num_updates // self.max_update, self.num_depths - 1)
        else:
            return self.fixed
        return [float(depth == chosen) for depth in range(self.num_depths)]


def _check_weights(weights: Sequence[float], num_depths: int) -> tuple[float, ...]:
    """Return the weights, which must be one a depth, none negative, 1 together."""
    shown = ",".join(map(str, weights))
    if len(weights) != num_depths:
        raise UserError(f"--mixture-weights {shown}: {num_depths} are needed, one a depth")
    if not all(weight >= 0 for weight in weights) or not math.isclose(sum(weights), 1.0, abs_tol=1e-3):
        raise UserError(f"--mixture-weights {shown}: none negative, and 1 together")
    return tuple(weight / sum(weights) for weight in weights)
