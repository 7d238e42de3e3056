"""Steps on v alone move the discriminator's loss the way that the gradient's sign says.

Two generators of one layer: the first learns to write words that no text has, which the discriminator soon
knows, the second to write those that texts do have. v starts at 0, half and half.
"""

import math

import numpy as np
import pytest
import small_amos
import torch
from small_batches import MASK_INDEX, NUM_SYMBOLS, PAD_INDEX

from fairseq_masking.data import MaskedExample, collate
from fairseq_masking.errors import UserError
from fairseq_masking.masking import Masker, MaskingConfig, MaskingVocabulary
from fairseq_masking.measure.amos import HeldOut, adversary_path, difference, measure
from fairseq_masking.ops import corrupt_tokens, gather_positions

NUM_WORDS = 30  # that texts have, from symbol 4 on; 10 more have no use


def batches(count, *, seed, rows=16, length=20):
    """``net_input`` of random words."""
    vocabulary = MaskingVocabulary.build(NUM_SYMBOLS, special_ids=range(4), mask_index=MASK_INDEX)
    config = MaskingConfig(mask_prob=0.25, leave_unmasked_prob=0.0, random_token_prob=0.0, seed=seed)
    masker, rng = Masker(config, vocabulary), np.random.default_rng(seed)
    found = []
    for number in range(count):
        items = []
        for index in range(number * rows, (number + 1) * rows):
            tokens = np.concatenate([[0], 4 + rng.integers(NUM_WORDS, size=length - 2), [2]])
            items.append(MaskedExample(index, tokens, masker(tokens, epoch=1, index=index), 1))
        found.append(collate(items, PAD_INDEX, seed=seed)["net_input"])
    return found


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = small_amos.build("cpu", separate_generators=[1, 1])
    vector = model.mixture.score.weight.requires_grad_(False)
    vector.zero_()
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learning, lr=3e-3)
    for batch in batches(50, seed=1):
        output = model(**batch)
        odd = 4 + NUM_WORDS + gather_positions(batch["src_tokens"], batch["positions"]) % 10
        embedding_VD = model.encoder.embed_tokens.weight
        corrupted = corrupt_tokens(batch["src_tokens"], batch["positions"], batch["replacements"])
        generated = model.generator(model.encoder.embed_tokens(corrupted), batch["positions"])
        first = model.generator.lm_head.projected_losses(generated.hidden_KND[0], embedding_VD, odd).losses_N
        loss = first.mean() + output.losses_KN[1].mean() + 20 * output.detection_losses_BT.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    vector.requires_grad_(True)
    return model


@pytest.mark.parametrize(("scale", "hard_weight"), [(-1.0, 1.0), (1.0, 0.0)])
def test_the_sign_decides_which_way_the_loss_goes(trained, scale, hard_weight):
    steps = batches(20, seed=2)
    path = adversary_path(trained, steps, batches(8, seed=3), scale=scale, num_steps=30, every=10, lr=0.02)
    assert [point.step for point in path] == [0, 10, 20, 30]
    assert path[0].weights_K.tolist() == [0.5, 0.5]
    changed = difference(path[-1], path[0])
    assert -scale * changed.mean > max(0.05, 5 * changed.standard_error)
    assert float(path[-1].weights_K[1]) == pytest.approx(hard_weight, abs=0.2)


def test_the_model_is_afterwards_as_it_was_before(trained):
    trained.train()
    trained.encoder.embed_tokens.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    needed = [parameter.requires_grad for parameter in trained.parameters()]
    given = batches(2, seed=4)
    adversary_path(trained, given, given, scale=2.0, num_steps=2, every=5, lr=0.1)
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items())
    assert [parameter.requires_grad for parameter in trained.parameters()] == needed
    assert trained.training and trained.adversarial_scale == -1.0
    trained.encoder.embed_tokens.weight.requires_grad_(True)


def test_only_v_is_moved_and_measured_points_end_with_the_last_step(trained):
    given = batches(2, seed=4)
    seen = {}

    def look(module, args):
        seen[id(module)] = {
            name: value.clone() for name, value in trained.state_dict().items() if "mixture" not in name
        }

    handle = trained.detection_head.register_forward_pre_hook(look)
    before = {name: value.clone() for name, value in trained.state_dict().items() if "mixture" not in name}
    path = adversary_path(trained, given, given, scale=-1.0, num_steps=3, every=2, lr=0.1)
    handle.remove()
    (during,) = seen.values()
    assert all(torch.equal(before[name], during[name]) for name in before)
    assert [point.step for point in path] == [0, 2, 3]


def test_it_can_start_with_equal_weights(device):
    model, given = small_amos.build(device), [small_amos.batch(device)["net_input"]]
    found = {}
    for uniform in (False, True):
        path = adversary_path(model, given, given, scale=-1.0, num_steps=1, every=1, lr=0.1, uniform_start=uniform)
        found[uniform] = path[0].weights_K.tolist()
    assert found[True] == pytest.approx([1 / 3] * 3) and found[False] != pytest.approx([1 / 3] * 3, abs=0.01)


def test_what_is_measured_is_the_mean_over_all_tokens_but_padding(device):
    model = small_amos.build(device).eval()
    sample = small_amos.batch(device, lengths=(9, 20))["net_input"]
    with torch.no_grad():
        output = model(**sample)
    found = measure(model, [sample, sample], step=7)
    expected = float(output.detection_losses_BT.double().sum()) / 29
    assert found.step == 7 and found.losses_B.tolist() == pytest.approx([expected] * 2)
    originals = gather_positions(sample["src_tokens"], sample["positions"])
    assert found.replaced == pytest.approx(float((output.sampled_N != originals).float().mean()))
    assert found.weights_K.tolist() == pytest.approx(output.weights_NK.mean(0).tolist())


def test_difference_by_hand():
    before, after = (
        HeldOut(0, torch.tensor(losses, dtype=torch.float64), torch.ones(1), 0.5)
        for losses in ([1.0, 2.0, 3.0], [1.5, 2.1, 3.6])
    )
    found = difference(after, before)
    assert found.mean == pytest.approx(0.4)
    assert found.standard_error == pytest.approx(math.sqrt((0.01 + 0.09 + 0.04) / 2 / 3))


def test_a_mixture_that_learns_nothing_is_refused(device):
    model = small_amos.build(device, mixture="uniform")
    with pytest.raises(UserError, match="learns nothing"):
        adversary_path(model, [], [], scale=-1.0, num_steps=1, every=1, lr=0.1)
