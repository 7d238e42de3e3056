"""AMOS: a discriminator finds the tokens that an adversarial mixture of generators put into the text.

The generator fills the masked places of the corrupted text at several depths. What the discriminator reads
there is drawn from a mixture of the depths, whose weights learn from the discriminator's reversed gradient.
Source: 2204.03243, Section 3; spec/amos.md.
Shapes: B batch, T length, N masked tokens, K depths, D width, V vocabulary.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from fairseq.models import register_model
from torch import Tensor, nn

from fairseq_masking.methods.amos.generator import Generator
from fairseq_masking.methods.amos.gumbel_mixture import gumbel_mixture
from fairseq_masking.methods.amos.mixture import Mixture
from fairseq_masking.methods.amos.options import GENERATOR_LAYERS, AmosConfig, generator_depths
from fairseq_masking.methods.base.encoder_model import EncoderModel
from fairseq_masking.methods.base.options import register_architectures
from fairseq_masking.modules.encoder import init_bert_weights
from fairseq_masking.ops import corrupt_tokens, gather_positions

__all__ = ["AmosModel", "AmosOutput"]

# Sets the noise of sampling apart from dropout's, which the task seeds with the batch's noise_seed itself.
_SAMPLING_STREAM = 0x616D6F73


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

    def pretrain(
        self,
        src_tokens: Tensor,
        *,
        positions: Tensor,
        replacements: Tensor,
        shape: dict[str, Any],
        documents: Tensor | None = None,
        noise_NV: Tensor | None = None,
        **_: Any,
    ) -> AmosOutput:
        """Generate, then discriminate.

        Args:
            noise_NV: Gumbel noise to sample with, in place of what the batch's ``noise_seed`` gives.
        """
        device, seed = src_tokens.device, shape["noise_seed"]
        return AmosOutput(
            *self.predict(
                src_tokens,
                positions,
                replacements,
                src_tokens.eq(self.pad_index) if shape["has_padding"] else None,
                self.mixture.given(seed, self.encoder.embed_tokens.weight),
                torch.full((), seed ^ _SAMPLING_STREAM, dtype=torch.int64, device=device),
                noise_NV,
                documents,
            )
        )

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
        hidden = self.encoder(
            src_tokens, token_embeddings_BTD=replaced, padding_BT=padding_BT, documents_BT=documents_BT
        ).hidden_BTD
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
        """Return the logits ``[B, T, V]`` of a text with <mask>s in it, or ``[N, V]``, by the deepest generator."""
        states = self.token_states(src_tokens)[-1]
        states = states if positions is None else gather_positions(states, positions)
        return self.generator.lm_head(states, self.encoder.embed_tokens.weight)


register_architectures("amos", AmosConfig, GENERATOR_LAYERS)
