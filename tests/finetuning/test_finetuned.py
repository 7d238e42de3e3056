"""Predictions of a whole split, in the order of the task's own file, and the files made from them."""

import json
from argparse import Namespace
from pathlib import Path

import finetuning_data
import numpy as np
import pytest
import torch
from commands import run_verb
from fairseq.logging import metrics
from fairseq.tasks.sentence_prediction import SentencePredictionConfig, SentencePredictionTask
from omegaconf import OmegaConf

from fairseq_masking.errors import UserError
from fairseq_masking.finetuning.finetuned import Finetuned, predict
from fairseq_masking.finetuning.metrics import answer_scores
from fairseq_masking.finetuning.squad.criterion import Candidates, SquadCriterion, SquadCriterionConfig
from fairseq_masking.finetuning.squad.task import SquadConfig, SquadTask
from fairseq_masking.methods.base.options import SIZES
from fairseq_masking.methods.mlm.model import MLMConfig

HEAD = "sentence_classification_head"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetuning_data.write_prepared_corpus(tmp_path_factory.mktemp("corpus"))


def untrained(task, name: str, data: Path, device: torch.device, **criterion: object) -> Finetuned:
    torch.manual_seed(3)
    model = task.build_model(OmegaConf.structured(MLMConfig(_name="mlm", **vars(SIZES["tiny"]))))
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.2)  # else all rows get the same prediction
    cfg = OmegaConf.create({"task": {"_name": name, "data": str(data)}, "criterion": criterion})
    return Finetuned(model.to(device), task, cfg)


def classifier(data: Path, device: torch.device, num_classes: int) -> Finetuned:
    cfg = SentencePredictionConfig(data=str(data), num_classes=num_classes, init_token=0, separator_token=2)
    cfg.seed, cfg.classification_head_name, cfg.regression_target = 1, HEAD, num_classes == 1
    criterion = {"classification_head_name": HEAD, "regression_target": num_classes == 1}
    task = SentencePredictionTask.setup_task(cfg)
    return untrained(task, "sentence_prediction", data, device, **criterion)


def test_rows_come_in_the_files_order(corpus: Path, tmp_path: Path, device: torch.device) -> None:
    source = finetuning_data.write_sst2(tmp_path / "source")
    data = finetuning_data.prepare("SST-2", source, corpus, tmp_path / "data")
    finetuned = classifier(data, device, 2)
    logits_NC = finetuned.predict_rows("test").logits_NC
    margins = np.sort(logits_NC[:, 1] - logits_NC[:, 0])
    with torch.no_grad():  # so that three rows are of class 0 and four of class 1
        finetuned.model.classification_heads[HEAD].out_proj.bias[1] -= margins[2:4].mean()
    found = finetuned.predict_rows("valid", batch_size=4)
    lines = (source / "dev.tsv").read_text().splitlines()[1:]
    assert found.targets_N.tolist() == [float(line.split("\t")[1]) for line in lines]
    dataset = finetuned.task.dataset("valid")
    for index in range(len(dataset)):
        tokens = dataset[index]["net_input.src_tokens"][None].to(device)
        logits, _ = finetuned.model(tokens, features_only=True, classification_head_name=HEAD)
        np.testing.assert_allclose(found.logits_NC[index], logits[0].detach().cpu(), rtol=1e-4, atol=1e-4)
    scores = predict(finetuned, tmp_path / "out", batch_size=5)
    assert scores["valid"]["accuracy"] == pytest.approx(100 * np.mean(found.logits_NC.argmax(1) == found.targets_N))
    expected = finetuned.predict_rows("test").logits_NC.argmax(1)
    assert expected.sum() == 4
    lines = (tmp_path / "out" / "SST-2.tsv").read_text().splitlines()
    assert lines == ["index\tprediction", *(f"{n}\t{label}" for n, label in enumerate(expected))]


def test_scores_are_handed_in_as_0_to_5(corpus: Path, tmp_path: Path, device: torch.device) -> None:
    source = finetuning_data.write_stsb(tmp_path / "source")
    data = finetuning_data.prepare("STS-B", source, corpus, tmp_path / "data")
    finetuned = classifier(data, device, 1)
    head = finetuned.model.classification_heads[HEAD].out_proj
    with torch.no_grad():  # scores around 0.97 of 1, some of them above it
        head.weight.mul_(0.1 / finetuned.predict_rows("test").logits_NC.std())
        head.bias.add_(0.97 - finetuned.predict_rows("test").logits_NC.mean())
    predict(finetuned, tmp_path / "out")
    expected = 5 * finetuned.predict_rows("test").logits_NC[:, 0]
    assert expected.min() < 4.8 < 5 < expected.max()
    expected = np.minimum(expected, 5)
    lines = (tmp_path / "out" / "STS-B.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[0] for line in lines] == [str(n) for n in range(100, 105)]
    np.testing.assert_allclose([float(line.split("\t")[1]) for line in lines], expected, atol=1e-3)


def test_answers_agree_with_validation(corpus: Path, tmp_path: Path, device: torch.device) -> None:
    source = finetuning_data.write_squad(tmp_path / "source", test=True)
    data = finetuning_data.prepare("squad", source, corpus, tmp_path / "data")
    lengths = {"tokens_per_sample": 48, "doc_stride": 9, "question_tokens": 16}
    task = SquadTask.setup_task(SquadConfig(data=str(data), seed=1, **lengths))
    finetuned = untrained(task, "squad", data, device, n_best=20, max_answer_tokens=30)
    announced = predict(finetuned, tmp_path, batch_size=7)["valid"]

    criterion = SquadCriterion(SquadCriterionConfig(), task).eval()
    with metrics.aggregate(new_root=True) as aggregator, torch.no_grad():
        for sample, _ in finetuned._outputs("valid", 5, task.span_head):
            task.reduce_metrics([criterion(finetuned.model, sample)[2]], criterion)
    logged = aggregator.get_smoothed_values()
    assert len(task.dataset("valid")) > len(task.dataset("valid").examples.questions) == 17
    for name in ("f1", "exact", "f1_threshold", "HasAns_f1", "HasAns_exact", "NoAns_f1"):
        assert announced[name] == pytest.approx(logged[name], abs=2e-3), name

    record = json.loads((data / "valid.json").read_text())
    written = json.loads((tmp_path / "valid" / "predictions.json").read_text())
    worth = [answer_scores(question["answers"], written[question["id"]])[1] for question in record["questions"]]
    assert 100 * sum(worth) / len(worth) == pytest.approx(announced["f1"])
    for split, count in (("valid", 17), ("test", 4)):
        record = json.loads((data / f"{split}.json").read_text())
        texts = dict(zip([q["id"] for q in record["questions"]], record["paragraphs"], strict=True))
        written = json.loads((tmp_path / split / "predictions.json").read_text())
        margins = json.loads((tmp_path / split / "null_odds.json").read_text())
        nbest = json.loads((tmp_path / split / "nbest_predictions.json").read_text())
        assert len(written) == count
        for name, answers in nbest.items():
            assert len(answers) == 21 and answers[-1]["text"] == ""
            assert all(answer["text"] in texts[name] for answer in answers)
            scores = [answer["score"] for answer in answers[:-1]]
            assert scores == sorted(scores, reverse=True)
            assert margins[name] == pytest.approx(answers[-1]["score"] - scores[0])
            answered = margins[name] <= announced["f1_threshold"]
            assert written[name] == (answers[0]["text"] if answered else "")


def test_what_is_at_the_threshold_is_answered(
    corpus: Path, tmp_path: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = finetuning_data.write_squad(tmp_path / "source")
    data = finetuning_data.prepare("squad", source, corpus, tmp_path / "data")
    task = SquadTask.setup_task(SquadConfig(data=str(data), seed=1))
    task.load_dataset("valid")
    finetuned = untrained(task, "squad", data, device, n_best=20, max_answer_tokens=30)
    questions = json.loads((data / "valid.json").read_text())["questions"]
    found = [
        Candidates(number, [((question["answers"] or ["no"])[0], 5.0)], 3.0 if question["answers"] else 9.0)
        for number, question in enumerate(questions)
    ]
    monkeypatch.setattr(finetuned, "answer_questions", lambda split, batch_size: found)
    scores = predict(finetuned, tmp_path)["valid"]
    assert scores["f1"] == scores["HasAns_exact"] == scores["NoAns_exact"] == 100
    assert scores["f1_threshold"] == -2
    written = json.loads((tmp_path / "valid" / "predictions.json").read_text())
    assert written == {question["id"]: "".join(question["answers"]) for question in questions}


def test_only_prepared_data_are_predicted(corpus: Path, tmp_path: Path, device: torch.device) -> None:
    task = Namespace(build_model=lambda cfg: torch.nn.Linear(1, 1))
    with pytest.raises(UserError, match="holds no data to fine-tune on"):
        predict(untrained(task, "sentence_prediction", corpus, device), tmp_path / "out")


@pytest.mark.parametrize("damage", ["flipped", "cut short, and its digest lost"])
def test_nothing_is_left_of_predictions_that_fail(
    damage: str, corpus: Path, tmp_path: Path, device: torch.device
) -> None:
    data = finetuning_data.prepare("SST-2", finetuning_data.write_sst2(tmp_path / "s"), corpus, tmp_path / "data")
    ids = data / "ids" / "test.txt"
    ids.write_text(ids.read_text().replace("0", "9", 1) if damage == "flipped" else "0\n")
    if damage != "flipped":
        record = json.loads((data / "manifest.json").read_text())
        (data / "manifest.json").write_text(json.dumps({name: record[name] for name in record if name != "digests"}))
    expected = "is not as it was written" if damage == "flipped" else "has 1 rows, the split"
    with pytest.raises(UserError, match=rf"test\.txt {expected}"):
        predict(classifier(data, device, 2), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_question_gets_a_prediction(corpus: Path, tmp_path: Path, device: torch.device) -> None:
    """The official script wants one even where nothing is asked, or there is nothing to read."""
    source = finetuning_data.write_squad(tmp_path / "source", questions=2, test=True)
    for name in ("dev", "test"):
        content = json.loads((source / f"{name}-v2.0.json").read_text())
        paragraphs = content["data"][0]["paragraphs"] = content["data"][0]["paragraphs"][:2]
        paragraphs[0]["qas"][0]["question"], paragraphs[1]["context"] = "", ""
        (source / f"{name}-v2.0.json").write_text(json.dumps(content))
    data = finetuning_data.prepare("squad", source, corpus, tmp_path / "data")
    task = SquadTask.setup_task(SquadConfig(data=str(data), seed=1))
    predict(untrained(task, "squad", data, device, n_best=20, max_answer_tokens=30), tmp_path)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    for name in ("valid/predictions", "test/predictions", "valid/null_odds", "test/nbest_predictions"):
        written = json.loads((tmp_path / f"{name}.json").read_text(), parse_constant=refuse)
        split = name.partition("/")[0].replace("valid", "dev")
        assert set(written) == {f"{split}0", f"{split}1"}
    assert "NoAns_f1" not in json.loads((tmp_path / "scores.json").read_text(), parse_constant=refuse)["valid"]


def label_dictionary(folder: Path, *names: str) -> Path:
    (folder / "label").mkdir(parents=True)
    (folder / "label" / "dict.txt").write_text("".join(f"{name} 1\n" for name in names))
    return folder


@pytest.mark.parametrize(
    ("classes", "is_there", "regression", "message"),
    [
        (("no", "yes"), True, False, None),
        (("no", "yes"), False, False, None),
        (("up", "down"), False, False, None),  # nothing tells
        (("up", "down"), True, False, r"has 2 classes \(up, down\), the checkpoint 2 \(no, yes\)"),
        (("yes", "no"), True, False, "has 2 classes"),
        (("no", "yes", "so"), False, False, r"has 3 classes \(no, yes, so\), the checkpoint 2 \(of names unknown"),
        (("no", "yes"), True, True, "the checkpoint 0"),
    ],
)
def test_other_data_have_the_same_classes(
    classes: tuple[str, ...],
    is_there: bool,
    regression: bool,
    message: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = label_dictionary(tmp_path / "own", "no", "yes") if is_there else tmp_path / "gone"
    task = {"_name": "sentence_prediction", "data": str(own), "num_classes": 2}
    cfg = OmegaConf.create({"task": task, "criterion": {"regression_target": regression}})
    monkeypatch.setattr("fairseq_masking.checkpoints.loading.load_tensors", lambda path, way_out: {"cfg": cfg})
    monkeypatch.setattr("fairseq_masking.finetuning.finetuned.finetuning_settings", lambda data: {})
    checkpoint, data = tmp_path / "checkpoint.pt", label_dictionary(tmp_path / "other", *classes)
    checkpoint.touch()
    with pytest.raises(UserError if message else FileNotFoundError, match=message):  # there are no texts
        Finetuned.load(checkpoint, data=data)


def test_a_device_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    argv = ("predict", "--checkpoint", tmp_path / "none.pt", "--out", tmp_path, "--device")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert run_verb(*argv, "cuda") == 2
    error = capsys.readouterr().err
    assert "--device: 'cuda' is not here; choose of cpu" in error and error.count("\n") == 1
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert run_verb(*argv, "cuda:0") == 1 and "no such checkpoint" in capsys.readouterr().err
