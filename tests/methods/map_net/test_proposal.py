"""The proposal network alone: its own positions, its limits, activation checkpointing."""

from dataclasses import replace

import pytest
import torch

from fairseq_masking.errors import UserError
from fairseq_masking.methods.map_net.proposal import ProposalNetwork
from fairseq_masking.modules.encoder import EncoderConfig

CONFIG = EncoderConfig(
    vocab_size=1,
    pad_index=0,
    num_layers=2,
    embed_dim=16,
    ffn_dim=32,
    num_heads=2,
    max_positions=12,
    dropout=0.0,
    attention_dropout=0.0,
)


def network(device, **options):
    torch.manual_seed(0)
    return ProposalNetwork(replace(CONFIG, **options), input_dim=24).to(device).train()


def inputs(device, length=10):
    torch.manual_seed(1)
    maskable = torch.ones(3, length, dtype=torch.bool, device=device)
    maskable[:, 0] = maskable[:, -1] = False
    return torch.randn(3, length, 24, device=device), maskable


@pytest.mark.parametrize("normalize_before", [False, True])
def test_checkpointing_activations_changes_nothing(normalize_before, device):
    results = []
    for checkpoint_activations in (False, True):
        model = network(device, normalize_before=normalize_before, checkpoint_activations=checkpoint_activations)
        log_p = model(*inputs(device))
        log_p[:, 3].sum().backward()
        results.append([log_p, *(p.grad for p in model.parameters())])
    for plain, again in zip(*results, strict=True):
        torch.testing.assert_close(plain, again)


def test_equal_tokens_differ_by_their_place(device):
    embeddings, maskable = inputs(device)
    log_p = network(device)(embeddings[:, :1].expand_as(embeddings), maskable)
    assert log_p[:, 1:-1].std(dim=1).min() > 1e-6


def test_more_tokens_than_positions(device):
    with pytest.raises(UserError, match="13 tokens are more than the proposal network's 12 positions"):
        network(device)(*inputs(device, length=13))


def test_uniform_where_the_scores_say_nothing(device):
    model = network(device)
    torch.nn.init.zeros_(model.score.weight)
    log_p = model(*inputs(device))
    torch.testing.assert_close(log_p[:, 1:-1].exp(), torch.full((3, 8), 1 / 8, device=device))
    assert (log_p[:, 0] == -torch.inf).all()
