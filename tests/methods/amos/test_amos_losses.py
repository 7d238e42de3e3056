"""AMOS's objective and its log against counts made token by token, and against a case by hand."""

import math
from argparse import Namespace

import pytest
import torch
from fairseq.logging import metrics
from sklearn.metrics import roc_auc_score
from small_amos import batch, build, criterion_of
from small_batches import PAD_INDEX

from fairseq_masking.methods.amos.criterion import AmosCriterion, AmosCriterionConfig
from fairseq_masking.methods.amos.model import AmosOutput

LENGTHS = (20, 11, 5, 3)


class ByHand(torch.nn.Module):
    """Two rows of three tokens, the last one padding; one token masked in each; depths 2 and 4."""

    depths = (2, 4)

    def forward(self, **_):
        return AmosOutput(
            losses_KN=torch.tensor([[3.0, 1.0], [2.0, 0.5]]),
            predictions_KN=torch.tensor([[7, 8], [5, 8]]),
            weights_NK=torch.tensor([[0.25, 0.75], [0.5, 0.5]]),
            sampled_N=torch.tensor([5, 9]),
            detection_losses_BT=torch.tensor([[0.1, 0.2, 0.3], [0.4, 1.0, 0.0]]),
            detection_logits_BT=torch.tensor([[2.0, -1.0, 1.0], [3.0, 1.0, 5.0]]),
            original_BT=torch.tensor([[True, True, True], [True, False, True]]),
            padding_BT=torch.tensor([[False, False, False], [False, False, True]]),
        )


BATCH = {
    "nsentences": 2,
    "ntokens": 5,
    "num_skipped": 0,
    "net_input": {
        "src_tokens": torch.tensor([[0, 5, 2], [0, 6, PAD_INDEX]]),
        "positions": torch.tensor([1, 4]),
        "kinds": torch.tensor([0, 0], dtype=torch.int8),
    },
}


def smoothed(logs):
    with metrics.aggregate() as aggregator:
        AmosCriterion.reduce_metrics(logs)
        return aggregator.get_smoothed_values()


def test_a_case_by_hand():
    """L_GEN = 6.5; the discriminator's 2.0 over 5 tokens, times 2 masked tokens, times 10."""
    loss, sample_size, logs = criterion_of(discriminator_weight=10.0)(ByHand(), BATCH)
    assert sample_size == 2 and loss.item() == pytest.approx(6.5 + 10 * 2.0 / 5 * 2)
    values, bits = smoothed([logs, logs]), 1 / math.log(2)
    assert values["objective"] == pytest.approx(7.25 * bits, abs=1e-3)
    assert values["loss"] == values["loss_mask"] == pytest.approx(1.25 * bits, abs=1e-3)
    assert values["accuracy"] == 50, "of depth 4: 5 is right, 8 is not"
    assert values["mlm_loss_2"] == pytest.approx(2.0 * bits, abs=1e-3)
    assert values["mlm_loss_4"] == pytest.approx(1.25 * bits, abs=1e-3)
    assert (values["mixture_2"], values["mixture_4"]) == (0.375, 0.625)
    assert values["disc_loss"] == pytest.approx(0.4 * bits, abs=1e-3)
    assert values["disc_accuracy"] == 60, "wrong at one original and at the one replaced token"
    assert values["disc_accuracy_original"] == 75 and values["disc_accuracy_replaced"] == 0
    assert values["disc_auc"] == 62.5, "of four, two look more original, one does as much, one less"
    assert values["replace_rate"] == 50


@pytest.mark.parametrize("options", [{}, {"separate_generators": [2, 2]}, {"generator_layers": [2]}])
def test_sums_equal_a_loop_over_the_tokens(options, device):
    model, sample = build(device, **options), batch(device, LENGTHS)
    output = model(**sample["net_input"])
    _, _, logs = criterion_of()(model, sample)
    tokens = sample["net_input"]["src_tokens"]
    read = tokens.flatten().tolist()
    for position, token in zip(sample["net_input"]["positions"].tolist(), output.sampled_N.tolist(), strict=True):
        read[position] = token
    counts = dict.fromkeys(("num_detected", "num_detected_replaced", "num_detected_original"), 0)
    counts.update(num_replaced=0, num_original=0)
    looks, is_original = [], []
    for row, length in enumerate(LENGTHS):
        for column in range(length):
            original = read[row * tokens.shape[1] + column] == tokens[row, column]
            right = (output.detection_logits_BT[row, column] > 0) == original
            looks.append(output.detection_logits_BT[row, column].item())
            is_original.append(bool(original))
            kind = "original" if original else "replaced"
            counts[f"num_{kind}"] += 1
            counts["num_detected"] += int(right)
            counts[f"num_detected_{kind}"] += int(right)
    assert {key: int(logs[key]) for key in counts} == counts and counts["num_replaced"] > 5
    area = float(logs["num_pairs_ordered"] / logs["num_pairs"])
    assert area == pytest.approx(roc_auc_score(is_original, looks), abs=1e-12)
    names = {"generator_layers": ["2"], "separate_generators": ["2_1", "2_2"]}
    (names,) = [names[key] for key in options] or [["1", "2", "3"]]
    assert [key for key in logs if key.startswith("mlm_loss_")] == [f"mlm_loss_{name}" for name in names]
    assert [key for key in logs if key.startswith("mixture_")] == [f"mixture_{name}" for name in names]
    assert sum(float(logs[f"mixture_{name}"]) for name in names) == pytest.approx(logs["sample_size"])


def test_validation_computes_the_same(device):
    model, sample, criterion = build(device), batch(device, LENGTHS), criterion_of()
    first, second = criterion.train()(model, sample)[0], criterion.eval()(model.eval(), sample)[0]
    torch.testing.assert_close(first, second)


def test_another_model_is_refused(device):
    assert criterion_of().required_output is AmosOutput
    assert build(device).output_class is AmosOutput


def test_other_corruption_than_the_papers_is_said(caplog):
    """Section 3.1: all of them [MASK]."""
    for leave, random in ((0.0, 0.0), (0.1, 0.0), (0.0, 0.1)):
        caplog.clear()
        cfg = Namespace(leave_unmasked_prob=leave, random_token_prob=random)
        AmosCriterion(AmosCriterionConfig(), Namespace(cfg=cfg))
        said = "--leave-unmasked-prob 0 --random-token-prob 0" in caplog.text
        assert said == (leave + random > 0)
