"""AMOS: a discriminator finds the tokens that an adversarial mixture of generators put into the text.

The generator fills the masked places of the corrupted text at several depths. What the discriminator reads
there is drawn from a mixture of the depths, whose weights learn from the discriminator's reversed gradient.
Source: 2204.03243, Section 3 and 4, Table 6 and 7 (options); spec/amos.md.
Shapes: B batch, T length, N masked tokens, K depths, D width, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, List, NamedTuple, Optional

import torch
import torch.nn.functional as F
from fairseq.dataclass import ChoiceEnum
from fairseq.models import register_model
from omegaconf import II
from torch import Tensor, nn

from fairseq_masking.compat.options import option
from fairseq_masking.errors import UserError
from fairseq_masking.methods.amos.generator import Generator
from fairseq_masking.methods.amos.gumbel_mixture import gumbel_mixture
from fairseq_masking.methods.amos.mixture import MIXTURES, Mixture
from fairseq_masking.methods.base.encoder_model import EncoderModel
from fairseq_masking.methods.base.options import RELATIVE_POSITION_CHOICES, EncoderModelConfig, register_architectures
from fairseq_masking.modules.encoder import init_bert_weights
from fairseq_masking.ops import corrupt_tokens, gather_positions

__all__ = ["GENERATOR_LAYERS", "AmosConfig", "AmosModel", "AmosOutput", "generator_depths"]

# Sets the noise of sampling apart from dropout's, which the task seeds with the batch's noise_seed itself.
_SAMPLING_STREAM = 0x616D6F73

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


class AmosOutput(NamedTuple):
    """What the ``amos`` criterion needs."""

    losses_KN: Tensor  # cross-entropy of every depth in nats, fp32
    predictions_KN: Tensor  # int64 arg max of every depth
    weights_NK: Tensor  # the mixture's, fp32
    sampled_N: Tensor  # int64, what the discriminator reads at the masked places
    detection_losses_BT: Tensor  # binary cross-entropy of the discriminator in nats, fp32, 0 at padding
    detection_logits_BT: Tensor  # fp32, positive where it takes a token for the original
    original_BT: Tensor  # bool, where it reads the original token
    padding_BT: Tensor | None  # bool; None where the batch has none


@register_model("amos", dataclass=AmosConfig)
class AmosModel(EncoderModel):
    """``encoder`` is the discriminator; the generator has no token embeddings but the discriminator's."""

    output_class = AmosOutput
    predicts_with = "generator, its deepest layer"
    tensor_methods = ("predict",)
    base_sizes = GENERATOR_LAYERS["base"]

    def build_pretraining(self, cfg: AmosConfig) -> None:
        """Create the generator, its mixture and the discriminator's head."""
        self.generator = Generator(
            self.encoder.config,
            generator_depths(cfg),
            separate=cfg.separate_generators is not None,
            stop_gradient=not cfg.no_generator_stop_grad,
            impl=str(cfg.ops_impl),
        )
        self.mixture = Mixture(
            str(cfg.mixture),
            embed_dim=cfg.encoder_embed_dim,
            num_depths=len(self.depths),
            weights=cfg.mixture_weights,
            max_update=cfg.max_update,
            seed=cfg.seed,
        )
        # Numbers of their own: torch.compile does not read cfg where that is OmegaConf's.
        self.gumbel_temperature = cfg.gumbel_temperature
        self.adversarial_scale = cfg.adversarial_scale
        self.adversarial_mlm_scale = cfg.adversarial_mlm_scale
        self.detection_head = nn.Linear(cfg.encoder_embed_dim, 1)
        self.detection_head.apply(init_bert_weights)

    @property
    def depths(self) -> tuple[int, ...]:
        """Layers of the generator that predict, ascending."""
        return self.generator.depths

    def pretrain(self, src_tokens: Tensor, *, noise_NV: Tensor | None = None, **batch: Any) -> AmosOutput:
        """Generate, then discriminate.

        Args:
            noise_NV: Gumbel noise to sample with, in place of what the batch's ``noise_seed`` gives.
        """
        masks, padding = (batch["positions"], batch["replacements"]), self.padding_of(src_tokens, batch)
        noise_seed = batch["shape"]["noise_seed"]
        given_K = self.mixture.given(noise_seed, self.encoder.embed_tokens.weight)
        seed = torch.full((), noise_seed ^ _SAMPLING_STREAM, dtype=torch.int64, device=src_tokens.device)
        return AmosOutput(*self.predict(src_tokens, *masks, padding, given_K, seed, noise_NV, batch.get("documents")))

    def predict(
        self,
        src_tokens: Tensor,
        positions: Tensor,
        replacements: Tensor,
        padding_BT: Tensor | None,
        given_K: Tensor,
        seed: Tensor,
        noise_NV: Tensor | None,
        documents_BT: Tensor | None = None,
    ) -> AmosOutput:
        """Return all outputs: all of the model's arithmetic."""
        embedding_VD = self.encoder.embed_tokens.weight
        lm_head = self.generator.lm_head

        corrupted = corrupt_tokens(src_tokens, positions, replacements)
        targets = gather_positions(src_tokens, positions)
        generated = self.generator(self.encoder.embed_tokens(corrupted), positions, padding_BT, documents_BT)
        losses_KN, predictions_KN = lm_head.projected_losses(generated.hidden_KND, embedding_VD, targets)

        weights_NK = self.mixture(generated.features_KND, given_K)
        sampled_N, embedded_ND = gumbel_mixture(
            generated.hidden_KND,
            weights_NK,
            embedding_VD,
            lm_head.bias,
            temperature=self.gumbel_temperature,
            scale=self.adversarial_scale,
            hidden_scale=self.adversarial_mlm_scale,
            seed=seed,
            noise_NV=noise_NV,
            impl=lm_head.impl,
        )

        clean = self.encoder.embed_tokens(src_tokens)
        replaced = clean.flatten(0, 1).index_copy(0, positions, embedded_ND.to(clean.dtype)).view_as(clean)
        where = {"padding_BT": padding_BT, "documents_BT": documents_BT}
        hidden = self.encoder(src_tokens, token_embeddings_BTD=replaced, **where).hidden_BTD
        logits = self.detection_head(hidden).squeeze(-1)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        original = corrupt_tokens(src_tokens, positions, sampled_N) == src_tokens
        detection_losses = F.binary_cross_entropy_with_logits(logits, original.to(logits.dtype), reduction="none")
        if padding_BT is not None:
            detection_losses = detection_losses.masked_fill(padding_BT, 0.0)
        return AmosOutput(
            losses_KN, predictions_KN, weights_NK, sampled_N, detection_losses, logits, original, padding_BT
        )

    def mixture_weights(self, features_KND: Tensor, batch_seed: int) -> Tensor:
        """Return the weights ``[N, K]`` of the depths, fp32, at the present update."""
        return self.mixture(features_KND, self.mixture.given(batch_seed, features_KND))

    def token_states(self, tokens_BT: Tensor) -> list[Tensor]:
        """Return the states ``[B, T, D]`` of the deepest generator: its embedding's and every layer's."""
        padding = tokens_BT.eq(self.pad_index)
        return self.generator.stacks[-1](self.encoder.embed_tokens(tokens_BT), padding)

    def token_logits(self, src_tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        states = self.token_states(src_tokens)[-1]
        states = states if positions is None else gather_positions(states, positions)
        return self.generator.lm_head(states, self.encoder.embed_tokens.weight)


def generator_depths(cfg: AmosConfig) -> list[int]:
    """Return the depths that predict: those of the separate generators, where there are any.

    ``generator_layers`` is never empty: ``--arch``, Hydra's node and every checkpoint hold a row of
    ``GENERATOR_LAYERS`` where nobody chose. Beside separate generators such a row therefore means nothing.
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


register_architectures("amos", AmosConfig, GENERATOR_LAYERS)
