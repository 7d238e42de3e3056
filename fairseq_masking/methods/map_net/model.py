"""MAP-Net: an encoder, and a proposal network that learns which positions the encoder finds hard.

In each update a sentence is masked uniformly (it explores) or where the proposal network draws. The batch
brings uniform masks; a proposed sentence keeps their number and their kinds and changes their places.
Source: 2008.05333, Section 3.3 and 4.1.1; spec/map_net.md.
Shapes: B rows, T length, N masked tokens, V vocabulary.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Optional

import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.models import register_model
from omegaconf import II
from torch import Tensor, nn

from fairseq_masking.compat.options import option
from fairseq_masking.corpus.dictionary import masking_vocabulary
from fairseq_masking.methods.base.options import SIZES, EncoderModelConfig, register_architectures
from fairseq_masking.methods.map_net.proposal import ProposalNetwork
from fairseq_masking.methods.map_net.ragged import RaggedRows
from fairseq_masking.methods.map_net.sampling import EXPLORE_UNITS, Exploration, draw_replacements, propose_masks
from fairseq_masking.methods.mlm.model import MLMConfig, MLMModel
from fairseq_masking.ops import gather_positions

__all__ = ["PROPOSAL_SIZES", "MapNetConfig", "MapNetModel", "MapNetOutput"]

logger = logging.getLogger(__name__)

EXPLORE_UNIT_CHOICES = ChoiceEnum(list(EXPLORE_UNITS))
LEARN_FROM_CHOICES = ChoiceEnum(["all", "proposed"])

# Half as wide as the encoder, and as deep.
PROPOSAL_SIZES = {
    size: {
        "proposal_layers": encoder.encoder_layers,
        "proposal_embed_dim": encoder.encoder_embed_dim // 2,
        "proposal_ffn_embed_dim": encoder.encoder_ffn_embed_dim // 2,
        "proposal_attention_heads": encoder.encoder_attention_heads // 2,
    }
    for size, encoder in SIZES.items()
}

# Sets the masks' stream apart from dropout's, which the task seeds with the batch's noise_seed itself.
_MASK_STREAM = 0x6D61706E


@dataclass
class MapNetConfig(MLMConfig):
    """Options of ``map_net`` beside the encoder's; dropout and activation are shared by both networks."""

    proposal_layers: Optional[int] = option(None, "number of layers of the proposal network")
    proposal_embed_dim: Optional[int] = option(None, "width of the proposal network")
    proposal_ffn_embed_dim: Optional[int] = option(None, "inner width of the proposal network's feed-forward layers")
    proposal_attention_heads: Optional[int] = option(None, "number of attention heads of the proposal network")
    explore_start: float = option(1.0, "probability of uniform masks at the first update")
    explore_end: float = option(0.33, "probability of uniform masks from --explore-updates on")
    explore_updates: Optional[int] = option(
        None, "updates over which that probability falls linearly; by default --max-update"
    )
    explore_unit: EXPLORE_UNIT_CHOICES = option(
        "sentence", "toss the coin for each sentence, or once for all sentences of an update"
    )
    proposal_learn_from: LEARN_FROM_CHOICES = option(
        "all", "train the proposal network on all sentences, or on those that it masked"
    )
    seed: int = II("common.seed")
    max_update: int = II("optimization.max_update")


class MapNetOutput(NamedTuple):
    """What the ``map_net`` criterion needs."""

    losses_N: Tensor  # cross-entropy in nats, fp32
    predictions_N: Tensor  # int64 arg max
    positions_N: Tensor  # int64 flat positions that were masked, in the order of the batch's ``kinds``
    drawn_N: Tensor  # the same positions, those of a proposed row in the order in which they were drawn
    proposed_B: Tensor  # bool, rows that the proposal network masked
    learning_B: Tensor  # bool, rows that the proposal network learns from
    log_proposal_BT: Tensor | None  # fp32 log p_prop, -inf at what is never masked; None where the network did not run


class _Masks(NamedTuple):
    """Masks of a batch; the names are those of ``MapNetOutput`` and of the batch."""

    positions_N: Tensor
    drawn_N: Tensor
    replacements_N: Tensor
    proposed_B: Tensor


@register_model("map_net", dataclass=MapNetConfig)
class MapNetModel(MLMModel):
    """The encoder and head of ``mlm``, and a proposal network on the encoder's token embeddings."""

    output_class = MapNetOutput
    tensor_methods = ("predict", "propose")
    base_sizes = PROPOSAL_SIZES["base"]

    special_V: Tensor
    allowed_R: Tensor

    @classmethod
    def build_model(cls, cfg: MapNetConfig, task: Any) -> "MapNetModel":
        """Build from a config; sizes that neither an option nor ``--arch`` gave are those of ``base``."""
        model = super().build_model(cfg, task)
        if model.pretrains:
            model.learn_vocabulary(task.source_dictionary)
        return model

    def build_pretraining(self, cfg: EncoderModelConfig) -> None:
        """Create the prediction head and the proposal network."""
        super().build_pretraining(cfg)
        updates = cfg.explore_updates
        if updates is None:
            known = isinstance(cfg.max_update, int)  # a configuration built by hand names where it would stand
            updates = (known and cfg.max_update) or Exploration.updates
            logger.info("exploration falls over %d updates (--explore-updates)", updates)
        self.exploration = Exploration(cfg.explore_start, cfg.explore_end, updates, str(cfg.explore_unit))
        self.learn_from_all = str(cfg.proposal_learn_from) == "all"
        self.seed = cfg.seed
        self.num_updates = 0
        config = replace(
            self.encoder.config,
            num_layers=cfg.proposal_layers,
            embed_dim=cfg.proposal_embed_dim,
            ffn_dim=cfg.proposal_ffn_embed_dim,
            num_heads=cfg.proposal_attention_heads,
        )
        self.proposal = ProposalNetwork(config, input_dim=cfg.encoder_embed_dim)

    def learn_vocabulary(self, dictionary: Any) -> None:
        """Note which symbols are never masked, and which a random token may be: no part of a checkpoint."""
        vocabulary = masking_vocabulary(dictionary, folder=Path())
        self.register_buffer("special_V", torch.from_numpy(vocabulary.special), persistent=False)
        self.register_buffer("allowed_R", torch.from_numpy(vocabulary.replacements), persistent=False)

    def set_num_updates(self, num_updates: int) -> None:
        """Take the update number from the trainer, which knows it after a resume too."""
        super().set_num_updates(num_updates)
        self.num_updates = num_updates

    def pretrain(self, src_tokens: Tensor, **batch: Any) -> MapNetOutput:
        """Predict the tokens that the batch masked uniformly, or the proposal network in their place.

        Outside of training all masks are the batch's, and the proposal network does not run.
        """
        documents, padding = batch.get("documents"), self.padding_of(src_tokens, batch)
        nobody_B = torch.zeros_like(batch["num_masked"], dtype=torch.bool)
        masks = _Masks(batch["positions"], batch["positions"], batch["replacements"], nobody_B)
        log_proposal_BT = None
        explore = 1.0  # the share of uniform masks; a number of the host, the same on all ranks
        if self.training:
            explore = self.exploration.probability_for_batch(self.seed, self.num_updates)
        if explore < 1.0 or (self.training and self.learn_from_all):
            log_proposal_BT = self.propose(src_tokens, batch["shape"]["has_padding"], documents)
        if explore < 1.0:
            masks = self._draw_masks(masks, log_proposal_BT, explore, src_tokens, batch)
        losses, predictions = self.predict(src_tokens, masks.positions_N, masks.replacements_N, padding, documents)
        if self.training and log_proposal_BT is None:
            losses = losses + _nothing_of(self.proposal)
        learning_B = ~nobody_B if self.learn_from_all else masks.proposed_B
        drawn = masks.positions_N, masks.drawn_N, masks.proposed_B
        return MapNetOutput(losses, predictions, *drawn, learning_B, log_proposal_BT)

    def _draw_masks(
        self, uniform: _Masks, log_proposal_BT: Tensor, explore: float, src_tokens: Tensor, batch: dict[str, Any]
    ) -> _Masks:
        """Toss a coin for each row, and mask anew those that do not explore."""
        device, kinds, num_masked, shape = src_tokens.device, batch["kinds"], batch["num_masked"], batch["shape"]
        generator = torch.Generator(device).manual_seed(shape["noise_seed"] ^ _MASK_STREAM)
        coins_B = torch.rand(num_masked.shape, generator=generator, device=device)
        proposed_B = coins_B >= explore
        layout = RaggedRows.of(num_masked, num_values=len(kinds), width=shape["max_masked"])
        drawn = propose_masks(log_proposal_BT, layout, generator)
        targets_N = gather_positions(src_tokens, drawn.positions_N)
        replacements_N = draw_replacements(targets_N, kinds, self.mask_index, self.allowed_R, generator)
        proposed_N = layout.spread(proposed_B)
        anew = zip((*drawn, replacements_N), uniform[:3], strict=True)
        return _Masks(*(torch.where(proposed_N, new_N, old_N) for new_N, old_N in anew), proposed_B)

    def propose(self, src_tokens: Tensor, has_padding: bool = True, documents_BT: Tensor | None = None) -> Tensor:
        """Return log p_prop of clean text: fp32 ``[B, T]`` in nats, -inf at special tokens and padding."""
        padding_BT = src_tokens.eq(self.pad_index) if has_padding else None
        maskable_BT = ~self.special_V[src_tokens]
        return self.proposal(self.encoder.embed_tokens(src_tokens), maskable_BT, padding_BT, documents_BT)


def _nothing_of(module: nn.Module) -> Tensor:
    """0 that depends on every parameter, as DDP wants a gradient for each."""
    return 0.0 * torch.stack([parameter.flatten()[:1].float().sum() for parameter in module.parameters()]).sum()


register_architectures("map_net", MapNetConfig, PROPOSAL_SIZES)
