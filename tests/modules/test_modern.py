"""Today's encoder: its modules against naive references, the whole of it against transformers' ModernBERT."""

import dataclasses

import pytest
import torch

from fairseq_masking.errors import UserError
from fairseq_masking.modules import EncoderConfig, TransformerEncoder
from fairseq_masking.modules.attention import CrossAttention, rotate, rotation_of
from fairseq_masking.modules.config import KIND_OPTIONS, EncoderKind
from fairseq_masking.modules.reach import reach_of, window_mask

MODERN = EncoderConfig(
    vocab_size=50, pad_index=1, num_layers=4, embed_dim=16, ffn_dim=24, num_heads=2, max_positions=40, dropout=0.0,
    attention_dropout=0.0, normalize_before=True, skip_first_norm=True, position_encoding="rotary",
    rope_theta=160_000.0, rope_local_theta=100.0, feed_forward="glu", no_attention_bias=True,
    no_feed_forward_bias=True, no_norm_bias=True, no_head_bias=True, attention_window=6,
)  # fmt: skip


def build(**changes):
    torch.manual_seed(3)
    encoder = TransformerEncoder(dataclasses.replace(MODERN, **changes)).eval()
    for parameter in encoder.parameters():  # BERT's small initial weights would make attention nearly uniform
        torch.nn.init.normal_(parameter, mean=0.1, std=0.3)
    return encoder


def tokens(rows=2, length=20):
    return torch.randint(4, 50, (rows, length), generator=torch.Generator().manual_seed(5))


def test_rotary_positions_turn_complex_numbers():
    """Value and gradient against exp(i * place * theta^(-2k/C)), computed with complex numbers in fp64."""
    generator = torch.Generator().manual_seed(0)
    vectors, upstream = (torch.randn(2, 5, 3, 4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    places = torch.tensor([[0, 1, 2, 7, 300], [4, 3, 2, 1, 0]])
    vectors.requires_grad_()
    turned = rotate(vectors, rotation_of(places, 6, 50.0, torch.float64))
    frequencies = torch.tensor([50.0 ** (-2 * k / 6) for k in range(3)], dtype=torch.float64)
    turns = torch.polar(torch.ones(()).double(), places[..., None] * frequencies)[:, :, None, None]
    planes = torch.complex(vectors[..., :3], vectors[..., 3:]) * turns
    expected = torch.cat([planes.real, planes.imag], dim=-1)
    torch.testing.assert_close(turned, expected)
    got, wanted = (torch.autograd.grad((value * upstream).sum(), vectors)[0] for value in (turned, expected))
    torch.testing.assert_close(got, wanted)
    precise = rotation_of(torch.tensor([[4001]]), 6, 50.0, torch.float32)
    torch.testing.assert_close(rotation_of(torch.tensor([[4001]]), 6, 50.0, torch.bfloat16), precise.bfloat16())


def test_a_window_is_what_a_loop_over_pairs_says():
    places = torch.tensor([[0, 1, 2, 3, 9, 4], [7, 6, 1, 0, 2, 5]])
    mask = window_mask(places, 5)[:, 0]
    for row, (first, second) in ((r, pair) for r in range(2) for pair in torch.cartesian_prod(*[torch.arange(6)] * 2)):
        assert mask[row, first, second] == (abs(int(places[row, first] - places[row, second])) <= 2)
    padded = torch.tensor([[True] * 2 + [False] * 4])[:, None, None, :]
    reached = reach_of(padded, window_mask(torch.arange(6)[None], 2), None)[0, 0]
    assert reached.any(1).all(), "a softmax over nothing is no number"
    assert reached[:2, 2:].sum() == 0 and reached[1, 0] and reached[5, 5]


def test_the_kinds_of_norm_are_their_formulas():
    values = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    root = (values.square().mean(1, keepdim=True) + 0.1).sqrt()
    torch.testing.assert_close(dataclasses.replace(MODERN, norm="rms_norm").build_norm(0.1, 8)(values), values / root)
    centred = values - values.mean(1, keepdim=True)
    torch.testing.assert_close(
        MODERN.build_norm(0.1, 8)(values), centred / (centred.square().mean(1, True) + 0.1).sqrt()
    )
    assert [name for name, _ in MODERN.build_norm().named_parameters()] == ["weight"]


def test_cross_attention_turns_queries_and_keys_by_their_own_places():
    """As self-attention over both sequences does, where the queries see the memory alone."""
    torch.manual_seed(0)
    attention = CrossAttention(8, 2).eval()
    hidden, memory = torch.randn(1, 3, 8), torch.randn(1, 4, 8)
    places, columns = torch.tensor([[1, 4, 6]]), torch.tensor([[0, 2, 3, 5]])
    rotations = [rotation_of(each, 4, 10.0, torch.float32) for each in (places, columns)]
    query = rotate(attention.query_proj(hidden).view(1, 3, 2, 4), rotations[0])[0]
    key, value = attention.key_value_proj(memory).view(1, 4, 2, 2, 4)[0].unbind(1)
    key = rotate(key[None], rotations[1])[0]
    weights = (torch.einsum("thc,shc->hts", query, key) / 2).softmax(-1)
    expected = attention.out_proj(torch.einsum("hts,shc->thc", weights, value).reshape(1, 3, 8))
    torch.testing.assert_close(attention(hidden, memory, None, rotations), expected)


@pytest.mark.parametrize(
    ("norm_bias", "bias", "activation", "padded"), [(False, False, "gelu", 7), (True, True, "relu", 0)]
)
def test_it_equals_transformers_modernbert(norm_bias, bias, activation, padded, transformers):
    """All hidden states of text and a gradient, both thetas, windows shorter than the row."""
    config = transformers.ModernBertConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=4, num_attention_heads=2,
        hidden_activation=activation, max_position_embeddings=40, norm_eps=1e-3, norm_bias=norm_bias,
        attention_bias=bias, mlp_bias=bias, local_attention=6, pad_token_id=1, global_rope_theta=160_000.0,
        local_rope_theta=100.0, bos_token_id=0, eos_token_id=2, cls_token_id=0, sep_token_id=2,
    )  # fmt: skip
    encoder = build(
        layer_norm_eps=1e-3, activation=activation, no_norm_bias=not norm_bias, no_attention_bias=not bias,
        no_feed_forward_bias=not bias,
    )  # fmt: skip
    theirs = transformers.ModernBertModel(config).eval()
    names = {
        "embed_tokens": "embeddings.tok_embeddings", "layernorm_embedding": "embeddings.norm",
        "self_attn.in_proj": "attn.Wqkv", "self_attn.out_proj": "attn.Wo", "self_attn_layer_norm": "attn_norm",
        "fc1": "mlp.Wi", "fc2": "mlp.Wo", "final_layer_norm": "mlp_norm",
    }  # fmt: skip
    state = {}
    for key, value in encoder.state_dict().items():
        for ours, their in names.items():
            key = key.replace(f"{ours}.", f"{their}.")
        state[key if key.startswith(("layers", "embeddings")) else key.replace("layer_norm", "final_norm")] = value
    theirs.load_state_dict(state, strict=True)

    text = tokens()
    if padded:
        text[1, -padded:] = 1
    shown = text != 1
    states = encoder(text, padding_BT=~shown if padded else None).states
    expected = theirs(text, attention_mask=shown.long(), output_hidden_states=True).hidden_states
    assert len(states) == len(expected) == 5
    for ours, their in zip(states, expected, strict=True):
        torch.testing.assert_close(ours[shown], their[shown], rtol=1e-5, atol=1e-5)
    upstream = torch.randn(states[-1][shown].shape, generator=torch.Generator().manual_seed(2))
    (states[-1][shown] * upstream).sum().backward()
    (expected[-1][shown] * upstream).sum().backward()
    got, wanted = encoder.layers[1].self_attn.in_proj.weight.grad, theirs.layers[1].attn.Wqkv.weight.grad
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_a_modern_encoder_is_one_graph_and_checkpoints():
    text = tokens()
    documents = torch.tensor([0] * 7 + [1] * 13).expand(2, 20)
    context = {"padding_BT": text == 4, "documents_BT": documents}
    plain, checkpointed = (
        build(attention_dropout=0.2, dropout=0.2, checkpoint_activations=saving).train() for saving in (False, True)
    )
    gradients = []
    for encoder in (plain, checkpointed):
        torch.manual_seed(7)
        encoder(text, **context)[-1].square().sum().backward()
        gradients.append([parameter.grad for parameter in encoder.parameters()])
    torch.testing.assert_close(*gradients)
    plain.eval()
    compiled = torch.compile(plain.forward, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(text, **context)[-1], plain(text, **context)[-1])


def test_what_does_not_go_together_is_one_line():
    for changes, message in (
        ({"normalize_before": False}, "--skip-first-norm is for pre-LN"),
        ({"attention_window": -1}, "--attention-window -1"),
        ({"global_attention_every": 0}, "--global-attention-every 0"),
        ({"position_encoding": "sine"}, "choose learned or rotary"),
        ({"feed_forward": "moe"}, "choose mlp or glu"),
        ({"norm": "batch_norm"}, "choose layer_norm or rms_norm"),
    ):
        with pytest.raises(UserError, match=message):
            TransformerEncoder(dataclasses.replace(MODERN, **changes))
    with pytest.raises(UserError, match="heads 5 wide are odd"):
        TransformerEncoder(dataclasses.replace(MODERN, embed_dim=10))(tokens())
    assert set(KIND_OPTIONS) == {field.name for field in dataclasses.fields(EncoderKind)}
