"""``--optimizer fused_adamw``: fairseq's ``adam``, faster, with decay exclusions; fairseq's fp32 masters, faster."""

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, List

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from fairseq.optim.fp16_optimizer import _FP16OptimizerMixin
from omegaconf import II, DictConfig
from torch import Tensor

from fairseq_masking.compat.options import option
from fairseq_masking.compat.patching import replaces
from fairseq_masking.compat.ranges import parse_betas
from fairseq_masking.errors import UserError
from fairseq_masking.optim.adamw import AdamW, clip_grad_norm

__all__ = ["FusedAdamWConfig", "FusedAdamWOptimizer", "flattens", "lr_groups", "overrides_of"]

logger = logging.getLogger(__name__)


@dataclass
class FusedAdamWConfig(FairseqDataclass):
    """Options of ``fused_adamw``; names shared with fairseq's ``adam`` mean the same, with its defaults."""

    # Any, as in fairseq: its recipes write "(0.9, 0.98)" as well as [0.9, 0.98].
    adam_betas: Any = option((0.9, 0.999), "decay rates of Adam's two moments, such as '(0.9, 0.98)'")
    adam_eps: float = option(1e-8, "added to the square root of the second moment before its bias correction")
    weight_decay: float = option(0.0, "decoupled weight decay; a step subtracts lr * weight_decay * weight")
    no_decay_bias_and_norm: bool = option(
        False,
        "no weight decay for biases and LayerNorms, i.e. parameters of one dimension, as BERT"
        " (default: everything decays, as in fairseq's adam)",
    )
    lr: List[float] = II("optimization.lr")  # noqa: RUF009 - a string


@register_optimizer("fused_adamw", dataclass=FusedAdamWConfig)
class FusedAdamWOptimizer(FairseqOptimizer):
    """AdamW in a few kernels, whose numbers are those of fairseq's ``adam``.

    The optimizer gets parameters without their names. A bias and a LayerNorm's weight are known by their one
    dimension; embeddings, relative position tables and projections (to one number, too: ``[1, D]``) have two.

    Raises:
        UserError: exclusions are asked for where ``--fp16`` or ``fully_sharded`` hands all over as one flat vector.
    """

    cfg: FusedAdamWConfig
    stored_options: ClassVar[dict[str, str]] = {
        "betas": "adam-betas",
        "eps": "adam-eps",
        "weight_decay": "weight-decay",
        "decay_vectors": "no-decay-bias-and-norm",
    }

    def __init__(self, cfg: FusedAdamWConfig, params: Iterable[Tensor]) -> None:
        super().__init__(cfg)
        params = list(params)
        if cfg.no_decay_bias_and_norm and all(parameter.dim() <= 1 for parameter in params):
            raise UserError(
                "--no-decay-bias-and-norm: the parameters arrive as flat vectors, in which biases cannot be"
                " told from weights: add --fp16-no-flatten-grads to --fp16, or use another --ddp-backend than"
                " fully_sharded"
            )
        self._optimizer = self.create(params)

    def create(self, params: list[Tensor]) -> AdamW:
        """Return PyTorch's optimizer of these parameters."""
        return AdamW(lr_groups(params), **self.optimizer_config)

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """What the configuration says, as arguments of ``AdamW``."""
        lr = self.cfg.lr
        return {
            "lr": lr[0] if isinstance(lr, Collection) else lr,
            "betas": parse_betas(self.cfg.adam_betas),
            "eps": self.cfg.adam_eps,
            "weight_decay": self.cfg.weight_decay,
            "decay_vectors": not self.cfg.no_decay_bias_and_norm,
        }

    def get_lr(self) -> float:
        """Return the learning rate of what has the whole of it."""
        group = self.param_groups[0]
        return group["lr"] / group["lr_scale"]

    def set_lr(self, lr: float) -> None:
        """Set the learning rate; a group of parameters has its share of it."""
        for group in self.param_groups:
            group["lr"] = lr * group["lr_scale"]

    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Clip all gradients by their joint norm, which is returned."""
        return clip_grad_norm(self.params, max_norm, aggregate_norm_fn)

    def load_state_dict(self, state_dict: dict[str, Any], optimizer_overrides: dict[str, Any] | None = None) -> None:
        """Resume; as with fairseq's optimizers the checkpoint's options win, here with a word about it.

        Raises:
            UserError: the parameters were grouped otherwise.
        """
        scales = [group["lr_scale"] for group in self.param_groups]
        if scales != [group.get("lr_scale", 1.0) for group in state_dict["param_groups"]]:
            raise UserError(
                "the checkpoint was trained with another --layer-lr-decay: give that, or --reset-optimizer"
            )
        super().load_state_dict(state_dict, optimizer_overrides)
        for group, scale in zip(self.param_groups, scales, strict=True):
            group["lr_scale"] = scale  # fairseq's adam has none
        for key, name in self.stored_options.items():
            stored, given = self.param_groups[0][key], self.optimizer_config[key]
            if stored != given:
                logger.warning(
                    f"the checkpoint was trained with another --{name}: {key}={stored} goes on, not {given}; to change"
                    f' it give --optimizer-overrides "{{{key!r}: ...}}"'
                )


def lr_groups(params: Iterable[Tensor], **options: Any) -> list[dict[str, Any]]:
    """Return groups, with ``options``, of what has the same share of the learning rate (methods/base/layer_lr.py)."""
    groups: dict[float, list[Tensor]] = {}
    for parameter in params:
        groups.setdefault(overrides_of(parameter).get("lr_scale", 1.0), []).append(parameter)
    return [{"params": parameters, "lr_scale": scale, **options} for scale, parameters in groups.items()]


def flattens(cfg: DictConfig) -> bool:
    """Whether fairseq hands all parameters over as one vector."""
    masters = cfg.common.fp16 and not (cfg.common.fp16_no_flatten_grads or cfg.common.memory_efficient_fp16)
    return masters or cfg.distributed_training.ddp_backend == "fully_sharded"


def overrides_of(parameter: Tensor) -> dict[str, Any]:
    """Return what a model says of a parameter, where fairseq copies it to the fp32 master, too."""
    return getattr(parameter, "optim_overrides", {}).get("optimizer", {})


# Copies and zeroes of one parameter at a time are 459 of the 1,021 operators of an update of mlm_base in bf16. Here
# they are a few, with the same numbers, for masters that are one flat vector (--fp16) as for one each.


@replaces(_FP16OptimizerMixin, "_sync_fp16_grads_to_fp32")
def _copy_gradients(original: Callable[..., None], self: Any) -> None:
    if not self._needs_sync:
        return
    self._needs_sync = False
    if not self.has_flat_params:
        for parameter, master in zip(self.fp16_params, self.fp32_params, strict=True):
            if master.grad is None and parameter.requires_grad:
                master.grad = torch.zeros_like(master)
    found, targets, without = [], [], []
    for parameter, target in _pairs(self, "grad"):
        if parameter.grad is None:
            without.append(target)
        else:
            found.append(parameter.grad)
            targets.append(target)
    if found:
        torch._foreach_copy_(targets, found)
    if without:
        torch._foreach_zero_(without)


@replaces(_FP16OptimizerMixin, "_sync_fp32_params_to_fp16")
def _copy_weights(original: Callable[..., None], self: Any) -> None:
    pairs = _pairs(self, "data")
    if pairs:
        torch._foreach_copy_([parameter.data for parameter, _ in pairs], [master for _, master in pairs])


@replaces(_FP16OptimizerMixin, "zero_grad")
def _zero_gradients(original: Callable[..., None], self: Any) -> None:
    masters, flat = self.fp32_params, self.has_flat_params
    gradients = [] if flat else [master.grad for master in masters if master.grad is not None]
    if gradients:
        torch._foreach_zero_(gradients)
    try:
        self.fp32_params = masters if flat else []  # nothing is left to zero there
        original(self)
    finally:
        self.fp32_params = masters


def _pairs(self: Any, of: str) -> list[tuple[Tensor, Tensor]]:
    """Return each parameter in half precision with its master's ``data`` or ``grad``, a view of a flat one."""
    if not self.has_flat_params:
        pairs = zip(self.fp16_params, self.fp32_params, strict=True)
        return [(parameter, getattr(master, of)) for parameter, master in pairs if parameter.requires_grad]
    pairs = []
    for device, flat in self.fp32_params.items():
        own = [parameter for parameter in self.fp16_params if parameter.device.index == device]
        parts = getattr(flat, of).split([parameter.numel() for parameter in own])
        pairs += [(parameter, part.view_as(parameter)) for parameter, part in zip(own, parts, strict=True)]
    return pairs
