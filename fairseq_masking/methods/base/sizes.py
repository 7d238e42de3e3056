"""One table of sizes, from which both fairseq's ``--arch`` functions and Hydra's model nodes are made."""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fairseq.models import register_model_architecture
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, open_dict

from fairseq_masking.methods.base.options import EncoderModelConfig

__all__ = ["SIZES", "fill_in_missing", "register_architectures"]


@dataclass(frozen=True)
class _Size:
    encoder_layers: int
    encoder_embed_dim: int
    encoder_ffn_embed_dim: int
    encoder_attention_heads: int


SIZES = {
    "tiny": _Size(2, 128, 512, 2),
    "small": _Size(6, 256, 1024, 4),
    "base": _Size(12, 768, 3072, 12),
    "large": _Size(24, 1024, 4096, 16),
}


def fill_in_missing(cfg: Namespace | DictConfig, values: Mapping[str, Any]) -> None:
    """Write ``values`` where ``cfg`` says nothing: an explicit option always wins."""
    missing = {key: value for key, value in values.items() if getattr(cfg, key, None) is None}
    if isinstance(cfg, DictConfig):
        with open_dict(cfg):
            cfg.update(missing)
    else:
        vars(cfg).update(missing)


def register_architectures(
    model: str, config_class: type[EncoderModelConfig], extra: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Register ``{model}_tiny|small|base|large`` for ``--arch`` and for Hydra's ``model=``.

    Args:
        extra: by size, values of the model's own options beside the encoder's.
    """
    for size, encoder in SIZES.items():
        values = {**vars(encoder), **(extra or {}).get(size, {})}
        name = f"{model}_{size}"
        register_model_architecture(model, name)(lambda cfg, values=values: fill_in_missing(cfg, values))
        node = replace(config_class(), **values)
        node._name = name
        ConfigStore.instance().store(name=name, group="model", node=node, provider="fairseq_masking")
