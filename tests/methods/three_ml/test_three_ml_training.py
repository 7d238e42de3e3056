"""3ML through the commands, beside what ``test_method_contract`` has of it: table, fill masks, fine-tune."""

import csv
import shutil

import pytest
import torch
from commands import PACKAGE, assert_ok, prepare_sentences, run_command, run_fairseq_train, weights
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

from fairseq_masking.cli.main import main
from fairseq_masking.methods.three_ml.model import ThreeMLModel

CROSS = ("--arch", "three_ml_tiny", "--decoder-attention", "cross", "--mask-prob", "0.4")


def test_table_of_a_run(small_data, tmp_path, capsys):
    options = (*CROSS, "--log-format", "json", "--log-file", tmp_path / "whole" / "train.log")
    (tmp_path / "whole").mkdir()
    assert_ok(run_fairseq_train(small_data, tmp_path / "whole", *options))
    assert main(["table", str(tmp_path / "whole")]) == 0
    header, _, row = capsys.readouterr().out.strip().splitlines()
    assert "ppl_mask" in header and "encoder_length" in header and "three_ml_tiny" in row
    assert main(["table", str(small_data)]) == 1
    assert "no checkpoint_last.pt under" in capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A cross-attention model on prepared text."""
    folder = tmp_path_factory.mktemp("three_ml")
    data = prepare_sentences(folder)
    assert_ok(run_fairseq_train(data, folder / "checkpoints", *CROSS, "--max-update", "3"))
    return folder


def test_fill_mask_keeps_the_decoder(trained):
    hub = ThreeMLModel.from_pretrained(trained / "checkpoints")
    text = "The <mask> sat on the mat."
    tokens = hub.encode(text)
    column = int((tokens == hub.dictionary.index("<mask>")).nonzero())
    read = []
    hub.model.encoder.register_forward_pre_hook(lambda module, given: read.append(given[0]))
    fillings = hub.fill_mask(text, topk=3)
    assert hub.dictionary.index("<mask>") not in read[0] and read[0].shape[1] == len(tokens) - 1
    with torch.no_grad():
        probabilities = hub.model(tokens[None])[0][0, column].softmax(-1)
    expected = probabilities.topk(3).values.tolist()
    assert [filling.probability for filling in fillings] == pytest.approx(expected)
    hub.model.decoder.mask_embedding.data += torch.linspace(-1, 1, 64)
    assert [f.probability for f in hub.fill_mask(text, topk=3)] != pytest.approx(expected, rel=1e-4)


def test_mutual_information_command(trained, tmp_path, capsys):
    out, figure = tmp_path / "a.csv", tmp_path / "a.png"
    options = ["--checkpoint", str(trained / "checkpoints" / "checkpoint_last.pt"), "--names", "cross"]
    options += ["--data", str(trained / "data"), "--split", "train", "--states", "300", "--frequent", "20"]
    files = ["--out", str(out), "--figure", str(figure)]
    assert main(["measure", "information", *options, *files, "--clusters", "5"]) == 0
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    assert [(row["model"], row["layer"], row["states"]) for row in rows] == [
        ("cross", str(layer), "300") for layer in range(3)
    ]
    assert all(0 <= float(row["information"]) <= float(row["entropy"]) for row in rows)
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "| cross" in capsys.readouterr().out
    assert main(["measure", "information", *options, "--clusters", "999999"]) == 1
    assert "--clusters 999999: there are 300 states" in capsys.readouterr().err


def test_it_fine_tunes_with_the_stock_task(trained, tmp_path):
    """The encoder is the checkpoint's, and reads every token."""
    data = tmp_path / "data"
    for part in ("input0", "label"):
        (data / part).mkdir(parents=True)
    (data / "label" / "dict.txt").write_text("0 1\n1 1\n", encoding="utf-8")
    shutil.copy(trained / "data" / "dict.txt", data / "input0" / "dict.txt")
    for split, count in (("train", 16), ("valid", 8)):
        write_items(data / "input0" / split, [[4 + number, 9, 11, 2] for number in range(count)])
        write_items(data / "label" / split, [[4 + number % 2] for number in range(count)])
    finished = run_command(
        ["fairseq-train", data, "--user-dir", PACKAGE, "--save-dir", tmp_path / "tuned", *CROSS[:4],
         "--task", "sentence_prediction", "--criterion", "sentence_prediction", "--num-classes", "2",
         "--init-token", "0", "--restore-file", trained / "checkpoints" / "checkpoint_last.pt",
         "--reset-optimizer", "--reset-dataloader", "--reset-meters", "--reset-lr-scheduler",
         "--optimizer", "adam", "--lr", "0.0", "--batch-size", "8", "--max-update", "1", "--cpu",
         "--num-workers", "0", "--required-batch-size-multiple", "1"]
    )  # fmt: skip
    assert_ok(finished)
    before, after = weights(trained / "checkpoints"), weights(tmp_path / "tuned")
    encoder = [key for key in before if key.startswith("encoder.")]
    assert encoder and all(torch.equal(before[key], after[key]) for key in encoder)
    assert "classification_heads.sentence_classification_head.dense.weight" in after
    assert {key.split(".")[0] for key in after} == {"encoder", "classification_heads"}


def write_items(path, items):
    builder = MMapIndexedDatasetBuilder(f"{path}.bin")
    for item in items:
        builder.add_item(torch.tensor(item))
    builder.finalize(f"{path}.idx")
