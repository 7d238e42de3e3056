"""What each source puts in place, against what the model itself computes in training."""

import pytest
import small_amos
import torch
import torch.nn.functional as F
from small_batches import NUM_SYMBOLS, PAD_INDEX

from fairseq_masking.measure.amos import detect, draw, generate, predict, replacement_losses, source_names
from fairseq_masking.methods.amos.model import _SAMPLING_STREAM
from fairseq_masking.ops import corrupt_tokens, gather_positions


@pytest.fixture
def model(device):
    return small_amos.build(device).eval()


@pytest.fixture
def batch(device, model):
    """With noise that draws a <pad>, which is no padding, and an original, which is not replaced."""
    sample = small_amos.batch(device, lengths=(9, 20, 14))["net_input"]
    with torch.no_grad():
        for seed in range(1000):
            sample["shape"]["noise_seed"] = seed
            sampled_N = model(**sample).sampled_N
            originals_N = gather_positions(sample["src_tokens"], sample["positions"])
            if PAD_INDEX in sampled_N and (sampled_N == originals_N).any():
                return sample


@pytest.fixture
def output(model, batch):
    with torch.no_grad():
        return model(**batch)


def test_sources_are_named_by_depth(device):
    assert source_names(small_amos.build(device)) == ["layer 1", "layer 2", "layer 3", "mixture"]
    names = source_names(small_amos.build(device, separate_generators=[1, 1]))
    assert len(set(names)) == 3 and names[-1] == "mixture"


def generated(model, batch):
    return generate(model, **batch, batch_seed=batch["shape"]["noise_seed"])


def test_predictions_are_the_training_s(model, batch, output):
    sources = generated(model, batch)
    torch.testing.assert_close(sources.weights_NK, output.weights_NK)
    targets_N = gather_positions(batch["src_tokens"], batch["positions"])
    probabilities_SNV = predict(model, sources)
    torch.testing.assert_close(probabilities_SNV.sum(-1), torch.ones_like(probabilities_SNV[..., 0]))
    chosen_SN = probabilities_SNV.gather(-1, targets_N.expand(4, -1)[..., None]).squeeze(-1)
    torch.testing.assert_close(-chosen_SN[:3].log(), output.losses_KN, rtol=1e-4, atol=1e-5)
    # Eq. 3: the logits are mixed, not the probabilities.
    logits_KNV = probabilities_SNV[:3].log()
    mixed_NV = torch.einsum("nk,knv->nv", output.weights_NK, logits_KNV).softmax(-1)
    torch.testing.assert_close(probabilities_SNV[3], mixed_NV, rtol=1e-4, atol=1e-6)


def test_the_mixture_draws_and_the_discriminator_judges_as_in_training(model, batch, output):
    drawn_SN = draw(model, generated(model, batch), seed=batch["shape"]["noise_seed"] ^ _SAMPLING_STREAM)
    assert torch.equal(drawn_SN[-1], output.sampled_N)
    assert not torch.equal(drawn_SN[0], drawn_SN[2])
    replaced_BT = corrupt_tokens(batch["src_tokens"], batch["positions"], drawn_SN[-1])
    logits_BT, real = detect(model, replaced_BT, output.padding_BT), ~output.padding_BT
    torch.testing.assert_close(logits_BT[real], output.detection_logits_BT[real], rtol=1e-4, atol=1e-5)


def test_draws_follow_each_source_s_probabilities(model, batch):
    sources = generated(model, batch)
    counts_SNV = torch.zeros_like(predict(model, sources))
    for seed in range(400):
        counts_SNV += F.one_hot(draw(model, sources, seed=seed), NUM_SYMBOLS)
    expected_SV = 400 * predict(model, sources).sum(1)
    statistic_S = ((counts_SNV.sum(1) - expected_SV) ** 2 / expected_SV).sum(-1)
    assert statistic_S.max() < 85  # 44 degrees of freedom: 0.02% beyond


def test_losses_are_those_of_replaced_tokens_alone(model, batch, output):
    batch["shape"]["noise_seed"] ^= _SAMPLING_STREAM
    found = replacement_losses(model, [batch, batch])
    assert len(found) == 4 and {one.num_masked for one in found} == {2 * len(batch["positions"])}
    expected = output.detection_losses_BT[~output.original_BT]
    assert 0 < len(expected) < len(batch["positions"]) * 2
    torch.testing.assert_close(found[-1].losses, expected.cpu().repeat(2), rtol=1e-4, atol=1e-5)


def test_a_depth_drawn_a_batch_is_the_validations(device):
    model = small_amos.build(device, mixture="random_layer").eval()
    chosen = set()
    for seed in range(25):
        drawn_by = small_amos.batch(device, (9,), noise_seed=seed)["net_input"]
        expected_NK = model(**drawn_by).weights_NK
        assert torch.equal(generated(model, drawn_by).weights_NK, expected_NK)
        chosen.add(expected_NK[0].argmax().item())
        mixed, *single = (losses.losses for losses in reversed(replacement_losses(model, [drawn_by])))
        assert torch.equal(mixed, single[2 - expected_NK[0].argmax().item()])
    assert chosen == {0, 1, 2}
