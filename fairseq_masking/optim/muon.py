"""``--optimizer muon``: orthogonalised momentum for the matrices of the layers, AdamW for all else.

For a layer's matrix W, its gradient G and a buffer M (at first 0), with momentum m, as in ``torch.optim.Muon``:

    M <- m M + (1 - m) G        D = m M + (1 - m) G (Nesterov)        O = Newton-Schulz(D)
    W <- W - lr weight_decay W - lr scale O

Query, key and value are a matrix each, also where a layer keeps them below one another. Embeddings, norms,
biases, heads and what leads into a network of layers or out of it are ``fused_adamw``'s. A schedule moves both
learning rates in step.

Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; Liu et al. 2025 (2502.16982), Section 2.2,
``match_rms_adamw``.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Optional

import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.optim import register_optimizer
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from fairseq_masking.compat.options import option
from fairseq_masking.compat.patching import replaces
from fairseq_masking.errors import UserError
from fairseq_masking.modules.encoder import LayerStack
from fairseq_masking.optim.adamw import AdamW, chunks, moment_dtype
from fairseq_masking.optim.fused_adamw import FusedAdamWConfig, FusedAdamWOptimizer, flattens, lr_groups, overrides_of
from fairseq_masking.optim.newton_schulz import newton_schulz, precision

__all__ = ["Muon", "MuonConfig", "MuonOptimizer", "check_whole_matrices", "mark_matrices"]

logger = logging.getLogger(__name__)

SCALES: dict[str, Callable[[int, int], float]] = {
    "original": lambda rows, columns: math.sqrt(max(1, rows / columns)),
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
}
OWN = ("momentum", "ns_steps", "adjust_lr_fn")  # what a checkpoint keeps of Muon's options
ADJUST_LR_CHOICES = ChoiceEnum(list(SCALES))


@dataclass
class MuonConfig(FusedAdamWConfig):
    """Options of ``muon``: those of ``torch.optim.Muon`` beside those of ``fused_adamw``, which has the rest."""

    adamw_lr: Optional[float] = option(
        None,
        "highest learning rate of all that Muon leaves to AdamW (embeddings, norms, biases, heads), where --lr is"
        " Muon's; the schedule holds for both (default: --lr, with --adjust-lr-fn match_rms_adamw only)",
    )
    momentum: float = option(0.95, "decay rate of Muon's (Nesterov) momentum")
    ns_steps: int = option(5, "Newton-Schulz steps that orthogonalise an update")
    adjust_lr_fn: ADJUST_LR_CHOICES = option(
        "original",
        "factor of a matrix's learning rate. original: sqrt(max(1, rows / columns)), with --lr near 0.02;"
        " match_rms_adamw: 0.2 sqrt(max(rows, columns)), with a rate as AdamW's",
    )


class Muon(AdamW):
    """Muon for groups whose ``num_matrices`` is above 0, AdamW for the others.

    Momentum is fp32 whatever the parameters are. Matrices of one shape are orthogonalised together.

    Args:
        groups: with ``lr_scale`` and ``num_matrices``, which lie below one another in a parameter; where that is
            not 0, with ``momentum``, ``ns_steps`` and ``adjust_lr_fn``, too.
    """

    kept = (*AdamW.kept, "momentum_buffer")
    supports_flat_params = False

    def update_groups(self, groups: Iterable[dict[str, Any]]) -> None:
        """Update the parameters of some groups."""
        groups = list(groups)
        super().update_groups(group for group in groups if not group["num_matrices"])
        alike: dict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
        number_of: dict[Tensor, int] = {}
        for group in groups:
            for parameter in group["params"] if group["num_matrices"] else ():
                if parameter.grad is not None:
                    number_of[parameter] = group["num_matrices"]
                    shape = (parameter.shape[0] // group["num_matrices"], parameter.shape[1])
                    options = (group["lr"], group["weight_decay"], *(group[name] for name in OWN))
                    alike[*shape, parameter.dtype, parameter.device, *options].append(parameter)
        for (rows, columns, _, _, *options), parameters in alike.items():
            for chunk in chunks(parameters):
                self._update_matrices(chunk, [number_of[parameter] for parameter in chunk], (rows, columns), *options)

    def _update_matrices(
        self,
        parameters: list[Tensor],
        numbers: list[int],
        shape: tuple[int, int],
        lr: float,
        weight_decay: float,
        momentum: float,
        ns_steps: int,
        adjust_lr_fn: str,
    ) -> None:
        """Update parameters of so many matrices each, all of one shape, precision and rate."""
        dtype = moment_dtype(parameters[0])
        gradients = [parameter.grad.to(dtype) for parameter in parameters if parameter.grad is not None]
        buffers = [self._buffer(parameter, dtype) for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        directions_KRC = torch.cat(torch._foreach_lerp(gradients, buffers, momentum)).unflatten(0, (-1, shape[0]))
        updates_KRC = newton_schulz(directions_KRC.to(precision(parameters[0])), ns_steps).to(dtype)
        updates = [own.flatten(0, 1) for own in updates_KRC.split(numbers)]
        weights = [parameter.to(dtype) for parameter in parameters]
        torch._foreach_mul_(weights, 1 - lr * weight_decay)
        torch._foreach_add_(weights, updates, alpha=-lr * SCALES[adjust_lr_fn](*shape))
        if parameters[0].dtype != dtype:
            torch._foreach_copy_(parameters, weights)

    def _buffer(self, parameter: Tensor, dtype: torch.dtype) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter, dtype=dtype)
        return state["momentum_buffer"]


@register_optimizer("muon", dataclass=MuonConfig)
class MuonOptimizer(FusedAdamWOptimizer):
    """Muon for the parameters that ``mark_matrices`` has marked, ``fused_adamw`` for the others.

    Raises:
        UserError: an option makes no sense, or no parameter is marked.
    """

    cfg: MuonConfig
    stored_options: ClassVar[dict[str, str]] = {
        **FusedAdamWOptimizer.stored_options,
        **{name: name.replace("_", "-") for name in OWN},
    }

    def create(self, params: list[Tensor]) -> AdamW:
        """Return PyTorch's optimizer of these parameters."""
        if self.cfg.adamw_lr is None and str(self.cfg.adjust_lr_fn) == "original":
            raise UserError(
                "--optimizer muon: give --adamw-lr, such as 3e-3, for what Muon leaves to AdamW; or"
                " --adjust-lr-fn match_rms_adamw, with which --lr serves both"
            )
        if not (lr := self.optimizer_config["lr"]) > 0:
            raise UserError(f"--lr {lr}: give a rate above 0, such as 0.02")
        marked: dict[int, list[Tensor]] = defaultdict(list)
        for parameter in params:
            marked[overrides_of(parameter).get("num_matrices", 0)].append(parameter)
        rest = marked.pop(0, [])
        if not marked:
            raise UserError(
                "--optimizer muon: found no matrices of layers among the parameters; it knows those of this package's"
                " models, as long as they are not flattened: use --optimizer fused_adamw for others"
            )
        config = self.optimizer_config
        own = {name: config.pop(name) for name in OWN}
        groups = [g for number, found in marked.items() for g in lr_groups(found, num_matrices=number, **own)]
        _tell_split(marked, rest)
        return Muon([*groups, *lr_groups(rest, num_matrices=0, **own)], **config)

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """What the configuration says, as arguments of ``AdamW`` and values of Muon's groups."""
        own = {"momentum": self.cfg.momentum, "ns_steps": self.cfg.ns_steps}
        return {**super().optimizer_config, **own, "adjust_lr_fn": str(self.cfg.adjust_lr_fn)}

    def set_lr(self, lr: float) -> None:
        """Set Muon's learning rate, and AdamW's to the same share of its own."""
        super().set_lr(lr)
        if self.cfg.adamw_lr is not None:
            for group in self.param_groups:
                if not group["num_matrices"]:
                    group["lr"] *= self.cfg.adamw_lr / self.optimizer_config["lr"]


def mark_matrices(model: nn.Module) -> None:
    """Mark the weights of all linear maps inside the layers of a model's networks with their number of matrices.

    The mark is an attribute that fairseq copies to the fp32 masters of half-precision training.
    """
    for stack in model.modules():
        for module in stack.layers.modules() if isinstance(stack, LayerStack) else ():
            stacked = getattr(module, "stacked", {})
            for name, linear in module.named_children():
                if isinstance(linear, nn.Linear):
                    overrides = {**overrides_of(linear.weight), "num_matrices": stacked.get(name, 1)}
                    linear.weight.optim_overrides = {"optimizer": overrides}  # type: ignore[assignment]


def check_whole_matrices(cfg: DictConfig) -> None:
    """Refuse what would hand ``--optimizer muon`` no matrices.

    Raises:
        UserError: parameters would come as vectors, or spread over ranks.
    """
    if OmegaConf.select(cfg, "optimizer._name") != "muon":
        return
    if flattens(cfg):
        raise UserError(
            "--optimizer muon needs whole matrices: add --fp16-no-flatten-grads to --fp16, leave out --ddp-backend"
            " fully_sharded"
        )


@replaces("fairseq.trainer:Trainer", "_build_optimizer")
def _mark_and_build(original: Callable[..., None], self: Any) -> None:
    if OmegaConf.select(self.cfg, "optimizer._name") == "muon":
        mark_matrices(self.model)
    original(self)


def _tell_split(marked: dict[int, list[Tensor]], rest: list[Tensor]) -> None:
    found = [parameter for parameters in marked.values() for parameter in parameters]
    count = sum(number * len(parameters) for number, parameters in marked.items())
    dtype = precision(found[0])
    slow = ", for lack of bfloat16 instructions" if dtype == torch.float32 else ""
    ours, others = (sum(parameter.numel() for parameter in parameters) for parameters in (found, rest))
    logger.info(
        f"muon: {count} matrices, {ours:,} values, orthogonalised in {str(dtype).removeprefix('torch.')}{slow};"
        f" fused AdamW: the other {others:,} values"
    )
