"""AMOS: equal to the naive reference with all its gradients, its options, its randomness."""

from collections import Counter

import pytest
import torch
from fairseq.models import ARCH_CONFIG_REGISTRY
from small_amos import batch, build, criterion_of, gumbel_noise, naive_amos
from small_batches import MASK_INDEX, NUM_SYMBOLS, PAD_INDEX

from fairseq_masking.errors import UserError
from fairseq_masking.methods.amos.model import AmosConfig

RECTANGULAR, RAGGED = (14, 14), (20, 11, 5, 3)
ABLATIONS = {
    "adversarial": {},
    "one depth": {"generator_layers": [3]},
    "two depths": {"generator_layers": [1, 3]},
    "four depths": {"generator_layers": [1, 2, 3, 4]},
    "pre-LN": {"normalize_before": True, "relative_position": "none"},
    "recomputed": {"checkpoint_activations": True, "relative_position": "amos"},
    "temperature": {"gumbel_temperature": 1.7},
    "no gradient to v": {"adversarial_scale": 0.0},
    "other sign": {"adversarial_scale": 0.5},
    "adversarial MLM": {"adversarial_mlm_scale": 0.1},
    "no stop-grad": {"no_generator_stop_grad": True},
    "no stop-grad, pre-LN": {"no_generator_stop_grad": True, "normalize_before": True},
    "separate": {"separate_generators": [1, 2, 3]},
    "separate, equal": {"separate_generators": [2, 2], "adversarial_mlm_scale": 0.3},
    "uniform": {"mixture": "uniform"},
    "uniform, adversarial MLM": {"mixture": "uniform", "adversarial_mlm_scale": 0.1},
    "random layer": {"mixture": "random_layer"},
    "layer switch": {"mixture": "layer_switch"},
    "fixed": {"mixture": "fixed", "mixture_weights": [0.2, 0.5, 0.3]},
}
GIVEN = {"uniform": [1 / 3] * 3, "layer_switch": [0.0, 1.0, 0.0], "fixed": [0.2, 0.5, 0.3]}


def given_weights(model):
    """The depths' weights where they are not learned."""
    if str(model.cfg.mixture) == "random_layer":
        return [float(depth == drawn_depth(model)) for depth in range(3)]
    return GIVEN.get(str(model.cfg.mixture), [1.0] if len(model.depths) == 1 else None)


def drawn_depth(model, noise_seed=1):
    features = model.detection_head.weight.new_zeros(3, 2, 32)
    (row,) = model.mixture_weights(features, noise_seed).unique(dim=0).tolist()
    assert sorted(row) == [0.0, 0.0, 1.0]
    return row.index(1.0)


def assert_equals_naive(model, sample, *, seed=5, weight=50.0):
    """Every output, and the gradient of the objective by every parameter."""
    exact = model.detection_head.weight.dtype == torch.float64
    close = {"rtol": 1e-9, "atol": 1e-10} if exact else {"rtol": 1e-4, "atol": 2e-5}
    noise = gumbel_noise(model, sample, seed)
    naive = naive_amos(model, sample, seed=seed, given=given_weights(model), discriminator_weight=weight)
    sample = {**sample, "net_input": {**sample["net_input"], "noise_NV": noise}}
    output = model(**sample["net_input"])
    real = sample["net_input"]["src_tokens"] != PAD_INDEX
    for ours, theirs in (
        (output.losses_KN, naive.losses_KN),
        (output.weights_NK, naive.weights_NK),
        (output.detection_losses_BT[real], naive.detection_losses),
        (output.detection_logits_BT[real], naive.detection_logits),
    ):
        torch.testing.assert_close(ours, theirs, **close)
    assert not output.detection_losses_BT[~real].any()
    assert torch.equal(output.predictions_KN, naive.predictions_KN)
    assert torch.equal(output.sampled_N, naive.sampled_N)

    loss, sample_size, _ = criterion_of(discriminator_weight=weight)(model, sample)
    assert sample_size == len(sample["net_input"]["positions"])
    torch.testing.assert_close(loss, naive.loss, **close)
    parameters = dict(model.named_parameters())
    ours = torch.autograd.grad(loss, parameters.values())
    theirs = torch.autograd.grad(naive.loss, parameters.values(), allow_unused=True)
    for name, our, their in zip(parameters, ours, theirs, strict=True):
        their = torch.zeros_like(our) if their is None else their
        scale = 1 + their.abs().max().item()  # in fp32 sums of large terms leave small differences
        torch.testing.assert_close(our / scale, their / scale, **close, msg=lambda text, name=name: f"{name}: {text}")
    return output, dict(zip(parameters, ours, strict=True))


@pytest.mark.parametrize("lengths", [RECTANGULAR, RAGGED], ids=["rectangular", "ragged"])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_it_equals_the_naive_reference(ablation, lengths, device):
    model = build(device, double=True, **ABLATIONS[ablation]).train()
    model.set_num_updates(15)
    _, gradients = assert_equals_naive(model, batch(device, lengths))
    assert not [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
    unmoved = {name for name, gradient in gradients.items() if not gradient.any()}
    assert unmoved == ({"mixture.score.weight"} if ablation == "no gradient to v" else set())


@pytest.mark.parametrize("ablation", ["adversarial", "adversarial MLM", "no stop-grad", "separate", "fixed"])
def test_it_equals_the_reference_in_fp32(ablation, device):
    assert_equals_naive(build(device, **ABLATIONS[ablation]).train(), batch(device, RAGGED))


@pytest.mark.parametrize(
    "masking",
    [
        {"mask_prob": 0.15, "num_splits": 3},
        {"mask_prob": 0.4, "unit": "whole_word", "random_token_prob": 0.2},
        {"mask_prob": 0.4, "unit": "span", "num_splits": 2, "leave_unmasked_prob": 0.3},
        {"mask_prob": 0.6, "leave_unmasked_prob": 0.1, "random_token_prob": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_it_equals_the_reference_with_any_masks_and_lambda(weight, masking, device):
    """A sequence too short for the splits has no mask, but its tokens count for the discriminator."""
    assert_equals_naive(build(device, double=True), batch(device, (13, 9, 3), **masking), weight=weight)


def with_noise_for(model, sample, tokens):
    """The batch with noise by which ``tokens`` are sampled at the masked places."""
    noise = gumbel_noise(model, sample, 0)
    noise[torch.arange(len(noise)), tokens] += 1e4
    return {**sample["net_input"], "noise_NV": noise}


def test_a_sampled_pad_is_no_padding(device):
    model, sample = build(device), batch(device, RECTANGULAR)
    positions = sample["net_input"]["positions"]
    output = model(**with_noise_for(model, sample, torch.full_like(positions, PAD_INDEX)))
    assert (output.sampled_N == PAD_INDEX).all() and output.padding_BT is None
    assert (output.detection_losses_BT > 0).all()
    assert not output.original_BT.flatten()[positions].any()


def test_the_original_when_sampled_counts_as_original(device):
    model, sample = build(device), batch(device, RAGGED)
    tokens = sample["net_input"]["src_tokens"]
    output = model(**with_noise_for(model, sample, tokens.flatten()[sample["net_input"]["positions"]]))
    assert output.original_BT.all()
    clean = model(tokens, features_only=True)[0]
    logits = model.detection_head(clean).squeeze(-1)
    real = tokens != PAD_INDEX
    torch.testing.assert_close(output.detection_logits_BT[real], logits[real], rtol=1e-4, atol=1e-5)


def test_samples_follow_the_noise_seed_alone(device):
    model = build(device, dropout=0.3, attention_dropout=0.3)

    def sampled(noise_seed, global_seed):
        torch.manual_seed(global_seed)
        return model(**batch(device, (30,) * 8, noise_seed=noise_seed)["net_input"]).sampled_N

    for mode in (model.train(), model.eval()):
        assert torch.equal(sampled(1, 1), sampled(1, 2)), mode.training
        changed = (sampled(1, 1) != sampled(2, 1)).float().mean()
        assert changed > 0.5, "another batch, other noise"


def test_samples_have_the_mixtures_probabilities(device):
    """A text in 400 rows under 8 seeds: chi-square over the vocabulary at each masked token."""
    model, rows, num_seeds = build(device).eval(), 400, 8
    sample = batch(device, (20,), mask_prob=0.15)["net_input"]
    starts = 20 * torch.arange(rows, device=device)
    sample["src_tokens"] = sample["src_tokens"].expand(rows, -1)
    sample["positions"] = (starts[:, None] + sample["positions"]).flatten()
    sample["replacements"] = sample["replacements"].repeat(rows)
    counts = torch.zeros(3, NUM_SYMBOLS, device=device)
    with torch.no_grad():
        for noise_seed in range(num_seeds):
            sample["shape"]["noise_seed"] = noise_seed
            output = model(**sample)
            counts += torch.nn.functional.one_hot(output.sampled_N.view(rows, 3), NUM_SYMBOLS).sum(0)
        corrupted = sample["src_tokens"].flatten().index_fill(0, sample["positions"], MASK_INDEX)[None, :20]
        generated = model.generator(model.encoder.embed_tokens(corrupted), sample["positions"][:3])
        mixed = torch.einsum("nk,knd->nd", output.weights_NK[:3], generated.hidden_KND)
        expected = rows * num_seeds * (
            model.generator.lm_head.projected_logits(mixed, model.encoder.embed_tokens.weight).softmax(-1)
        )  # fmt: skip
    assert ((output.weights_NK > 0.1) & (output.weights_NK < 0.9)).any(), "a mixture indeed"
    statistic = ((counts - expected) ** 2 / expected.clamp(min=1)).sum()
    freedom = 3 * (NUM_SYMBOLS - 1)
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


def test_dropout_is_the_discriminators_alone(device):
    model = build(device, dropout=0.3, attention_dropout=0.3, activation_dropout=0.3).train()
    sample = batch(device, RECTANGULAR)["net_input"]
    torch.manual_seed(1)
    first = model(**sample)
    torch.manual_seed(2)
    second = model(**sample)
    assert torch.equal(first.losses_KN, second.losses_KN)
    assert torch.equal(first.weights_NK, second.weights_NK) and torch.equal(first.sampled_N, second.sampled_N)
    assert not torch.equal(first.detection_logits_BT, second.detection_logits_BT)


def test_random_layer_is_one_depth_an_update_for_all_ranks(device):
    model, rank = (build(device, mixture="random_layer").train() for _ in range(2))
    other_seed = build(device, mixture="random_layer", seed=2).train()
    drawn, others = Counter(), 0
    for update in range(60):
        for each in (model, rank, other_seed):
            each.set_num_updates(update)
        depth = drawn_depth(model, noise_seed=update)
        assert depth == drawn_depth(rank, noise_seed=1000 + update), "whatever the batch"
        others += depth != drawn_depth(other_seed, noise_seed=update)
        drawn[depth] += 1
    assert min(drawn.values()) > 10 and len(drawn) == 3
    assert others > 20


def test_random_layer_is_fixed_in_validation(device):
    model = build(device, mixture="random_layer").eval()
    by_batch = []
    for update in (0, 7):
        model.set_num_updates(update)
        outputs = [model(**batch(device, (9,), noise_seed=seed)["net_input"]) for seed in range(25)]
        by_batch.append([output.weights_NK.argmax(1).unique().tolist() for output in outputs])
    assert by_batch[0] == by_batch[1]
    assert sorted({depth for (depth,) in by_batch[0]}) == [0, 1, 2]


def test_layer_switch_takes_the_depths_in_turn(device):
    model, sample = build(device, mixture="layer_switch", max_update=30), batch(device)["net_input"]
    order = []
    for update in (0, 9, 10, 19, 20, 29, 30, 100):
        model.set_num_updates(update)
        (row,) = model(**sample).weights_NK.unique(dim=0).tolist()
        order.append(row.index(1.0))
    assert order == [0, 0, 1, 1, 2, 2, 2, 2]


def test_logits_are_the_deepest_generators(device):
    sample = batch(device, RAGGED)["net_input"]
    tokens = sample["src_tokens"].clone()
    tokens.view(-1)[sample["positions"]] = sample["replacements"]
    for options in ({}, {"separate_generators": [1, 3], "normalize_before": True}):
        model = build(device, **options).eval()
        logits, _ = model(tokens)
        losses = -logits.log_softmax(-1).flatten(0, 1)[sample["positions"]]
        targets = sample["src_tokens"].flatten()[sample["positions"], None]
        expected = model(**sample).losses_KN[-1]
        torch.testing.assert_close(losses.gather(1, targets).squeeze(1), expected, rtol=1e-4, atol=1e-5)


def test_mask_states_are_the_deepest_generators(device):
    model, sample = build(device).eval(), batch(device, RAGGED)["net_input"]
    states = model.mask_states(**sample)
    assert len(states) == 4
    embedded = model.encoder.embed_tokens(torch.where(sample["src_tokens"] == 0, 0, sample["src_tokens"]))
    embedded.view(-1, 32)[sample["positions"]] = model.encoder.embed_tokens.weight[MASK_INDEX]
    features = model.generator(embedded, sample["positions"], sample["src_tokens"] == PAD_INDEX).features_KND
    torch.testing.assert_close(torch.stack(states[1:]), features)


def test_it_is_one_graph_whatever_seed_and_update(device):
    torch._dynamo.reset()
    plain, model = (build(device).train() for _ in range(2))
    model.cfg = None  # the commands' is OmegaConf's, which cannot be compiled
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    model.predict = torch.compile(model.predict, fullgraph=True, backend=keep)
    for update in range(3):
        sample = batch(device, RAGGED, noise_seed=update)
        gradients = []
        for each in (plain, model):
            each.set_num_updates(update)
            loss, _, _ = criterion_of()(each, sample)
            gradients.append([loss, *torch.autograd.grad(loss, list(each.parameters()))])
        for expected, value in zip(*gradients, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)
    assert len(graphs) == 1


def test_compiled_encoders_are_the_generators_too(device, monkeypatch):
    """--compile encoder: the layers of both networks, in graphs that are shared where they can be."""
    torch._dynamo.reset()
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, mode, **options: compiled(self, backend=keep, **options)
    )
    sample, gradients = batch(device, RAGGED), []
    for choice in ("none", "encoder"):
        model = build(device, compile=choice).train()
        loss, _, _ = criterion_of()(model, sample)
        gradients.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    for expected, value in zip(*gradients, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)
    layers = [*model.encoder.layers, *model.generator.stacks[0].layers]
    assert len(layers) == 5 and all(layer._compiled_call_impl is not None for layer in layers)
    assert 1 <= len(graphs) <= 2


def test_only_the_token_embedding_is_shared(device):
    sizes = {name: tuple(p.shape) for name, p in build(device).named_parameters()}
    assert [name for name, shape in sizes.items() if NUM_SYMBOLS in shape] == [
        "encoder.embed_tokens.weight",
        "generator.lm_head.bias",
    ]
    for own in ("embed_positions.weight", "layernorm_embedding.weight", "relative_position.weight"):
        assert f"encoder.{own}" in sizes and f"generator.stacks.0.{own}" in sizes
    assert "generator.stacks.0.layers.2.fc1.weight" in sizes and "mixture.score.bias" not in sizes
    separate = {name for name, _ in build(device, separate_generators=[2, 2]).named_parameters()}
    assert {"generator.stacks.1.embed_positions.weight", "generator.stacks.1.layers.1.fc1.weight"} <= separate
    assert "generator.stacks.2.embed_positions.weight" not in separate
    for options in ({"mixture": "uniform"}, {"generator_layers": [2]}):
        assert not [name for name, _ in build(device, **options).named_parameters() if "mixture" in name]


def test_a_batch_without_any_mask(device):
    model, sample = build(device).train(), batch(device, (3, 3), num_splits=2)
    loss, sample_size, logs = criterion_of()(model, sample)
    loss.backward()
    assert sample_size == 0 and loss.item() == 0.0
    assert not [name for name, p in model.named_parameters() if p.grad is None or p.grad.any()]
    assert float(logs["num_original"]) == sample["ntokens"] and float(logs["num_replaced"]) == 0


def test_it_learns_a_batch_by_heart(device):
    model, sample = build(device).train(), batch(device, (20, 16, 11))
    criterion, optimizer = criterion_of(), torch.optim.Adam(model.parameters(), lr=3e-3)
    history = []
    for _ in range(20):
        loss, sample_size, logs = criterion(model, sample)
        history.append([float(logs[key]) for key in ("mlm_loss_1", "mlm_loss_2", "mlm_loss_3", "disc_loss")])
        optimizer.zero_grad()
        (loss / sample_size).backward()
        optimizer.step()
    for first, last in zip(history[0], history[-1], strict=True):
        assert last < 0.3 * first, history


@pytest.mark.parametrize(
    ("arch", "depths"), [("tiny", [1, 2, 3]), ("small", [2, 3, 4]), ("base", [4, 6, 8]), ("large", [8, 12, 16])]
)
def test_sizes_by_architecture(arch, depths):
    cfg = AmosConfig()
    ARCH_CONFIG_REGISTRY[f"amos_{arch}"](cfg)
    assert (cfg.generator_layers, str(cfg.relative_position)) == (depths, "t5")
    cfg = AmosConfig(generator_layers=[2, 5])
    ARCH_CONFIG_REGISTRY[f"amos_{arch}"](cfg)
    assert cfg.generator_layers == [2, 5], "an explicit option wins"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"generator_layers": []}, "--generator-layers '': numbers of layers from 1 on"),
        ({"generator_layers": [0, 2]}, "--generator-layers '0,2': numbers of layers from 1 on"),
        ({"generator_layers": [2, 1]}, "--generator-layers 2,1: in ascending order"),
        ({"generator_layers": [2, 2]}, "--generator-layers 2,2: .*deep ones are --separate-generators"),
        ({"separate_generators": [2, 1]}, "--separate-generators 2,1: in ascending order"),
        (
            {"generator_layers": [1, 3], "separate_generators": [2, 2]},
            "--generator-layers 1,3 with --separate-generators 2,2: .* leave one of them out",
        ),
        ({"mixture": "other"}, "--mixture other: choose one of adversarial, uniform"),
        ({"mixture": "fixed"}, "--mixture fixed needs --mixture-weights"),
        ({"mixture_weights": [0.5, 0.25, 0.25]}, "are those of --mixture fixed, not of adversarial"),
        ({"mixture": "fixed", "mixture_weights": [0.5, 0.5]}, "--mixture-weights 0.5,0.5: 3 are needed"),
        ({"mixture": "fixed", "mixture_weights": [0.5, 0.1, 0.1]}, "none negative, and 1 together"),
        ({"mixture": "fixed", "mixture_weights": [1.5, -0.5, 0.0]}, "none negative, and 1 together"),
        ({"mixture": "layer_switch", "max_update": 0}, "--mixture layer_switch .*--max-update, which is 0"),
    ],
)  # fmt: skip
def test_bad_options_are_one_clear_line(options, says, device):
    with pytest.raises(UserError, match=says) as caught:
        build(device, **options)
    assert "\n" not in str(caught.value)


def test_a_text_that_is_too_long_is_named(device):
    with pytest.raises(UserError, match="33 tokens are more than the generator's 32 positions"):
        build(device)(**batch(device, (33,))["net_input"])
