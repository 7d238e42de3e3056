"""The encoder: padding leaves no trace, positions mean what they say, checkpointing changes nothing."""

import dataclasses

import pytest
import torch

from fairseq_masking.errors import UserError
from fairseq_masking.modules import EncoderConfig, TransformerEncoder

CONFIG = EncoderConfig(
    vocab_size=50, pad_index=1, num_layers=2, embed_dim=16, ffn_dim=24, num_heads=2, max_positions=12,
    dropout=0.0, attention_dropout=0.0,
)  # fmt: skip


def build(device="cpu", **changes):
    torch.manual_seed(3)
    return TransformerEncoder(dataclasses.replace(CONFIG, **changes)).to(device)


def tokens(device="cpu", rows=2, length=9):
    generator = torch.Generator().manual_seed(5)
    return torch.randint(4, 50, (rows, length), generator=generator).to(device)


# Attention in windows and rotary positions, alone and beside learned vectors for offsets.
LOCAL = {"position_encoding": "rotary", "attention_window": 4, "global_attention_every": 2}
KINDS = [{"relative_position": kind} for kind in ("none", "t5", "amos")] + [
    LOCAL,
    {**LOCAL, "relative_position": "t5"},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("normalize_before", [False, True])
def test_padding_leaves_no_trace(kind, normalize_before, device):
    encoder = build(device, **kind, normalize_before=normalize_before).eval()
    short = tokens(device, rows=1, length=6)
    padded = torch.cat([short, short.new_full((1, 3), CONFIG.pad_index)], dim=1)
    alone = encoder(short)[-1]
    together = encoder(padded, padding_BT=padded.eq(CONFIG.pad_index))[-1]
    torch.testing.assert_close(together[:, :6], alone, rtol=1e-5, atol=1e-5)
    unmasked = encoder(padded)[-1]
    assert (unmasked[:, :6] - alone).abs().max() > 1e-4, "without a padding mask the rows must differ"


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_explicit_positions_are_the_places(kind, device):
    encoder = build(device, **kind).eval()
    text = tokens(device)
    places = torch.arange(9, device=device).expand(2, 9)
    torch.testing.assert_close(encoder(text, positions_BT=places)[-1], encoder(text)[-1])
    # A permutation of the tokens together with their places only permutes the states.
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1)).to(device)
    permuted = encoder(text[:, order], positions_BT=places[:, order])[-1]
    torch.testing.assert_close(permuted, encoder(text)[-1][:, order], rtol=1e-5, atol=1e-5)


def test_token_embeddings_replace_the_lookup(device):
    encoder = build(device).eval()
    text = tokens(device)
    embedded = encoder.embed_tokens(text)
    states = encoder(torch.zeros_like(text), token_embeddings_BTD=embedded)[-1]
    torch.testing.assert_close(states, encoder(text)[-1])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_changes_no_gradient(dropout, device):
    gradients = []
    for checkpoint_activations in (False, True):
        encoder = build(
            device, dropout=dropout, attention_dropout=dropout, checkpoint_activations=checkpoint_activations
        ).train()
        torch.manual_seed(7)
        encoder(tokens(device))[-1].square().sum().backward()
        gradients.append([parameter.grad for parameter in encoder.parameters()])
    torch.testing.assert_close(*gradients)


def test_states_are_the_embedding_and_every_layer_the_last_one_normalised():
    for normalize_before in (False, True):
        encoder = build(normalize_before=normalize_before).eval()
        states = encoder(tokens()).states
        assert len(states) == 3
        last = encoder.layers[1](encoder.layers[0](states[0]))
        assert torch.equal(states[-1], encoder.layer_norm(last) if normalize_before else last)


def test_initial_weights_follow_bert():
    encoder = build(vocab_size=4000, embed_dim=64, num_heads=4)
    assert encoder.embed_tokens.weight[CONFIG.pad_index].abs().max() == 0
    assert encoder.embed_tokens.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert encoder.layers[0].self_attn.in_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert encoder.layers[0].fc1.bias.abs().max() == 0


def test_bad_shapes_are_one_clear_line():
    with pytest.raises(UserError, match="12 positions"):
        build()(tokens(length=13))
    with pytest.raises(UserError, match="heads do not divide"):
        build(num_heads=3)
    with pytest.raises(UserError, match="unknown activation"):
        build(activation="gelux")
