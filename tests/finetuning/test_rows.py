"""Labelled files with everything that goes wrong in them: counted, named, or one clear line."""

import json
import re
from pathlib import Path

import pytest

from fairseq_masking.errors import UserError
from fairseq_masking.finetuning.glue import GLUE_TASKS, JSONL
from fairseq_masking.finetuning.rows import files_of_task, read_task, subsample

HEADERS = {
    "CoLA": (None, "index\tsentence"),
    "SST-2": ("sentence\tlabel", "index\tsentence"),
    "MRPC": ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "index\t#1 ID\t#2 ID\t#1 String\t#2 String"),
    "STS-B": ("index\tgenre\tsentence1\tsentence2\tscore", "index\tgenre\tsentence1\tsentence2"),
    "QQP": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "id\tquestion1\tquestion2"),
    "MNLI": ("index\tsentence1\tsentence2\tlabel1\tgold_label", "index\tsentence1\tsentence2"),
    "QNLI": ("index\tquestion\tsentence\tlabel", "index\tquestion\tsentence"),
    "RTE": ("index\tsentence1\tsentence2\tlabel", "index\tsentence1\tsentence2"),
    "WNLI": ("index\tsentence1\tsentence2\tlabel", "index\tsentence1\tsentence2"),
}

LABELS = {  # column, classes, metrics of the leaderboard
    "CoLA": ("label", "0 1", "mcc"),
    "SST-2": ("label", "0 1", "accuracy"),
    "MRPC": ("Quality", "0 1", "f1 accuracy"),
    "STS-B": ("score", "", "pearson spearman"),
    "QQP": ("is_duplicate", "0 1", "f1 accuracy"),
    "MNLI": ("gold_label", "contradiction entailment neutral", "accuracy"),
    "QNLI": ("label", "entailment not_entailment", "accuracy"),
    "RTE": ("label", "entailment not_entailment", "accuracy"),
    "WNLI": ("label", "0 1", "accuracy"),
}


def write(folder: Path, **splits: bytes | str) -> Path:
    for name, content in splits.items():
        raw = content if isinstance(content, bytes) else content.encode()
        (folder / f"{name}.tsv").write_bytes(raw)
    return folder


def sst2(tmp_path: Path, train: bytes | str, **others: bytes | str) -> Path:
    return write(tmp_path, **{"train": train, "dev": "sentence\tlabel\nfine\t1\n", **others})


def write_jsonl(folder: Path, name: str, *records: object) -> None:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))


def read(task: str, folder: Path):
    return read_task(task, files_of_task(task, folder))


@pytest.mark.parametrize("name", GLUE_TASKS)
def test_each_tasks_columns(name: str, tmp_path: Path) -> None:
    task, (labelled, unlabelled) = GLUE_TASKS[name], HEADERS[name]
    column, classes, measures = LABELS[name]
    assert (task.labels, task.metrics) == (tuple(classes.split()), tuple(measures.split()))
    columns = ["source", "label", "mark", "sentence"] if labelled is None else labelled.split("\t")
    label = classes.split()[-1] if classes else "2.5"
    cells = {name: f"text of {name}" for name in columns} | {column: label}
    row = "\t".join(cells[column] for column in columns)
    for split, file in task.files.items():
        if split.startswith("test"):
            text = f"{unlabelled}\n" + "\t".join(["17", *(f"t {c}" for c in unlabelled.split("\t")[1:])]) + "\n"
        else:
            text = (f"{labelled}\n" if labelled else "") + row + "\n"
        (tmp_path / file).write_text(text)
    splits, labels = read(name, tmp_path)
    assert set(splits) == set(task.files) and labels == task.labels
    assert ("valid1" in splits) == (name == "MNLI")
    expected = tuple(f"text of {column}" for column in task.sentences)
    assert splits["train"].rows == [(expected, label, "0" if labelled is None else splits["train"].rows[0].id)]
    assert splits["test"].rows == [(tuple(f"t {column}" for column in task.sentences), None, "17")]
    assert not any(found.faults.kinds for found in splits.values())


def test_quotes_are_text_and_line_ends_may_be_crlf(tmp_path: Path) -> None:
    raw = b'\xef\xbb\xbfsentence\tlabel\r\n"open\t1\r\n""twice"" said he\t0\r\nlone \rreturn\t1\r\n\r\n'
    splits, _ = read("SST-2", sst2(tmp_path, raw))
    assert [row.texts[0] for row in splits["train"].rows] == ['"open', '""twice"" said he', "lone \rreturn"]
    assert [row.label for row in splits["train"].rows] == ["1", "0", "1"]


def test_faulty_rows_are_counted_and_named(tmp_path: Path) -> None:
    rows = b"good\t1\n\t0\n  \t0\nno label\nthree\t1\tcells\nneutral\t2\nempty\t\n\xff\xfe\t1\nbad\t0\n"
    found = read("SST-2", sst2(tmp_path, b"sentence\tlabel\n" + rows))[0]["train"]
    assert [row.texts[0] for row in found.rows] == ["good", "bad"]
    assert found.faults.kinds == {"empty text": 2, "not 2 cells": 2, "unknown label": 2, "not UTF-8": 1}
    assert found.faults.lines[0] == r"train.tsv:3: empty text: '\t0'"
    assert found.faults.lines[4] == r"train.tsv:7: unknown label: 'neutral\t2'"


def test_a_test_set_keeps_a_row_for_every_line(tmp_path: Path) -> None:
    test = "index\tsentence\n0\tfine\n1\t\n2\tsplit\there\n3\tcold\n"
    found = read("SST-2", sst2(tmp_path, "sentence\tlabel\nfine\t1\n", test=test))[0]["test"]
    assert [row.texts[0] for row in found.rows] == ["fine", "", "", "cold"]
    assert [row.id for row in found.rows] == ["0", "1", "2", "3"]
    assert found.faults.kinds.total() == 2


@pytest.mark.parametrize("label", [{}, {"label": "no"}], ids=["without labels", "with labels"])
def test_a_jsonl_test_set_keeps_a_row_for_every_line_if_it_is_to_be_handed_in(
    label: dict[str, str], tmp_path: Path
) -> None:
    write_jsonl(tmp_path, "train", {"text": "a", "label": "yes"}, {"text": "b", "label": "no"})
    write_jsonl(tmp_path, "dev", {"text": "a", "label": "yes"})
    faulty = [{"text": "", **label}, "{broken", {"text": "c", "label": "?"}, {"text": "\ud800", **label}]
    write_jsonl(tmp_path, "test", {"text": "good", **label}, *faulty, {"text": "cold", **label})
    found = read(JSONL, tmp_path)[0]["test"]
    assert found.faults.kinds == {"empty text": 1, "no JSON": 1, "unknown label": 1, "lone surrogate": 1}
    texts = [row.texts[0] for row in found.rows]
    if label:
        assert texts == ["good", "cold"] and all(row.label == "no" for row in found.rows)
    else:
        assert texts == ["good", "", "", "", "", "cold"]
        assert [row.id for row in found.rows] == list("012345")


@pytest.mark.parametrize("label", ["<unk>", "<pad>", "two\nlines", "two\rlines"])
def test_labels_that_a_dictionary_cannot_hold(label: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path, "train", {"text": "a", "label": label}, {"text": "b", "label": "no"})
    write_jsonl(tmp_path, "dev", {"text": "b", "label": "no"})
    message = f"train.jsonl has the label {label!r}, which a dictionary cannot hold"
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        read(JSONL, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_file_of_blank_lines(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dev.tsv has only blank lines"):
        read("SST-2", sst2(tmp_path, "sentence\tlabel\nfine\t1\n", dev="\n \n"))


def test_scores_must_be_scores(tmp_path: Path) -> None:
    header = "index\tgenre\tsentence1\tsentence2\tscore\n"
    rows = "".join(f"{n}\tnews\ta\tb\t{score}\n" for n, score in enumerate(["5.0", "5.1", "-1", "nan", "x", "0"]))
    write(tmp_path, train=header + rows, dev=header + "0\tn\ta\tb\t1\n")
    found = read("STS-B", tmp_path)[0]["train"]
    assert [row.label for row in found.rows] == ["5.0", "0"]
    assert found.faults.kinds == {"no score of 0 to 5": 4}


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("text\tlabel\nfine\t1\n", r"train.tsv has no column 'sentence', only 'text', 'label'; give SST-2's"),
        (
            "sentence\tlabel\nfine\tx\n",
            r"train.tsv has no row .* \(1 unknown label\); expected are .* 'sentence', 'label' .* of 0, 1",
        ),
        ("sentence\tlabel\n", r"has no row that can be used \(it is empty\)"),
        (b"\xff\tlabel\n", r"line 1 is not UTF-8"),
        ("", r"train.tsv is empty"),
    ],
)
def test_a_wrong_file_is_one_line(train: bytes | str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read("SST-2", sst2(tmp_path, train))
    assert "\n" not in str(caught.value)


def test_missing_files_and_unknown_tasks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'SST' is none of CoLA, SST-2"):
        files_of_task("SST", tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        files_of_task("RTE", tmp_path / "nowhere")
    write(tmp_path, train="sentence\tlabel\nfine\t1\n")
    with pytest.raises(UserError, match=r"dev.tsv does not exist"):
        files_of_task("SST-2", tmp_path)
    write(tmp_path, dev="sentence\tlabel\nfine\t1\n")
    assert set(files_of_task("SST-2", tmp_path)) == {"train", "valid"}


def test_jsonl_labels_come_from_the_training_set(tmp_path: Path) -> None:
    def lines(*records: object) -> str:
        return "".join(json.dumps(record) + "\n" for record in records)

    (tmp_path / "train.jsonl").write_text(
        lines({"text": "a", "label": "Uses"}, {"text": "b", "label": "Background", "more": 1})
        + "{broken\n"
        + lines(["a", "list"], {"text": ""}, {"text": "c"}, {"text": "d", "label": ["x"]})
        + lines({"text": " ", "label": "Uses"})
    )
    (tmp_path / "dev.jsonl").write_text(lines({"text": "a", "label": "Future"}, {"text": "a", "label": "Uses"}))
    (tmp_path / "test.jsonl").write_text(lines({"text": "a"}, {"text": "b"}))
    splits, labels = read(JSONL, tmp_path)
    assert labels == ("Background", "Uses")
    assert len(splits["train"].rows) == 2
    assert splits["train"].faults.kinds == {"no JSON": 1, 'no "text"': 1, 'no "label"': 3, "empty text": 1}
    assert splits["valid"].faults.kinds == {"unknown label": 1} and len(splits["valid"].rows) == 1
    assert [row.label for row in splits["test"].rows] == [None, None]
    (tmp_path / "train.jsonl").write_text(lines({"text": "a", "label": 1}))
    with pytest.raises(UserError, match="has the one label '1'"):
        read(JSONL, tmp_path)


def test_whole_numbers_are_one_label_and_scores_are_none(tmp_path: Path) -> None:
    write_jsonl(tmp_path, "train", {"text": "a", "label": 0}, {"text": "b", "label": 1})
    write_jsonl(tmp_path, "dev", {"text": "a", "label": 0.0}, {"text": "b", "label": 1.0})
    splits, labels = read(JSONL, tmp_path)
    assert labels == ("0", "1") and [row.label for row in splits["valid"].rows] == ["0", "1"]
    write_jsonl(tmp_path, "train", {"text": "a", "label": 0.25}, {"text": "b", "label": 1})
    with pytest.raises(UserError, match=r"train.jsonl has the label 0.25: a JSONL task has classes.*STS-B"):
        read(JSONL, tmp_path)
    write_jsonl(tmp_path, "train", {"sentence": "a", "label": 1})
    with pytest.raises(UserError, match=r'\(1 no "text"\); expected is a row a line: \{"text"'):
        read(JSONL, tmp_path)


@pytest.mark.parametrize("place", ["MNLI/diagnostic.tsv", "AX/AX.tsv"])
def test_mnli_takes_the_diagnostics(place: str, tmp_path: Path) -> None:
    (tmp_path / "MNLI").mkdir()
    for name in ("train", "dev_matched", "dev_mismatched"):
        rows = "".join(f"a\tb\t{label}\n" for label in GLUE_TASKS["MNLI"].labels)
        (tmp_path / f"MNLI/{name}.tsv").write_text("sentence1\tsentence2\tgold_label\n" + rows)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("index\tsentence1\tsentence2\n7\tc\td\n")
    splits, _ = read("MNLI", tmp_path / "MNLI")
    assert splits["test2"].rows == [(("c", "d"), None, "7")] and GLUE_TASKS["MNLI"].submissions["test2"] == "AX.tsv"


def test_a_subsample_is_fixed_and_in_order() -> None:
    rows = list(range(100))
    drawn = subsample(rows, 10, seed=1)
    assert len(set(drawn)) == 10 and drawn == sorted(drawn) == subsample(rows, 10, seed=1)
    assert drawn != subsample(rows, 10, seed=2)
    assert subsample(rows, None, 1) == subsample(rows, 100, 1) == rows
