"""A MAP-Net of a few thousand parameters and ragged batches for it: shared by the tests of its parts."""

from argparse import Namespace

import small_batches
import torch
from small_batches import pretraining_task

from fairseq_masking.methods.map_net.criterion import MapNetCriterion, MapNetCriterionConfig
from fairseq_masking.methods.map_net.model import MapNetConfig, MapNetModel

SHAPE = {
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 2,
    "proposal_layers": 2,
    "proposal_embed_dim": 16,
    "proposal_ffn_embed_dim": 32,
    "proposal_attention_heads": 2,
}


def build(device, *, seed=1, sharpen=20.0, **options) -> MapNetModel:
    """Without dropout; ``sharpen`` scales the scores, so that the proposal is far from uniform."""
    torch.manual_seed(0)
    fixed = {"dropout": 0.0, "attention_dropout": 0.0, "max_positions": 32, "seed": seed, "max_update": 0}
    model = MapNetModel.build_model(MapNetConfig(**{**fixed, **SHAPE, **options}), pretraining_task()).to(device)
    with torch.no_grad():
        model.proposal.score.weight.mul_(sharpen)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def criterion_of(**options) -> MapNetCriterion:
    return MapNetCriterion(MapNetCriterionConfig(**options), Namespace())


def batch(device, lengths, *, noise_seed=1, mask_prob=0.3, specials_inside=True, **options):
    """``small_batches.batch`` whose device noise has ``noise_seed``."""
    options = {"mask_prob": mask_prob, "specials_inside": specials_inside, **options}
    sample = small_batches.batch(device, lengths, **options)
    sample["net_input"]["shape"]["noise_seed"] = noise_seed
    return sample
