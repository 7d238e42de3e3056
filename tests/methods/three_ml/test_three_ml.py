"""3ML: equal to the slow reference, blind to what is masked, and its options."""

from argparse import Namespace

import pytest
import torch
from fairseq.logging import metrics
from fairseq.models import ARCH_CONFIG_REGISTRY
from small_batches import MASK_INDEX, PAD_INDEX, dictionary, pretraining_task
from small_three_ml import SHAPE, batch, build, slow_three_ml
from torch import nn

from fairseq_masking.errors import UserError
from fairseq_masking.methods.base.masked_tokens import masked_token_logs, reduce_masked_token_logs
from fairseq_masking.methods.mlm.model import MLMConfig, MLMModel
from fairseq_masking.methods.three_ml.decoder import CrossDecoderLayer
from fairseq_masking.methods.three_ml.flops import exact_counts, share_saved
from fairseq_masking.modules.encoder import TransformerLayer

RECTANGULAR, RAGGED = (14, 14), (20, 11, 4, 3)
ATTENTIONS = ("self", "cross")
ENCODER = {name: value for name, value in SHAPE.items() if name.startswith("encoder")}


def assert_equals_reference(model, sample):
    output = model(**sample["net_input"])
    slow = slow_three_ml(model, sample["net_input"])
    torch.testing.assert_close(output.losses_N, slow.losses, rtol=1e-9, atol=1e-9)
    assert output.predictions_N.tolist() == slow.predictions
    weights = torch.linspace(0.5, 1.5, len(slow.losses), dtype=torch.float64, device=slow.losses.device)
    parameters = dict(model.named_parameters())
    ours = torch.autograd.grad((output.losses_N * weights).sum(), parameters.values(), retain_graph=True)
    theirs = torch.autograd.grad((slow.losses * weights).sum(), parameters.values(), allow_unused=True)
    for name, our, their in zip(parameters, ours, theirs, strict=True):
        their = torch.zeros_like(our) if their is None else their
        torch.testing.assert_close(our, their, rtol=1e-8, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")
    return output, slow


@pytest.mark.parametrize("lengths", [RECTANGULAR, RAGGED], ids=["rectangular", "ragged"])
@pytest.mark.parametrize(
    ("attention", "options"),
    [
        ("self", {}),
        ("self", {"normalize_before": True, "decoder_embed_dim": 32}),
        ("self", {"decoder_layers": 1, "relative_position": "t5"}),
        ("cross", {}),
        ("cross", {"force_post_ln": True, "decoder_embed_dim": 32}),
        ("cross", {"decoder_embed_dim": 128, "decoder_layers": 1, "relative_position": "amos"}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value) or "default",
)
def test_it_equals_the_slow_reference(attention, options, lengths, device):
    model = build(device, attention, **options)
    sample = batch(device, lengths)
    assert sample["net_input"]["shape"]["rectangular"] == (lengths == RECTANGULAR)
    assert_equals_reference(model, sample)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize(
    "masking",
    [
        {"mask_prob": 0.15, "num_splits": 3},
        {"mask_prob": 0.5, "num_splits": 2, "unit": "whole_word"},
        {"mask_prob": 0.3, "num_splits": 2, "unit": "span"},
        {"mask_prob": 0.7, "strategy": "80-0-20", "unit": "whole_word"},
        {"mask_prob": 0.6, "strategy": "80-20-0", "unit": "span"},
        {"mask_prob": 0.4, "strategy": "100-0-0"},
    ],
    ids=str,
)
def test_it_equals_the_reference_with_any_masks(attention, masking, device):
    assert_equals_reference(build(device, attention), batch(device, (13, 9, 3), **masking))


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("mask_prob", [0.15, 0.4, 0.5, 0.7])
def test_the_encoder_reads_the_remaining_length_and_no_mask(attention, mask_prob, device, monkeypatch):
    """Counts, tokens, original places and padding of what the encoder is given."""
    model = build(device, attention)
    calls = []
    encode = model.encoder.forward

    def watch(tokens, **given):
        calls.append({"tokens": tokens, **given})
        return encode(tokens, **given)

    monkeypatch.setattr(model.encoder, "forward", watch)
    for lengths in (RECTANGULAR, RAGGED):
        net_input = batch(device, lengths, mask_prob=mask_prob)["net_input"]
        model(**net_input)
        seen = calls.pop()
        flat = net_input["src_tokens"].flatten().clone()
        flat[net_input["positions"]] = net_input["replacements"]
        corrupted = flat.view_as(net_input["src_tokens"])
        visible = (corrupted != MASK_INDEX) & (corrupted != PAD_INDEX)
        assert seen["tokens"].shape[1] == net_input["shape"]["max_visible"] == int(visible.sum(1).max())
        assert not (seen["tokens"] == MASK_INDEX).any()
        assert (seen["padding_BT"] is None) == (lengths == RECTANGULAR)
        for row in range(len(lengths)):
            columns = visible[row].nonzero().flatten().tolist()
            assert seen["positions_BT"][row, : len(columns)].tolist() == columns
            assert seen["tokens"][row, : len(columns)].tolist() == corrupted[row, columns].tolist()
            if seen["padding_BT"] is not None:
                assert seen["padding_BT"][row].tolist() == [
                    place >= len(columns) for place in range(seen["tokens"].shape[1])
                ]


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("lengths", [(20, 20), RAGGED], ids=["rectangular", "ragged"])
def test_no_trace_of_the_hidden_tokens_is_in_the_encoders_output(attention, lengths, device):
    """Other tokens under the [MASK]s: the same encoder output, bit for bit; under the rest: another one."""
    model = build(device, attention, double=False).eval()
    net_input = batch(device, lengths, mask_prob=0.5)["net_input"]
    outputs = []
    model.encoder.register_forward_hook(lambda module, given, output: outputs.append(output[-1]))
    losses = [model(**net_input).losses_N]
    for kind in (0, 1, 2):
        changed = net_input["src_tokens"].flatten().clone()
        chosen = net_input["positions"][net_input["kinds"] == kind]
        changed[chosen] = 4 + (changed[chosen] + 7) % 40
        replacements = net_input["replacements"].clone()
        if kind == 2:
            replacements[net_input["kinds"] == 2] = changed[chosen]
        given = {**net_input, "src_tokens": changed.view_as(net_input["src_tokens"]), "replacements": replacements}
        losses.append(model(**given).losses_N)
    assert torch.equal(outputs[0], outputs[1]), "hidden tokens"
    assert torch.equal(outputs[0], outputs[2]), "tokens under random ones"
    assert not torch.equal(outputs[0], outputs[3]), "an unchanged token is read as it is"
    assert not torch.equal(losses[0], losses[1]), "the hidden tokens are the targets"
    model.encoder.embed_tokens.weight.data[MASK_INDEX] += 1.0
    model(**net_input)
    assert torch.equal(outputs[0], outputs[4]), "the word embedding of <mask> is no input"


def test_where_the_predictions_come_from(device):
    """self: all from the decoder; cross: [MASK] from the decoder, the others from the encoder."""
    sample = batch(device, (20, 20), strategy="80-10-10", mask_prob=0.5)
    kinds = sample["net_input"]["kinds"]
    assert {0, 1, 2} == set(kinds.tolist())
    for attention, from_decoder in (("self", torch.ones_like(kinds, dtype=torch.bool)), ("cross", kinds == 0)):
        model = build(device, attention)
        losses = model(**sample["net_input"]).losses_N
        decoder = list(model.decoder.parameters())
        for number in range(len(kinds)):
            grads = torch.autograd.grad(losses[number], decoder, retain_graph=True)
            touched = any(grad.abs().max() > 0 for grad in grads)
            assert touched == bool(from_decoder[number]), (attention, number)


def test_the_prediction_layer_is_one_set_of_parameters(device):
    sample = batch(device, (20, 20), mask_prob=0.5)
    kinds = sample["net_input"]["kinds"]
    model = build(device, "cross")
    names = {name for name, _ in model.named_parameters() if name.startswith("lm_head.")}
    shared = {"lm_head.layer_norm.weight", "lm_head.layer_norm.bias", "lm_head.bias"}
    denses = {f"lm_head.{side}.{part}" for side in ("dense", "encoder_dense") for part in ("weight", "bias")}
    assert names == shared | denses
    losses = model(**sample["net_input"]).losses_N
    parameters = dict(model.named_parameters())
    for side, own, foreign in ((kinds == 0, "dense", "encoder_dense"), (kinds != 0, "encoder_dense", "dense")):
        loss = losses[side].sum()
        for name in shared | {f"lm_head.{own}.weight", "encoder.embed_tokens.weight"}:
            assert torch.autograd.grad(loss, parameters[name], retain_graph=True)[0].abs().max() > 0, name
        other = torch.autograd.grad(loss, parameters[f"lm_head.{foreign}.weight"], retain_graph=True)[0]
        assert other.abs().max() == 0
    names = {name for name, _ in build(device, "self").lm_head.named_parameters(prefix="lm_head")}
    assert names == shared | {"lm_head.dense.weight", "lm_head.dense.bias"}


def test_the_mask_vector_is_no_word_embedding(device):
    model = build(device)
    sample = batch(device)
    model(**sample["net_input"]).losses_N.sum().backward()
    assert model.decoder.mask_embedding.shape == (16,)
    assert model.decoder.mask_embedding.grad.abs().max() > 0
    assert model.decoder.embed_positions.weight is not model.encoder.embed_positions.weight


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("case", ["no mask at all", "no [MASK]", "only [MASK]", "a skipped row"])
def test_every_parameter_gets_a_gradient(attention, case, device):
    """What DDP needs, also where a part has nothing to do; and nothing is NaN."""
    lengths = {"no mask at all": (3, 3), "a skipped row": (20, 3)}.get(case, (20, 12))
    sample = batch(device, lengths, num_splits=2, strategy="100-0-0" if case == "only [MASK]" else "80-10-10")
    if case == "no [MASK]":
        net_input = sample["net_input"]
        net_input["kinds"] = torch.full_like(net_input["kinds"], 2)
        net_input["replacements"] = net_input["src_tokens"].flatten()[net_input["positions"]]
        net_input["shape"].update(num_mask=0, max_visible=20)
    # With dropout attention takes another path on a CPU, to which a row of masked keys alone is 0 / 0.
    model = build(device, attention, double=False, dropout=0.1, attention_dropout=0.1).train()
    losses = model(**sample["net_input"]).losses_N
    losses.sum().backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert not [name for name, grad in grads.items() if grad is None]
    assert all(torch.isfinite(grad).all() for grad in grads.values())
    assert losses.isfinite().all()
    if case == "no mask at all":
        assert losses.numel() == 0 and all(grad.abs().max() == 0 for grad in grads.values())


@pytest.mark.parametrize("autocast", [False, True], ids=["bf16", "autocast"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_low_precision(attention, autocast, device):
    model, sample = build(device, attention, double=False).train(), batch(device, RAGGED)
    exact = model(**sample["net_input"]).losses_N
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        losses = (model if autocast else model.bfloat16())(**sample["net_input"]).losses_N
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, exact, rtol=0.1, atol=0.2)
    losses.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_it_learns_a_batch_by_heart(attention, device):
    model, sample = build(device, attention, double=False).train(), batch(device, (20, 20, 20))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    history = []
    for _ in range(25):
        loss = model(**sample["net_input"]).losses_N.mean()
        history.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert history[0] > 3 and history[-1] < 0.4 * history[0]


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_logits_of_a_text_are_those_of_training(attention, device):
    """A text with <mask> in it, as fill_mask gives it: the decoder's prediction, as in training."""
    model = build(device, attention).eval()
    for lengths in ((14, 14), (20, 11)):
        net_input = batch(device, lengths, strategy="100-0-0")["net_input"]
        text = net_input["src_tokens"].flatten().clone()
        text[net_input["positions"]] = MASK_INDEX
        logits = model(text.view_as(net_input["src_tokens"]))[0]
        assert logits.shape == (*net_input["src_tokens"].shape, 45)
        at = logits.flatten(0, 1)[net_input["positions"]]
        targets = net_input["src_tokens"].flatten()[net_input["positions"]]
        losses = nn.functional.cross_entropy(at, targets, reduction="none")
        torch.testing.assert_close(losses, model(**net_input).losses_N, rtol=1e-9, atol=1e-9)
    features = model(net_input["src_tokens"], features_only=True)[0]
    padding = net_input["src_tokens"] == PAD_INDEX
    expected = model.encoder(net_input["src_tokens"], padding_BT=padding)[-1]
    assert torch.equal(features, expected)


@pytest.mark.parametrize("lengths", [RECTANGULAR, RAGGED], ids=["rectangular", "ragged"])
@pytest.mark.parametrize("attention", ["none", *ATTENTIONS])
def test_states_of_masks_are_those_that_predict(attention, lengths, device):
    """By layer, for mutual information: of an encoder for mlm, of the decoder for 3ML."""
    if attention == "none":
        cfg = MLMConfig(max_positions=32, dropout=0.0, attention_dropout=0.0, **ENCODER)
        model = MLMModel.build_model(cfg, pretraining_task()).to(device).eval()
    else:
        model = build(device, attention, double=False, decoder_layers=3).eval()
    net_input = batch(device, lengths)["net_input"]
    states, is_mask = model.mask_states(**net_input), net_input["kinds"] == 0
    assert len(states) == (3 if attention == "none" else 4)
    assert {len(layer) for layer in states} == {int(is_mask.sum())}
    targets = net_input["src_tokens"].flatten()[net_input["positions"][is_mask]]
    losses = model.lm_head.losses(states[-1], model.encoder.embed_tokens.weight, targets).losses_N
    torch.testing.assert_close(losses, model(**net_input).losses_N[is_mask], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_what_it_measures_is_logged(attention, device):
    """The length that the encoder reads and the share of FLOPs saved, as sums that ranks may add up."""
    model, logs = build(device, attention), []
    for rate, rows in ((0.15, 1), (0.6, 3)):
        sample = batch(device, (20,) * rows, mask_prob=rate)
        output = model(**sample["net_input"])
        assert output.measures["encoder_length"] == exact_counts(20, rate).num_visible
        saved = share_saved(model.shape, exact_counts(20, rate), exact_counts(20, 0.15))
        assert output.measures["flops_saved"] == pytest.approx(saved)
        logs.append(masked_token_logs(output, sample))
    with metrics.aggregate() as meters:
        reduce_masked_token_logs(logs)
        logged = meters.get_smoothed_values()
    lengths = exact_counts(20, 0.15).num_visible, exact_counts(20, 0.6).num_visible
    assert logged["encoder_length"] == pytest.approx((lengths[0] + 3 * lengths[1]) / 4, abs=1e-3)
    assert logged["flops_saved"] == pytest.approx(sum(log["measure_flops_saved"] for log in logs) / 4, abs=1e-3)


def test_losses_by_corruption_are_logged(device):
    sample = batch(device, (20, 20), mask_prob=0.5)
    output = build(device, "cross")(**sample["net_input"])
    logs = masked_token_logs(output, sample)
    kinds = sample["net_input"]["kinds"]
    for kind, name in enumerate(("mask", "random", "unchanged")):
        torch.testing.assert_close(logs[f"loss_{name}"], output.losses_N[kinds == kind].sum().detach())


@pytest.mark.parametrize(
    ("attention", "options", "pre_ln"),
    [
        ("self", {}, False),
        ("cross", {}, True),
        ("self", {"normalize_before": True}, True),
        ("cross", {"force_post_ln": True}, False),
        ("self", {"normalize_before": True, "force_post_ln": True}, False),
        ("self", {"normalize_before": False}, False),
    ],
    ids=str,
)
def test_normalisation_follows_the_paper_and_the_options(attention, options, pre_ln, device):
    model = build(device, attention, **options)
    assert (model.encoder.layer_norm is not None) == (model.decoder.layer_norm is not None) == pre_ln
    assert (model.decoder.layernorm_embedding is None) == pre_ln
    layers = [module for module in model.modules() if isinstance(module, TransformerLayer)]
    assert {layer.normalize_before for layer in layers} == {pre_ln} and len(layers) == 4
    crossing = [layer for layer in layers if isinstance(layer, CrossDecoderLayer)]
    assert len(crossing) == (2 if attention == "cross" else 0)


def test_archs_follow_the_paper():
    chosen = {}
    for size in ("tiny", "small", "base", "large"):
        for attention in ATTENTIONS:
            args = Namespace(decoder_attention=attention)
            ARCH_CONFIG_REGISTRY[f"three_ml_{size}"](args)
            chosen[size, attention] = getattr(args, "normalize_before", None)
    assert {key: value for key, value in chosen.items() if value is not None} == {
        ("large", "self"): True,
        ("large", "cross"): True,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"normalize_before": False, "decoder_attention": "cross"},
            "Post-LN doesn't work for 3ML_cross.*--force-post-ln",
        ),
        ({"decoder_embed_dim": 200}, "--decoder-embed-dim 200.*multiple of 64"),
        ({"decoder_embed_dim": 0}, "--decoder-embed-dim 0"),
    ],
    ids=str,
)
def test_bad_options_are_one_clear_line(options, message, device):
    with pytest.raises(UserError, match=message) as caught:
        build(device, **{"attention": options.pop("decoder_attention", "self"), **options})
    assert "\n" not in str(caught.value)


def test_a_row_longer_than_the_positions_is_refused(device):
    model = build(device, max_positions=16)
    with pytest.raises(UserError, match="20 tokens are more than the model's 16 positions"):
        model(**batch(device, (20, 20), mask_prob=0.7)["net_input"])


@pytest.mark.parametrize(("width", "heads"), [(16, 1), (64, 1), (100, 1), (128, 2), (256, 4)])
def test_a_head_for_every_64_of_the_decoders_width(width, heads, device):
    model = build(device, decoder_embed_dim=width)
    assert model.decoder.config.num_heads == heads and model.decoder.config.ffn_dim == 4 * width


def test_the_mask_index_is_the_dictionarys(device):
    assert build(device).mask_index == dictionary().index("<mask>") == MASK_INDEX
