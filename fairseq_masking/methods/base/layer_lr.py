"""``--layer-lr-decay``: lower layers learn more slowly when fine-tuning.

A parameter carries its share of the learning rate in the attribute in which fairseq's composite optimizer
looks for it too, and which fairseq copies to the fp32 masters of half-precision training.

Source: Howard & Ruder 2018 (discriminative fine-tuning); Clark et al. 2020 (ELECTRA), Section 3.1.
"""

from omegaconf import DictConfig, OmegaConf
from torch import nn

from fairseq_masking.errors import UserError
from fairseq_masking.optim.fused_adamw import flattens

__all__ = ["check_optimizer", "scale_learning_rates"]


def scale_learning_rates(encoder: nn.Module, num_layers: int, decay: float) -> None:
    """Mark every parameter of an encoder: embeddings learn at decay^(L+1), layer l of 1..L at decay^(L+1-l).

    Heads, and the final LayerNorm of a pre-LN encoder, keep the whole rate. The relative positions, which all
    layers share, count as embeddings.
    """
    if decay == 1:
        return
    for name, parameter in encoder.named_parameters():
        first, second, *_ = *name.split("."), ""
        depth = int(second) + 1 if first == "layers" else num_layers + 1 if first == "layer_norm" else 0
        parameter.param_group = f"depth_{depth}"  # type: ignore[attr-defined]
        overrides = {"optimizer": {"lr_scale": decay ** (num_layers + 1 - depth)}}
        parameter.optim_overrides = overrides  # type: ignore[attr-defined]


def check_optimizer(cfg: DictConfig) -> None:
    """Refuse optimizers that would not look at the marks, and a flat vector of all parameters."""
    decay = getattr(OmegaConf.select(cfg, "model"), "layer_lr_decay", 1.0)
    if decay == 1:
        return
    name = OmegaConf.select(cfg, "optimizer._name")
    if name not in (None, "fused_adamw", "muon"):
        raise UserError(f"--layer-lr-decay {decay} needs --optimizer fused_adamw or muon, not {name}")
    if flattens(cfg):
        raise UserError(
            f"--layer-lr-decay {decay}: --fp16 and fully_sharded hand all parameters over as one vector: add"
            " --fp16-no-flatten-grads, or use another --ddp-backend"
        )
