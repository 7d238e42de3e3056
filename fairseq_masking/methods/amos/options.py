"""Options of AMOS: its generator, the mixture and the adversary. Read by ``amos``.

Source: 2204.03243, Section 3.3 and 4, Table 6 and 7; spec/amos.md.
"""

from dataclasses import dataclass
from typing import List, Optional

from fairseq.dataclass import ChoiceEnum
from omegaconf import II

from fairseq_masking.compat.options import option
from fairseq_masking.errors import UserError
from fairseq_masking.methods.amos.mixture import MIXTURES
from fairseq_masking.methods.base.options import RELATIVE_POSITION_CHOICES, EncoderModelConfig

__all__ = ["GENERATOR_LAYERS", "AmosConfig", "generator_depths"]

MIXTURE_CHOICES = ChoiceEnum(list(MIXTURES))

GENERATOR_LAYERS = {
    "tiny": {"generator_layers": [1, 2, 3]},
    "small": {"generator_layers": [2, 3, 4]},
    "base": {"generator_layers": [4, 6, 8]},
    "large": {"generator_layers": [8, 12, 16]},
    "modern_tiny": {"generator_layers": [1, 2, 3]},
    "modern_small": {"generator_layers": [2, 3, 4]},
    "modern_base": {"generator_layers": [7, 11, 15]},
    "modern_large": {"generator_layers": [9, 14, 19]},
}


@dataclass
class AmosConfig(EncoderModelConfig):
    """Options of ``amos``; those of the encoder are the discriminator's, and the generator has its width."""

    relative_position: RELATIVE_POSITION_CHOICES = option(
        "t5", "relative position bias beside the absolute positions, in both networks"
    )
    generator_layers: Optional[List[int]] = option(
        None, "depths of the generator that predict, as 4,6,8; the last is its number of layers"
    )
    separate_generators: Optional[List[int]] = option(
        None,
        "in place of --generator-layers: a generator of its own for each of these depths, as"
        " 4,6,8 or 4,4,4; they share token embeddings and prediction head",
    )
    no_generator_stop_grad: bool = option(
        False, "let the loss of a deeper layer of the generator reach the blocks below it"
    )
    mixture: MIXTURE_CHOICES = option(
        "adversarial",
        "how the depths are mixed. adversarial: learned to raise the discriminator's loss;"
        " uniform: all the same; random_layer: one depth an update, drawn; layer_switch: one after the"
        " other, each for an equal part of the training; fixed: by --mixture-weights",
    )
    mixture_weights: Optional[List[float]] = option(None, "weights of --mixture fixed, one a depth, as 0.2,0.3,0.5")
    gumbel_temperature: float = option(0.3, "tau of the Gumbel-softmax that the gradient takes")
    adversarial_scale: float = option(-1.0, "factor of the discriminator's gradient on its way to the mixture weights")
    adversarial_mlm_scale: float = option(
        0.0,
        "factor of that gradient, beside --adversarial-scale, on its way to what is mixed; 0:"
        " none gets there; the paper tried 0.1",
    )
    max_update: int = II("optimization.max_update")
    seed: int = II("common.seed")


def generator_depths(cfg: AmosConfig) -> list[int]:
    """Return the depths that predict: those of the separate generators, where there are any.

    ``generator_layers`` is never empty: ``--arch``, Hydra's node and every checkpoint hold a row of
    ``GENERATOR_LAYERS`` where nobody chose. Beside separate generators such a row therefore means nothing.

    Raises:
        UserError: other depths are given beside the separate generators.
    """
    layers, separate = list(cfg.generator_layers), cfg.separate_generators
    if separate is None:
        return layers
    if {"generator_layers": layers} not in GENERATOR_LAYERS.values():
        raise UserError(
            f"--generator-layers {','.join(map(str, layers))} with --separate-generators"
            f" {','.join(map(str, separate))}: these stand in place of those, leave one of them out"
        )
    return list(separate)
