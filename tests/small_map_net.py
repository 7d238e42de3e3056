"""A MAP-Net of a few thousand parameters and ragged batches for it: shared by the tests of its parts."""

from argparse import Namespace

import numpy as np
import torch
from fairseq.data import Dictionary

from fairseq_masking.criterions.map_net import MapNetCriterion, MapNetCriterionConfig
from fairseq_masking.data import MaskedExample, collate
from fairseq_masking.masking import Masker, MaskingConfig, MaskingVocabulary
from fairseq_masking.models.map_net import MapNetConfig, MapNetModel

NUM_SYMBOLS, MASK_INDEX = 45, 44  # 4 of fairseq's own, 40 words, <mask>
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


def dictionary() -> Dictionary:
    result = Dictionary()
    for index in range(40):
        result.add_symbol(f"w{index}")
    result.add_symbol("<mask>")
    return result


def build(device, *, seed=1, sharpen=20.0, **options) -> MapNetModel:
    """Without dropout; ``sharpen`` scales the scores, so that the proposal is far from uniform."""
    torch.manual_seed(0)
    cfg = MapNetConfig(**{"dropout": 0.0, "attention_dropout": 0.0, "max_positions": 32, **SHAPE, **options})
    task = Namespace(source_dictionary=dictionary(), cfg=Namespace(seed=seed))
    model = MapNetModel.build_model(cfg, task).to(device)
    with torch.no_grad():
        model.proposal.score.weight.mul_(sharpen)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def criterion_of(**options) -> MapNetCriterion:
    return MapNetCriterion(MapNetCriterionConfig(**options), Namespace())


def batch(device, lengths, *, noise_seed=1, mask_prob=0.3, num_splits=1, specials_inside=True):
    """A batch as the task makes it, with ids 0 and 2 around each row and now and then a </s> inside."""
    vocabulary = MaskingVocabulary.build(NUM_SYMBOLS, special_ids=range(4), mask_index=MASK_INDEX)
    masker = Masker(MaskingConfig(mask_prob=mask_prob, num_splits=num_splits), vocabulary)
    rng = np.random.default_rng(0)
    items = []
    for index, length in enumerate(lengths):
        tokens = np.concatenate([[0], rng.integers(4, 44, length - 2), [2]])
        if specials_inside and length > 8:
            tokens[5] = 2
        items.append(MaskedExample(index, tokens, masker(tokens, epoch=1, index=index), num_splits))
    sample = collate(items, 1)
    sample["net_input"] = {
        key: value.to(device) if torch.is_tensor(value) else value
        for key, value in sample["net_input"].items()
    }
    sample["net_input"]["shape"]["noise_seed"] = noise_seed
    return sample
