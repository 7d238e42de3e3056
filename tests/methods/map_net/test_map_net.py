"""MAP-Net's model: whose masks a sentence gets, when the proposal network runs, and what it may look at."""

import math
from collections import Counter

import pytest
import torch
from fairseq.models import ARCH_CONFIG_REGISTRY
from small_batches import MASK_INDEX, NUM_SYMBOLS, pretraining_task
from small_map_net import batch, build, criterion_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fairseq_masking.errors import UserError
from fairseq_masking.methods.map_net.model import MapNetConfig, MapNetModel
from fairseq_masking.methods.mlm.model import MLMModel

LENGTHS = (20, 20, 12, 3, 17, 20, 9, 20)
ALWAYS = {"explore_start": 1.0, "explore_end": 1.0}
NEVER = {"explore_start": 0.0, "explore_end": 0.0}
HALF = {"explore_start": 0.5, "explore_end": 0.5}


def by_row(flat, sample):
    return [part.tolist() for part in flat.split(sample["net_input"]["num_masked"].tolist())]


def encoder_input(model, sample):
    """What the encoder reads, and the model's output."""
    seen = []
    hook = model.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    output = model(**sample["net_input"])
    hook.remove()
    return seen[0], output


def num_proposal_runs(model, sample):
    calls = []
    hook = model.proposal.register_forward_hook(lambda *_: calls.append(1))
    model(**sample["net_input"])
    hook.remove()
    return len(calls)


@pytest.mark.parametrize("num_splits", [1, 2])
def test_proposed_rows_get_their_own_masks_and_exploring_rows_keep_the_batchs(num_splits, device):
    model = build(device, **HALF).train()
    seen = Counter()
    for noise_seed in range(30):
        sample = batch(device, LENGTHS, noise_seed=noise_seed, num_splits=num_splits)
        net_input = sample["net_input"]
        tokens, width = net_input["src_tokens"], net_input["src_tokens"].shape[1]
        corrupted, output = encoder_input(model, sample)
        rows = zip(
            by_row(net_input["positions"], sample),
            by_row(output.positions_N, sample),
            by_row(output.drawn_N, sample),
            by_row(net_input["kinds"], sample),
            by_row(net_input["replacements"], sample),
            output.proposed_B.tolist(),
            strict=True,
        )
        changed = (corrupted != tokens).flatten().nonzero().flatten().tolist()
        allowed = set()
        for row, (uniform, used, drawn, kinds, replacements, proposed) in enumerate(rows):
            allowed |= set(used)
            assert len(set(used)) == len(used) == len(uniform), "as many as the batch masks, never twice"
            assert all(position // width == row for position in used)
            assert not model.special_V[tokens.flatten()[used]].any(), "never a special token"
            written = corrupted.flatten()[used].tolist() if used else []
            for position, kind, token in zip(used, kinds, written, strict=True):
                if kind == 0:
                    assert token == MASK_INDEX
                elif kind == 1:
                    assert 4 <= token < MASK_INDEX
                else:
                    assert token == tokens.flatten()[position]
            if proposed:
                assert sorted(used) == sorted(drawn)
                seen["other places"] += set(used) != set(uniform)
            else:
                assert used == drawn == uniform and written == replacements
            seen["proposed" if proposed else "exploring"] += len(used) > 0
        assert set(changed) <= allowed, "nothing else is touched"
    assert min(seen.values()) > 50, seen


def test_masks_follow_the_noise_seed_alone(device):
    model = build(device, dropout=0.3, **NEVER).eval()
    model.training = True  # sampling without dropout: what is drawn must not hang on the global generator

    def positions(noise_seed, global_seed):
        torch.manual_seed(global_seed)
        return model(**batch(device, LENGTHS, noise_seed=noise_seed)["net_input"]).positions_N

    assert torch.equal(positions(1, 1), positions(1, 2))
    assert not torch.equal(positions(1, 1), positions(2, 1))


def test_masks_do_not_share_dropouts_stream(device):
    """The task seeds dropout with noise_seed itself: the coins must not be that stream's first numbers."""
    model, agreeing = build(device, **HALF).train(), []
    for noise_seed in range(30):
        flags = model(**batch(device, LENGTHS, noise_seed=noise_seed)["net_input"]).proposed_B
        stream = torch.Generator(device).manual_seed(noise_seed)
        agreeing.append(flags == (torch.rand(len(LENGTHS), generator=stream, device=device) >= 0.5))
    assert 0.3 < torch.stack(agreeing).float().mean() < 0.7


def test_the_coin_is_tossed_for_each_sentence(device):
    model = build(device, explore_start=0.9, explore_end=0.1, explore_updates=100).train()
    for update, explore in ((0, 0.9), (50, 0.5), (100, 0.1), (1000, 0.1)):
        model.set_num_updates(update)
        flags = [model(**batch(device, LENGTHS, noise_seed=seed)["net_input"]).proposed_B for seed in range(60)]
        share = torch.stack(flags).float().mean().item()
        assert abs(share - (1 - explore)) < 4 * math.sqrt(explore * (1 - explore) / (60 * len(LENGTHS)))
    assert any(0 < flag.sum() < len(LENGTHS) for flag in flags)


def test_the_coin_is_tossed_for_the_batch_by_seed_and_update(device):
    model, twin = (build(device, explore_unit="batch", **HALF).train() for _ in range(2))
    other_seed = build(device, explore_unit="batch", seed=2, **HALF).train()
    coins = []
    for update in range(40):
        flags = []
        for noise_seed, each in ((update, model), (1000 + update, twin), (update, other_seed)):
            each.set_num_updates(update)
            flags.append(each(**batch(device, LENGTHS, noise_seed=noise_seed)["net_input"]).proposed_B)
        assert flags[0].all() or not flags[0].any()
        assert torch.equal(flags[0], flags[1]), "another micro-batch or rank of the same update"
        coins.append([flag[0].item() for flag in flags])
    assert 8 < sum(coin[0] for coin in coins) < 32
    assert [coin[0] for coin in coins] != [coin[2] for coin in coins]


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        ({"explore_unit": "batch", "proposal_learn_from": "proposed", **ALWAYS}, 0),
        ({"explore_unit": "sentence", "proposal_learn_from": "proposed", **ALWAYS}, 0),
        ({"explore_unit": "batch", "proposal_learn_from": "all", **ALWAYS}, 1),
        ({"explore_unit": "sentence", "proposal_learn_from": "all", **ALWAYS}, 1),
        ({"explore_unit": "sentence", "proposal_learn_from": "proposed", **HALF}, 1),
        ({"explore_unit": "batch", "proposal_learn_from": "proposed", **NEVER}, 1),
    ],
)
def test_the_proposal_network_runs_only_where_something_needs_it(options, runs, device):
    model, sample = build(device, **options).train(), batch(device, LENGTHS)
    assert num_proposal_runs(model, sample) == runs
    assert num_proposal_runs(model.eval(), sample) == 0
    criterion_of()(model.train(), sample)[0].backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert not missing, "DDP wants a gradient for every parameter"
    moved = any(p.grad.abs().max() > 0 for p in model.proposal.parameters())
    assert moved == (runs > 0)


def test_a_skipped_network_costs_no_flops(device):
    """An exploring update that nothing learns from costs what mlm costs, to the last operation."""
    sample = batch(device, LENGTHS)
    skip = {"explore_unit": "batch", "proposal_learn_from": "proposed"}
    skipping, running = build(device, **skip, **ALWAYS), build(device, **skip, **NEVER)
    plain = MLMModel.build_model(skipping.cfg, pretraining_task()).to(device)
    flops = []
    for model in (skipping, running, plain):
        with FlopCounterMode(display=False) as counter:
            model.train()(**sample["net_input"])
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[2] > 0 and flops[1] > 1.1 * flops[2]


def test_half_of_the_updates_skip_the_network(device):
    model = build(device, explore_unit="batch", proposal_learn_from="proposed", **HALF).train()
    runs = proposed = 0
    for update in range(40):
        model.set_num_updates(update)
        sample = batch(device, LENGTHS, noise_seed=update)
        runs += num_proposal_runs(model, sample)
        proposed += bool(model(**sample["net_input"]).proposed_B.all())
    assert runs == proposed and 8 < runs < 32


def test_the_proposal_is_a_distribution_over_maskable_positions(device):
    model, sample = build(device).eval(), batch(device, LENGTHS)
    tokens = sample["net_input"]["src_tokens"]
    with torch.no_grad():
        log_p = model.propose(tokens)
    assert log_p.dtype == torch.float32
    special = (tokens < 4) | (tokens == MASK_INDEX)
    assert torch.equal(log_p == -torch.inf, special)
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(len(LENGTHS), device=device))
    assert log_p.exp().std() > 0.01, "far from uniform, or these tests would see nothing"
    for row, length in enumerate(LENGTHS):  # padding changes nothing
        alone = model.propose(tokens[row : row + 1, :length], has_padding=False)[0]
        torch.testing.assert_close(log_p[row, :length], alone, rtol=1e-4, atol=1e-5)
    half = build(device).to(torch.bfloat16).eval().propose(tokens)
    assert half.dtype == torch.float32, "log_softmax in fp32"
    torch.testing.assert_close(half.exp().sum(1), torch.ones(len(LENGTHS), device=device))


def test_the_network_reads_clean_text(device):
    model, sample = build(device, **NEVER).train(), batch(device, LENGTHS)
    tokens = sample["net_input"]["src_tokens"]
    expected = model.propose(tokens)
    torch.testing.assert_close(model(**sample["net_input"]).log_proposal_BT, expected)


def test_a_row_in_which_nothing_may_be_masked(device):
    model = build(device, **NEVER).train()
    sample = batch(device, (12, 12, 3), num_splits=2, specials_inside=False)  # 1 token for 2 masks: skipped
    sample["net_input"]["src_tokens"][4:, 1] = 3
    loss, _, logs = criterion_of(importance_weight="exact")(model, sample)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert all(math.isfinite(float(value)) for value in logs.values())


def test_a_batch_without_any_mask(device):
    model, sample = build(device, **NEVER).train(), batch(device, (3, 3), num_splits=2)
    loss, sample_size, logs = criterion_of()(model, sample)
    loss.backward()
    assert sample_size == 0 and loss.item() == 0.0
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in model.parameters())
    assert all(float(value) == 0 for key, value in logs.items() if key.startswith(("rows", "num_m")))


def test_validation_uses_the_batchs_masks_whatever_the_update(device):
    model, sample = build(device, **NEVER).eval(), batch(device, LENGTHS)
    first = model(**sample["net_input"])
    assert torch.equal(first.positions_N, sample["net_input"]["positions"])
    assert not first.proposed_B.any() and first.log_proposal_BT is None
    model.set_num_updates(10**6)
    sample["net_input"]["shape"]["noise_seed"] = 77
    assert torch.equal(model(**sample["net_input"]).losses_N, first.losses_N)


class ForbidSyncs(TorchDispatchMode):
    """Fails at operations that make the host wait for a GPU, whatever the device."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "unique")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        assert not any(part in name for part in self.FORBIDDEN), name
        indexed_by_mask = "aten::index" in name and any(
            isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)
            for arg in args
            if isinstance(arg, (list, tuple))
            for index in arg
        )
        assert not indexed_by_mask, f"{name} with a boolean index"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("weight", ["paper", "exact"])
def test_nothing_waits_for_the_device(weight, device):
    model, sample = build(device, dropout=0.1, **HALF).train(), batch(device, LENGTHS)
    criterion = criterion_of(importance_weight=weight)
    with ForbidSyncs():
        loss, _, _ = criterion(model, sample)
    loss.backward()
    with pytest.raises(AssertionError, match="_local_scalar_dense"), ForbidSyncs():
        loss.detach().item()


def test_it_learns_where_the_losses_are(device):
    """An encoder that is never trained finds some tokens harder: the proposal moves there, or away."""
    for sign in (1.0, -1.0):
        model = build(device, sharpen=1.0, **ALWAYS).train()
        for parameter in (*model.encoder.parameters(), *model.lm_head.parameters()):
            parameter.requires_grad_(False)
        criterion = criterion_of(encoder_loss_weight=0.0, proposal_loss_weight=sign)
        optimizer = torch.optim.Adam(model.proposal.parameters(), lr=1e-2)
        history = []
        for _ in range(25):
            loss, sample_size, logs = criterion(model, batch(device, (30,) * 8))
            history.append(float(logs["rank_uniform"]) / 8)
            optimizer.zero_grad()
            (loss / sample_size).backward()
            optimizer.step()
        assert abs(history[0]) < 0.3 and sign * history[-1] > 0.5, history


def test_features_logits_and_heads_are_mlms(device):
    model = build(device).eval()
    plain = MLMModel.build_model(model.cfg, pretraining_task()).to(device).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("proposal.")})
    tokens = batch(device, LENGTHS)["net_input"]["src_tokens"]
    for options in ({}, {"features_only": True}):
        ours, theirs = model(tokens, **options)[0], plain(tokens, **options)[0]
        assert torch.equal(ours, theirs)
    model.register_classification_head("topic", num_classes=3)
    assert model(tokens, classification_head_name="topic")[0].shape == (len(LENGTHS), 3)


def test_no_parameter_is_unused_and_the_embedding_is_shared(device):
    model = build(device, normalize_before=True, relative_position="t5", **HALF).train()
    criterion_of()(model, batch(device, LENGTHS))[0].backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    sizes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert [name for name, shape in sizes.items() if shape[0] == NUM_SYMBOLS] == [
        "encoder.embed_tokens.weight",
        "lm_head.bias",
    ]
    assert sizes["proposal.project_tokens.weight"] == (16, 32)
    assert "proposal.project_tokens.bias" not in sizes and not dict(model.named_buffers()).keys() & set(
        model.state_dict()
    )


@pytest.mark.parametrize(
    ("arch", "shape"),
    [
        ("tiny", (2, 64, 256, 1)),
        ("small", (6, 128, 512, 2)),
        ("base", (12, 384, 1536, 6)),
        ("large", (24, 512, 2048, 8)),
    ],
)
def test_sizes_by_architecture(arch, shape):
    names = ("proposal_layers", "proposal_embed_dim", "proposal_ffn_embed_dim", "proposal_attention_heads")
    cfg = MapNetConfig(proposal_layers=3)
    ARCH_CONFIG_REGISTRY[f"map_net_{arch}"](cfg)
    assert tuple(getattr(cfg, name) for name in names) == (3, *shape[1:]), "an explicit option wins"
    assert cfg.encoder_embed_dim == {"tiny": 128, "small": 256, "base": 768, "large": 1024}[arch]
    cfg = MapNetConfig()
    ARCH_CONFIG_REGISTRY[f"map_net_{arch}"](cfg)
    assert tuple(getattr(cfg, name) for name in names) == shape


def test_heads_that_do_not_divide_the_width_are_named(device):
    with pytest.raises(UserError, match="3 attention heads do not divide the width 16"):
        build(device, proposal_attention_heads=3)


def test_a_checkpoint_of_mlm_is_told_apart(device):
    model = build(device)
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("proposal.")}
    with pytest.raises(UserError, match=r"of another model: it lacks proposal\."):
        MapNetModel.build_model(model.cfg, pretraining_task()).load_state_dict(state)


def test_exploration_falls_over_the_run(device, caplog):
    assert build(device, max_update=125_000).exploration.updates == 125_000
    assert build(device, max_update=125_000, explore_updates=7).exploration.updates == 7
    with caplog.at_level("INFO"):
        assert build(device).exploration.updates == 1_000_000  # a run without an end: the paper's
    assert "exploration falls over 1000000 updates" in caplog.text
