"""MAP-Net's two losses and all their gradients against loops written from Eq. 5 and Eq. 10, in fp64."""

import math
from argparse import Namespace
from operator import and_

import pytest
import torch
import torch.nn.functional as F
from fairseq.logging import metrics
from small_batches import pretraining_task
from small_map_net import batch, build, criterion_of

from fairseq_masking.methods.map_net.criterion import MapNetCriterion, proposal_loss
from fairseq_masking.methods.map_net.model import MapNetOutput
from fairseq_masking.methods.map_net.ragged import RaggedRows
from fairseq_masking.methods.map_net.sampling import log_weight_paper
from fairseq_masking.methods.mlm.criterion import MLMCriterion
from fairseq_masking.methods.mlm.model import MLMModel

NEVER = {"explore_start": 0.0, "explore_end": 0.0}
SENTENCES = (20, 12, 3, 17, 20, 9)  # one with a single maskable token, padding in all but two


def columns_of(output, sample):
    """By row: (columns in the order of the kinds, columns in the order of the draws)."""
    width = sample["net_input"]["src_tokens"].shape[1]
    counts = sample["net_input"]["num_masked"].tolist()
    result, start = [], 0
    for row, count in enumerate(counts):
        part = slice(start, start + count)
        result.append(
            tuple([int(p) - row * width for p in flat[part]] for flat in (output.positions_N, output.drawn_N))
        )
        start += count
    return result


def written_at(output, model, sample):
    """By flat position, what the encoder reads there; caught from the encoder's own input."""
    seen = []
    hook = model.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(**sample["net_input"])
    hook.remove()
    return seen[0]


def reference(model, sample, output, *, clip, exact, learn_from_all):
    """L_enc and L_MAP sentence by sentence, straight from the paper's formulas. No batch, no padding."""
    corrupted = written_at(output, model, sample)
    net_input = sample["net_input"]
    sum_encoder = sum_proposal = torch.zeros((), dtype=torch.float64)
    for row, (columns, drawn) in enumerate(columns_of(output, sample)):
        length = int(net_input["src_lengths"][row])
        clean = net_input["src_tokens"][row, :length]
        maskable = [t for t in range(length) if not model.special_V[clean[t]]]
        n = len(maskable)
        hidden = model.encoder(corrupted[row : row + 1, :length])[-1][0]
        logits = F.linear(model.lm_head.project(hidden), model.encoder.embed_tokens.weight, model.lm_head.bias)
        losses = {t: -logits[t].log_softmax(-1)[clean[t]] for t in columns}

        network = model.proposal
        scores = network.project_tokens(model.encoder.embed_tokens(clean[None]))
        scores = network.layernorm_embedding(scores + network.embed_positions.weight[:length])
        for layer in network.layers:
            scores = layer(scores)
        scores = network.score(scores)[0, :, 0]
        total = sum(scores[t].exp() for t in maskable) if maskable else None
        p = {t: scores[t].exp() / total for t in maskable}

        r = 1.0
        if output.proposed_B[row]:
            if exact:
                gone = 0.0
                for k, t in enumerate(drawn):
                    r *= (1.0 / (n - k)) / (p[t].item() / (1.0 - gone))
                    gone += p[t].item()
            else:
                r = (1.0 / n) ** len(drawn) / math.prod(p[t].item() for t in drawn)
        r = min(max(r, 1.0 - clip), 1.0 + clip)
        for t in columns:
            sum_encoder = sum_encoder + r * losses[t]
        if (learn_from_all or output.proposed_B[row]) and columns:
            mean = sum(losses[t].item() for t in columns) / len(columns)
            for t in columns:
                sum_proposal = sum_proposal - p[t].log() * (losses[t].item() - mean)
    return sum_encoder, sum_proposal


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("clip", [0.0, 0.2, 1e6])
@pytest.mark.parametrize("weight", ["paper", "exact"])
@pytest.mark.parametrize("learn_from", ["all", "proposed"])
def test_losses_and_gradients_equal_the_formulas(clip, weight, learn_from, device):
    model = build(device, explore_start=0.5, explore_end=0.5, proposal_learn_from=learn_from).double().train()
    sample = batch(device, SENTENCES, noise_seed=3)
    output = model(**sample["net_input"])
    assert 0 < output.proposed_B.sum() < len(SENTENCES), "both kinds of sentences"
    assert output.positions_N.numel() > 0 and sample["net_input"]["shape"]["has_padding"]

    criterion = criterion_of(
        importance_clip=clip, importance_weight=weight, encoder_loss_weight=0.25, proposal_loss_weight=3.0
    )
    loss, sample_size, logs = criterion(model, sample)
    assert sample_size == output.losses_N.numel() == int(sample["net_input"]["num_masked"].sum())
    sum_encoder, sum_proposal = reference(
        model, sample, output, clip=clip, exact=weight == "exact", learn_from_all=learn_from == "all"
    )
    torch.testing.assert_close(logs["encoder_loss"], sum_encoder.detach().to(device), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(logs["proposal_loss"], sum_proposal.detach().to(device), rtol=1e-9, atol=1e-9)
    expected_loss = 3.0 * sum_proposal + 0.25 * sum_encoder
    torch.testing.assert_close(loss.detach(), expected_loss.detach().to(device), rtol=1e-9, atol=1e-9)

    found, expected = gradients(model, loss), gradients(model, expected_loss)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-8, atol=1e-10, msg=name)
    assert all(value.abs().max() > 0 for name, value in expected.items()), "no gradient is compared with 0"
    if 0.0 < clip < 1.0:
        assert logs["rows_clipped_low"] + logs["rows_clipped_high"] > 0, "clipping was not active"


def loss_of(model, sample, **options):
    return criterion_of(importance_weight="exact", **options)(model, sample)[0]


def test_what_is_detached_is_detached(device):
    """L_enc alone moves nothing of the proposal net, L_MAP alone nothing of the encoder but the embedding."""
    model, sample = build(device, explore_start=0.5, explore_end=0.5).train(), batch(device, SENTENCES)
    shared = "encoder.embed_tokens.weight"
    encoder = gradients(model, loss_of(model, sample, encoder_loss_weight=1.0, proposal_loss_weight=0.0))
    proposal = gradients(model, loss_of(model, sample, encoder_loss_weight=0.0, proposal_loss_weight=1.0))
    for name in encoder:
        own = name.startswith("proposal.")
        assert (encoder[name].abs().max() > 0) == (not own), name
        assert (proposal[name].abs().max() > 0) == (own or name == shared), name
    both = gradients(model, loss_of(model, sample, encoder_loss_weight=0.5, proposal_loss_weight=-2.0))
    for name in both:
        torch.testing.assert_close(both[name], 0.5 * encoder[name] - 2.0 * proposal[name], rtol=1e-4, atol=1e-5)


def output_with(scores, losses, positions, rows):
    """An output of known scores and losses; every position may be masked."""
    nobody = torch.zeros(rows, dtype=torch.bool)
    return MapNetOutput(losses, positions, positions, positions, nobody, ~nobody, scores.log_softmax(1))


def test_gradient_of_the_scores_is_the_advantage_and_nothing_elsewhere():
    torch.manual_seed(0)
    scores = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    losses = torch.tensor([1.0, 4.0, 7.0, 2.5, 3.0, 9.0], dtype=torch.float64, requires_grad=True)
    layout = RaggedRows.of(torch.tensor([3, 1, 2]), num_values=6, width=3)
    positions = torch.tensor([0, 4, 2, 6 + 5, 12 + 3, 12 + 1])
    proposal_loss(output_with(scores, losses, positions, 3), layout).backward()
    expected = torch.zeros(3, 6, dtype=torch.float64)
    expected[0, 0], expected[0, 4], expected[0, 2] = 3.0, 0.0, -3.0  # -(l - 4)
    expected[2, 3], expected[2, 1] = 3.0, -3.0  # row 1 has one position: K = 1 gives none
    torch.testing.assert_close(scores.grad, expected, rtol=0, atol=1e-14)
    assert (scores.grad[1] == 0).all() and losses.grad is None


def test_value_of_the_proposal_loss_by_hand():
    """Probabilities 1/2, 1/4, 1/4; losses 1 and 3 at the first two: ln 2 * (1 - 2) + ln 4 * (3 - 2)."""
    scores = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    layout = RaggedRows.of(torch.tensor([2]), num_values=2, width=2)
    losses = torch.tensor([1.0, 3.0], dtype=torch.float64)
    value = proposal_loss(output_with(scores, losses, torch.tensor([0, 1]), 1), layout)
    assert value.item() == pytest.approx(2.0 * math.log(2) - math.log(2))


def test_validation_is_the_loss_of_mlm(device):
    """The batch's own masks, no weights, the same sums under the same names; nothing of the proposal."""
    model, sample = build(device, explore_start=0.0, explore_end=0.0).eval(), batch(device, SENTENCES)
    plain = MLMModel.build_model(model.cfg, pretraining_task()).to(device).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("proposal.")})
    ours = criterion_of().eval()(model, sample)
    theirs = MLMCriterion(None, Namespace()).eval()(plain, sample)
    assert torch.equal(ours[0], theirs[0]) and ours[1] == theirs[1]
    assert all(torch.equal(torch.as_tensor(ours[2][key]), torch.as_tensor(theirs[2][key])) for key in theirs[2])
    assert reduced(MapNetCriterion, [ours[2]]) == reduced(MLMCriterion, [theirs[2]])


def reduced(criterion, logs):
    with metrics.aggregate(new_root=True) as aggregated:
        criterion.reduce_metrics(logs)
    return dict(aggregated.get_smoothed_values())


def test_what_is_logged(device):
    model = build(device, explore_start=0.5, explore_end=0.5).train()
    sample = batch(device, SENTENCES, noise_seed=3)
    output = model(**sample["net_input"])
    criterion = criterion_of()
    loss, sample_size, logs = criterion(model, sample)
    assert not any(torch.is_tensor(value) and value.requires_grad for value in logs.values()), "no graph is kept"
    assert loss.item() == pytest.approx(0.01 * logs["encoder_loss"].item() + logs["proposal_loss"].item(), rel=1e-5)
    values = reduced(MapNetCriterion, [logs])

    losses = output.losses_N.detach()
    counts = sample["net_input"]["num_masked"].tolist()
    by_row, chosen_by_row = (
        losses.split(counts),
        output.log_proposal_BT.detach().flatten()[output.positions_N].split(counts),
    )
    proposed = output.proposed_B.tolist()
    bits = 1 / math.log(2)

    def mean_loss(which):
        picked = torch.cat([part for part, is_proposed in zip(by_row, proposed, strict=True) if is_proposed == which])
        return picked.mean().item() * bits

    assert values["loss"] == pytest.approx(losses.mean().item() * bits, abs=1e-3), "neither lambda nor r"
    assert values["loss_proposed"] == pytest.approx(mean_loss(True), abs=1e-4)
    assert values["loss_uniform"] == pytest.approx(mean_loss(False), abs=1e-4)
    assert values["encoder_loss"] == pytest.approx(logs["encoder_loss"].item() / sample_size * bits, abs=1e-4)
    assert values["proposal_loss"] == pytest.approx(logs["proposal_loss"].item() / sample_size, abs=1e-4)
    filled = [count > 0 for count in counts]
    assert values["share_proposed"] == pytest.approx(sum(map(and_, proposed, filled)) / sum(filled), abs=1e-4)

    weights, entropies, ranks, uniform_ranks = [], [], [], []
    for row, (is_proposed, part, chosen) in enumerate(zip(proposed, by_row, chosen_by_row, strict=True)):
        if not len(part):
            continue
        log_p = output.log_proposal_BT[row].detach().double()
        log_p = log_p[log_p > -math.inf]
        entropies.append(-(log_p.exp() * log_p).sum().item() * bits)
        if is_proposed:
            weights.append(math.exp(-len(part) * math.log(len(log_p)) - chosen.double().sum().item()))
        if len(part) > 1:
            order = [values.argsort().argsort().double() for values in (part, chosen)]
            ranks.append(torch.corrcoef(torch.stack(order))[0, 1].item())
            uniform_ranks += [] if is_proposed else [ranks[-1]]
    mean = lambda numbers: sum(numbers) / len(numbers)  # noqa: E731
    assert values["importance_weight"] == pytest.approx(mean([min(max(w, 0.8), 1.2) for w in weights]), abs=1e-4)
    assert values["clipped_low"] == pytest.approx(mean([w < 0.8 for w in weights]), abs=1e-4)
    assert values["clipped_high"] == pytest.approx(mean([w > 1.2 for w in weights]), abs=1e-4)
    assert values["proposal_entropy"] == pytest.approx(mean(entropies), abs=1e-4)
    assert values["rank_correlation"] == pytest.approx(mean(ranks), abs=1e-4)
    assert values["rank_correlation_uniform"] == pytest.approx(mean(uniform_ranks), abs=1e-4)


def test_sides_of_clipping_are_told_apart(device):
    """By the sign of log r, for the proposal that drew and for one of the opposite opinion."""
    model, sample = build(device, **NEVER).train(), batch(device, SENTENCES)
    output = model(**sample["net_input"])
    layout = RaggedRows.of(
        sample["net_input"]["num_masked"],
        num_values=output.losses_N.numel(),
        width=sample["net_input"]["shape"]["max_masked"],
    )
    sides = []
    for sign in (1.0, -1.0):
        criterion = criterion_of(importance_clip=1e-6)
        flipped = (sign * output.log_proposal_BT).masked_fill(output.log_proposal_BT == -math.inf, -math.inf)
        shifted = output._replace(log_proposal_BT=(5.0 * flipped).log_softmax(1))
        model.forward = lambda shifted=shifted, **_: shifted
        logs = criterion(model, sample)[2]
        r = log_weight_paper(shifted.log_proposal_BT, output.drawn_N, layout)
        low, high = (int((r < -1e-5).sum()), int((r > 1e-5).sum()))
        assert (int(logs["rows_clipped_low"]), int(logs["rows_clipped_high"])) == (low, high)
        sides.append(low - high)
    assert all(sides), "more on one side than on the other"


def test_accuracy_is_at_the_positions_that_were_used(device):
    model, sample = build(device, **NEVER).train(), batch(device, SENTENCES)
    tokens = sample["net_input"]["src_tokens"]
    words = tokens >= 4
    tokens[words] = 4 + tokens[words] % 2
    with torch.no_grad():
        model.lm_head.bias[4] = 1000.0
    used = model(**sample["net_input"]).positions_N
    correct = [int((tokens.flatten()[where] == 4).sum()) for where in (used, sample["net_input"]["positions"])]
    assert correct[0] != correct[1]
    assert int(criterion_of()(model, sample)[2]["num_correct"]) == correct[0] > 0


def test_logs_add_up_and_have_the_same_keys_whatever_ran(device):
    """fairseq adds up the logs of ranks key by key, also where the network was skipped on one of them."""
    sample = batch(device, SENTENCES)
    skipped = {"explore_unit": "batch", "proposal_learn_from": "proposed", "explore_start": 1.0, "explore_end": 1.0}
    runs = [build(device, explore_start=0.0, explore_end=0.0), build(device, **skipped)]
    logs = [criterion_of()(model.train(), sample)[2] for model in runs]
    logs.append(criterion_of().eval()(runs[0].eval(), sample)[2])
    assert logs[0].keys() == logs[1].keys() == logs[2].keys()
    summed = {key: sum(float(log[key]) for log in logs[:2]) for key in logs[0]}
    assert reduced(MapNetCriterion, logs[:2]) == pytest.approx(reduced(MapNetCriterion, [summed]), abs=1e-3)
    assert reduced(MapNetCriterion, logs[:2])["share_proposed"] == pytest.approx(0.5)
    assert "proposal_entropy" not in reduced(MapNetCriterion, logs[1:2])
