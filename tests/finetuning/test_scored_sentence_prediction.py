"""fairseq's sentence_prediction task with scores of the whole validation set, and the files made from it."""

import json
import re
from argparse import Namespace
from pathlib import Path

import finetuning_data
import pytest
import torch
import torch.nn.functional as F
from commands import PACKAGE, run_command, run_verb
from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from fairseq.logging import metrics

from fairseq_masking.errors import UserError
from fairseq_masking.finetuning.criterion import ScoredSentencePredictionConfig, ScoredSentencePredictionCriterion

OPTIONS = """
    --task sentence_prediction --criterion scored_sentence_prediction --init-token 0 --separator-token 2
    --arch mlm_tiny --optimizer adam --lr 1e-3 --dropout 0 --required-batch-size-multiple 1 --batch-size 8
    --max-epoch 2 --maximize-best-checkpoint-metric --num-workers 0 --log-format json --cpu
""".split()  # noqa: SIM905


def label_dictionary(*names: str) -> Dictionary:
    result = Dictionary()
    for name in (*names, "<mask>"):
        result.add_symbol(name)
    return result


def build(names: tuple[str, ...], num_classes: int, **options: object) -> ScoredSentencePredictionCriterion:
    task = Namespace(
        label_dictionary=label_dictionary(*names), target_dictionary=None, cfg=Namespace(num_classes=num_classes)
    )
    cfg = ScoredSentencePredictionConfig(**{"required_batch_size_multiple": 1, **options})
    return ScoredSentencePredictionCriterion(cfg, task)


class Fixed(torch.nn.Module):
    """A model that gives the logits it is told."""

    def forward(self, src_tokens, **_):
        return src_tokens, {}


def batch(logits: torch.Tensor, targets: list[float]) -> dict:
    rows = len(targets)
    target = torch.tensor(targets).view(rows, 1)
    return {"net_input": {"src_tokens": logits}, "target": target, "ntokens": rows, "nsentences": rows}


def validate(criterion, batches) -> dict[str, float]:
    criterion.eval()
    with metrics.aggregate(new_root=True) as aggregator:
        for sample in batches:
            _, _, logs = criterion(Fixed(), sample)
            criterion.reduce_metrics([logs])
    return aggregator.get_smoothed_values()


def test_classes_are_scored_over_all_batches() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [0.0, 3.0], [1.0, 0.0], [0.0, 9.0]])
    targets = [0, 1, 0, 0, 1]
    criterion = build(("no", "yes"), 2)
    found = validate(criterion, [batch(logits[:2], targets[:2]), batch(logits[2:], targets[2:])])
    loss = F.cross_entropy(logits, torch.tensor(targets)) / torch.log(torch.tensor(2.0))
    assert found["loss"] == pytest.approx(float(loss), abs=1e-3)
    assert found["accuracy"] == 80
    assert found["f1"] == 80  # 2 of 2 found, 1 wrong; a mean over batches would be 83.3
    assert found["mcc"] == pytest.approx(66.667)
    assert found["macro_f1"] == 80
    assert not [name for name in found if name.startswith("_")]
    with_halves = validate(criterion, [batch(logits[[n]], [targets[n]]) for n in range(5)])
    assert with_halves["f1"] == found["f1"] and with_halves["mcc"] == found["mcc"]


def test_scores_are_correlated_over_all_batches() -> None:
    logits = torch.tensor([[0.1], [0.2], [0.9], [0.4]])
    targets = [0.0, 0.5, 1.0, 0.25]
    criterion = build((), 1, regression_target=True)
    found = validate(criterion, [batch(logits[:2], targets[:2]), batch(logits[2:], targets[2:])])
    assert found["spearman"] == 80
    stacked = torch.stack([logits[:, 0], torch.tensor(targets)])
    assert found["pearson"] == pytest.approx(100 * float(torch.corrcoef(stacked)[0, 1]), abs=1e-3)
    error = ((logits[:, 0] - torch.tensor(targets)) ** 2).mean() / torch.log(torch.tensor(2.0))
    assert found["loss"] == pytest.approx(float(error), abs=1e-3)


def test_training_logs_sums_alone() -> None:
    criterion = build(("no", "yes"), 2).train()
    assert criterion.logging_outputs_can_be_summed()
    _, size, logs = criterion(Fixed(), batch(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), [0, 0]))
    assert size == 2 and set(logs) == {"loss", "ntokens", "nsentences", "sample_size", "num_correct"}
    with metrics.aggregate(new_root=True) as aggregator:
        criterion.reduce_metrics([logs, logs])
    assert aggregator.get_smoothed_values()["accuracy"] == 50
    assert not criterion.eval().logging_outputs_can_be_summed()


def test_errors() -> None:
    with pytest.raises(UserError, match="--required-batch-size-multiple 8 lets fairseq drop"):
        build(("a", "b"), 2, required_batch_size_multiple=8)
    with pytest.raises(UserError, match=r"--num-classes 2, but the data has 3 classes \(a, b, c\)"):
        build(("a", "b", "c"), 2)
    with pytest.raises(UserError, match=r"--num-classes 2, but the data has scores"):
        build((), 2, regression_target=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetuning_data.write_prepared_corpus(tmp_path_factory.mktemp("corpus"))


def train(data: Path, folder: Path, *options: str) -> dict[str, float]:
    """Fine-tune from scratch; return what the last validation logged."""
    places = [data, "--user-dir", PACKAGE, "--save-dir", folder]
    finished = run_command(["fairseq-train", *places, *OPTIONS, *options])
    assert finished.returncode == 0, finished.stderr[-4000:]
    logs = re.findall(r"\| valid \| (\{.*\})", finished.stdout + finished.stderr)
    return {key.removeprefix("valid_"): float(value) for key, value in json.loads(logs[-1]).items()}


def test_two_ranks_save_the_best_by_matthews(corpus: Path, tmp_path: Path, capsys) -> None:
    source = finetuning_data.write_sst2(tmp_path / "source", rows=64)
    data = finetuning_data.prepare("SST-2", source, corpus, tmp_path / "data")
    metric = ["--num-classes", "2", "--best-checkpoint-metric", "mcc"]
    two = ["--distributed-world-size", "2", "--ddp-backend", "legacy_ddp", "--batch-size", "5"]
    logged = train(data, tmp_path / "run", *metric, *two)
    state = checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "run" / "checkpoint_best.pt"))
    assert state["extra_state"]["best"] == logged["best_mcc"]
    last = tmp_path / "run" / "checkpoint_last.pt"
    assert run_verb("predict", "--checkpoint", last, "--out", tmp_path / "out", "--batch-size", 4) == 0
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())["valid"]
    for name in ("accuracy", "mcc", "f1", "macro_f1"):  # all 27 rows, though 27 is no multiple of 5 or 8
        assert scores[name] == pytest.approx(logged[name], abs=2e-3)
    lines = (tmp_path / "out" / "SST-2.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction" and [line.split("\t")[0] for line in lines[1:]] == list("0123456")
    assert {line.split("\t")[1] for line in lines[1:]} <= {"0", "1"}


def test_the_best_by_pearson_and_its_submission(corpus: Path, tmp_path: Path) -> None:
    source = finetuning_data.write_stsb(tmp_path / "source")
    data = finetuning_data.prepare("STS-B", source, corpus, tmp_path / "data")
    metric = ["--num-classes", "1", "--regression-target", "--best-checkpoint-metric", "pearson"]
    logged = train(data, tmp_path / "run", *metric)
    best = tmp_path / "run" / "checkpoint_best.pt"
    assert checkpoint_utils.load_checkpoint_to_cpu(str(best))["extra_state"]["best"] == logged["best_pearson"]
    assert run_verb("predict", "--checkpoint", best, "--out", tmp_path / "out") == 0
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())["valid"]
    assert scores["pearson"] == pytest.approx(logged["best_pearson"], abs=2e-3)
    lines = (tmp_path / "out" / "STS-B.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[0] for line in lines] == [str(n) for n in range(100, 105)]
    assert all(0 <= float(line.split("\t")[1]) <= 5 for line in lines)
    # trained on scores of 0 to 1 around a mean of 0.5, handed in as scores of 0 to 5
    assert sum(float(line.split("\t")[1]) for line in lines) / 5 > 1


def test_baselines(corpus: Path, tmp_path: Path, capsys) -> None:
    folders = []
    for task, write in (
        ("SST-2", finetuning_data.write_sst2),
        ("STS-B", finetuning_data.write_stsb),
        ("squad", finetuning_data.write_squad),
    ):
        source = write(tmp_path / f"{task} source")
        folders.append(finetuning_data.prepare(task, source, corpus, tmp_path / task))
    out = tmp_path / "scores.json"
    assert run_verb("baselines", "--data", *folders, "--out", out) == 0
    sst2, stsb, squad = json.loads(out.read_text()).values()
    lines = (tmp_path / "SST-2 source" / "dev.tsv").read_text().splitlines()[1:]
    train_lines = (tmp_path / "SST-2 source" / "train.tsv").read_text().splitlines()[1:]
    major = max("01", key=[line[-1] for line in train_lines].count)
    share = 100 * [line[-1] for line in lines].count(major) / len(lines)
    assert sst2["majority"]["valid"]["accuracy"] == pytest.approx(share)
    assert sst2["tfidf"]["valid"]["accuracy"] == 100  # one word decides
    assert stsb["majority"]["valid"]["pearson"] == 0 and "spearman" in stsb["tfidf"]["valid"]
    assert squad["majority"]["valid"]["f1"] == pytest.approx(100 * 5 / 17)
    assert "tfidf" in capsys.readouterr().out
    (tmp_path / "SST-2 source" / "dev.tsv").write_text("sentence\tlabel\nfine\t1\n")
    assert run_verb("baselines", "--data", folders[0]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "dev.tsv has changed since" in error
    assert run_verb("baselines", "--data", corpus) == 1


def test_predict_needs_a_fine_tuned_checkpoint(tmp_path: Path, capsys) -> None:
    assert run_verb("predict", "--checkpoint", tmp_path / "none.pt", "--out", tmp_path / "out") == 1
    assert "no such checkpoint" in capsys.readouterr().err
