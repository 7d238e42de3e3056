"""The task squad: training, several processes, resuming, the best checkpoint by F1, and clear errors."""

import json
import math
import re
import shutil
from argparse import Namespace
from dataclasses import fields
from pathlib import Path

import finetuning_data
import pytest
import torch
from fairseq import checkpoint_utils, utils
from fairseq.logging import metrics
from fairseq.models import MODEL_DATACLASS_REGISTRY
from omegaconf import OmegaConf

from fairseq_masking.errors import UserError
from fairseq_masking.finetuning.finetuned import Finetuned, predict
from fairseq_masking.finetuning.squad.criterion import SquadCriterion, SquadCriterionConfig
from fairseq_masking.finetuning.squad.task import SquadConfig, SquadTask
from fairseq_masking.methods.base.options import SIZES
from fairseq_masking.methods.mlm.model import MLMConfig

OPTIONS = """
    --task squad --criterion squad --tokens-per-sample 48 --doc-stride 20 --question-tokens 16 --batch-size 8
    --max-epoch 2 --max-update 0 --best-checkpoint-metric f1 --maximize-best-checkpoint-metric
    --log-format json --lr 2e-3
""".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squad")
    corpus = finetuning_data.write_prepared_corpus(folder)
    source = finetuning_data.write_squad(folder / "source", questions=32, test=True)
    return finetuning_data.prepare("squad", source, corpus, folder / "data")


@pytest.fixture(scope="module")
def trained(data: Path, run_train, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A run of two epochs: its folder, and what it logged of the last validation."""
    folder = tmp_path_factory.mktemp("run")
    finished = run_train(data, folder, *OPTIONS)
    assert finished.returncode == 0, finished.stderr[-4000:]
    return folder, validations(finished.stdout + finished.stderr)[-1]


def validations(log: str) -> list[dict[str, float]]:
    found = [json.loads(line) for line in re.findall(r"\| valid \| (\{.*\})", log)]
    return [{key.removeprefix("valid_"): float(value) for key, value in entry.items()} for entry in found]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))["model"]


def test_it_is_scored_over_the_whole_set_and_saves_its_best(trained) -> None:
    folder, logged = trained
    assert {"loss", "f1", "exact", "HasAns_f1", "NoAns_f1", "best_f1"} <= set(logged)
    state = checkpoint_utils.load_checkpoint_to_cpu(str(folder / "checkpoint_best.pt"))
    best = state["extra_state"]["best"]
    assert best == pytest.approx(logged["best_f1"], abs=0.01)
    # no answer at all is right for 5 of the 17 questions
    assert best >= 100 * 5 / 17 - 0.01
    assert {name.split(".")[0] for name in state["model"]} == {"encoder", "classification_heads"}


def test_two_processes_score_the_whole_set(data: Path, run_train, tmp_path: Path) -> None:
    """The windows of a question are on either rank; its score needs all of them."""
    two = ["--distributed-world-size", "2", "--ddp-backend", "legacy_ddp", "--batch-size", "4"]
    finished = run_train(data, tmp_path, *OPTIONS, *two, "--max-epoch", "1")
    assert finished.returncode == 0, finished.stderr[-4000:]
    found = validations(finished.stdout + finished.stderr)[-1]
    scores = predict(Finetuned.load(tmp_path / "checkpoint_last.pt"), tmp_path / "predictions")["valid"]
    for name in ("f1", "exact", "HasAns_f1", "NoAns_exact"):
        assert found[name] == pytest.approx(scores[name], abs=0.01)


def test_it_resumes(data: Path, trained, run_train, tmp_path: Path) -> None:
    folder, _ = trained
    shutil.copyfile(folder / "checkpoint1.pt", tmp_path / "checkpoint_last.pt")
    finished = run_train(data, tmp_path, *OPTIONS)
    assert finished.returncode == 0, finished.stderr[-4000:]
    straight, resumed = weights(folder / "checkpoint_last.pt"), weights(tmp_path / "checkpoint_last.pt")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens_per_sample": 18, "question_tokens": 14}, "--tokens-per-sample 18 leaves no room"),
        ({"doc_stride": 0}, "--doc-stride 0 is below 1"),
        ({"question_tokens": 0}, "--question-tokens 0 is below 1"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, int], message: str, data: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        SquadTask.setup_task(SquadConfig(data=str(data), **options))
    assert "\n" not in str(caught.value)


def test_other_criterions_and_short_models_are_one_line(data: Path, small_data: Path) -> None:
    task = SquadTask.setup_task(SquadConfig(data=str(data), tokens_per_sample=128))
    with pytest.raises(UserError, match="--task squad goes with --criterion squad, not mlm"):
        task.build_criterion(Namespace(_name="mlm"))
    tiny = OmegaConf.structured(MLMConfig(_name="mlm", max_positions=100, **vars(SIZES["tiny"])))
    with pytest.raises(UserError, match="--tokens-per-sample 128 is more than the model's --max-positions 100"):
        task.build_model(tiny)
    with pytest.raises(UserError, match="--criterion squad goes with --task squad"):
        SquadCriterion(SquadCriterionConfig(), Namespace(target_dictionary=None))
    with pytest.raises(UserError, match=r"paragraphs\.idx does not exist"):
        task.load_dataset("nowhere")


def test_every_model_gets_the_head(data: Path) -> None:
    task = SquadTask.setup_task(SquadConfig(data=str(data), tokens_per_sample=128))
    for name, config in MODEL_DATACLASS_REGISTRY.items():
        if name in ("mlm", "map_net", "three_ml", "amos"):
            elsewhere = [option.name for option in fields(config) if str(option.default).startswith("${")]
            cfg = config(_name=name, **vars(SIZES["tiny"]), **dict.fromkeys(elsewhere, 1))
            model = task.build_model(OmegaConf.structured(cfg))
            tokens = torch.arange(4, 24).view(2, 10)
            logits, _ = model(tokens, features_only=True, classification_head_name=task.span_head)
            assert logits.shape == (2, 10, 2)
            assert {key.split(".")[0] for key in model.state_dict()} == {"encoder", "classification_heads"}


def test_it_learns_answers_by_heart(data: Path, device: torch.device) -> None:
    """From characters in SQuAD's file to columns of a row, through the loss, and back to the same text."""
    torch.manual_seed(0)
    task = SquadTask.setup_task(SquadConfig(data=str(data), tokens_per_sample=128, seed=1))
    task.load_dataset("train")
    dataset = task.dataset("train")
    sample = utils.apply_to_sample(
        lambda tensor: tensor.to(device), dataset.collater([dataset[index] for index in range(9)])
    )
    tiny = MLMConfig(_name="mlm", dropout=0.0, attention_dropout=0.0, **vars(SIZES["tiny"]))
    model = task.build_model(OmegaConf.structured(tiny)).to(device)
    criterion = SquadCriterion(SquadCriterionConfig(), task).train()
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=2e-3), []
    for _ in range(40):
        loss, num_rows, _ = criterion(model, sample)
        losses.append(loss.item() / num_rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] > 3.5 and 0.01 < losses[-1] < 0.3
    with metrics.aggregate(new_root=True) as aggregator, torch.no_grad():
        loss, num_rows, logs = criterion.eval()(model.eval(), sample)
        criterion.reduce_metrics([logs])
    scores = aggregator.get_smoothed_values()
    assert scores["loss"] == pytest.approx(loss.item() / num_rows / math.log(2), abs=1e-3)
    assert scores["f1"] == scores["exact"] == scores["HasAns_exact"] == scores["NoAns_f1"] == 100


def test_a_set_without_unanswerable_questions_is_logged() -> None:
    rows = torch.tensor([[0, 3.0, 1.0, 1.0, 1.0, 1, 1]], dtype=torch.float64)
    with metrics.aggregate(new_root=True) as aggregator:
        SquadCriterion.reduce_metrics([{"loss": torch.tensor(1.0), "sample_size": 1, "_rows": rows}])
    scores = aggregator.get_smoothed_values()
    assert scores["f1"] == scores["HasAns_f1"] == 100 and math.isnan(scores["NoAns_f1"])


def test_no_row_is_left_out(data: Path) -> None:
    task = SquadTask.setup_task(SquadConfig(data=str(data), tokens_per_sample=48, question_tokens=16, seed=1))
    task.load_dataset("valid")
    rows = len(task.dataset("valid"))
    batches = task.get_batch_iterator(
        task.dataset("valid"), max_sentences=rows - 1, required_batch_size_multiple=rows - 1
    ).frozen_batches
    assert sorted(index for batch in batches for index in batch) == list(range(rows))
