"""From a task's own files to the folder that fairseq's sentence_prediction and our squad task read."""

import json
from pathlib import Path

import finetuning_data
import pytest
from commands import run_verb
from fairseq.data import Dictionary
from fairseq.tasks.sentence_prediction import SentencePredictionConfig, SentencePredictionTask
from omegaconf import OmegaConf

from fairseq_masking.corpus.dictionary import class_names
from fairseq_masking.corpus.encoding import TextEncoder
from fairseq_masking.corpus.manifest import read_manifest
from fairseq_masking.finetuning.prepare import truncated_lengths


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetuning_data.write_prepared_corpus(tmp_path_factory.mktemp("corpus"), "--lowercase")


def stock_task(data: Path, **options: object) -> SentencePredictionTask:
    cfg = SentencePredictionConfig(data=str(data), num_classes=2, init_token=0, separator_token=2, seed=1)
    for name, value in {"regression_target": False, **options}.items():
        setattr(cfg, name, value)
    return SentencePredictionTask.setup_task(cfg)


def items(task: SentencePredictionTask, split: str) -> list[dict]:
    task.load_dataset(split)
    dataset = task.dataset(split)
    return [dataset[index] for index in range(len(dataset))]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("lengths", "room", "kept"),
    [
        ((5,), 7, (5,)),
        ((6,), 7, (5,)),
        ((3, 3), 10, (3, 3)),
        ((3, 4), 10, (3, 3)),
        ((9, 1), 10, (5, 1)),
        ((1, 9), 10, (1, 5)),
        ((9, 9), 11, (4, 3)),
        ((4, 9), 11, (4, 3)),
        ((3, 9), 11, (3, 4)),
    ],
)
def test_the_longer_text_is_cut_first(lengths: tuple[int, ...], room: int, kept: tuple[int, ...]) -> None:
    assert truncated_lengths(lengths, room) == kept
    slow = list(lengths)
    while sum(slow) > room - 2 * len(slow):
        slow[slow.index(max(slow))] -= 1
    assert sum(slow) == sum(kept) and sorted(slow) == sorted(kept)


def test_stock_fairseq_reads_classes(corpus: Path, tmp_path: Path) -> None:
    source = finetuning_data.write_sst2(tmp_path / "source")
    data = finetuning_data.prepare("SST-2", source, corpus, tmp_path / "data")
    task, encoder = stock_task(data), TextEncoder.of_corpus(corpus)
    assert task.label_dictionary.symbols[4:] == ["0", "1", "<mask>"]
    for split, name in (("train", "train"), ("valid", "dev")):
        lines = (source / f"{name}.tsv").read_text().splitlines()[1:]
        found = items(task, split)
        assert len(found) == len(lines)
        for item, line in zip(found, lines, strict=True):
            text, label = line.split("\t")
            assert item["net_input.src_tokens"].tolist() == [0, *encoder(text), 2]
            assert item["target"].tolist() == [int(label)]
    assert "target" not in items(task, "test")[0]
    assert (data / "ids" / "test.txt").read_text().split() == [str(n) for n in range(7)]


def test_stock_fairseq_reads_pairs_and_scores(corpus: Path, tmp_path: Path) -> None:
    source = finetuning_data.write_stsb(tmp_path / "source")
    data = finetuning_data.prepare("STS-B", source, corpus, tmp_path / "data", "--max-length", "20")
    task = stock_task(data, num_classes=1, regression_target=True)
    encoder = TextEncoder.of_corpus(corpus)
    found = items(task, "valid")
    lines = (source / "dev.tsv").read_text().splitlines()[1:]
    cut = 0
    for item, line in zip(found, lines, strict=True):
        _, _, first, second, score = line.split("\t")
        ids = encoder(first), encoder(second)
        kept = truncated_lengths(tuple(map(len, ids)), 20)
        cut += sum(kept) < sum(map(len, ids))
        assert item["net_input.src_tokens"].tolist() == [0, *ids[0][: kept[0]], 2, 2, *ids[1][: kept[1]], 2]
        assert float(item["target"][0]) == pytest.approx(float(score) / 5)
    assert 0 < cut == read_manifest(data).counts["valid"]["truncated"]
    assert (data / "ids" / "test.txt").read_text().split()[0] == "100"


def test_long_documents_are_cut_and_counted(corpus: Path, tmp_path: Path) -> None:
    rows = [{"text": "river " * 10_000, "label": "a"}, {"text": "house", "label": "b"}]
    (tmp_path / "source").mkdir()
    for name in ("train", "dev"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "source" / f"{name}.jsonl").write_text(text)
    data = finetuning_data.prepare("jsonl", tmp_path / "source", corpus, tmp_path / "data", "--max-length", "64")
    assert read_manifest(data).counts["train"]["truncated"] == 1
    lengths = [len(item["net_input.src_tokens"]) for item in items(stock_task(data), "train")]
    assert lengths[0] == 64 > lengths[1]
    assert (data / "label" / "dict.txt").read_text() == "a 1\nb 1\n"


def test_the_names_of_the_classes(tmp_path: Path) -> None:
    names = ("", "a name", "u\u2028v", "w\x85x")
    dictionary = Dictionary()
    for name in names:
        dictionary.add_symbol(name, n=7)
    dictionary.save(str(tmp_path / "label" / "dict.txt"))
    assert class_names(tmp_path) == names
    assert SentencePredictionTask.load_dictionary(str(tmp_path / "label" / "dict.txt")).symbols[4:-1] == [*names]
    assert class_names(tmp_path / "scores") == ()


def test_workers_do_not_matter(corpus: Path, tmp_path: Path) -> None:
    for task, source in (
        ("SST-2", finetuning_data.write_sst2(tmp_path / "sst2", rows=600)),
        ("squad", finetuning_data.write_squad(tmp_path / "squad", questions=150)),
    ):
        one = finetuning_data.prepare(task, source, corpus, tmp_path / f"{task}1")
        three = finetuning_data.prepare(task, source, corpus, tmp_path / f"{task}3", "--workers", "3")
        assert files(one) == files(three)


def test_a_finished_folder_is_kept_or_replaced(corpus: Path, tmp_path: Path, capsys) -> None:
    source = finetuning_data.write_sst2(tmp_path / "source")
    with (source / "train.tsv").open("a") as file:
        file.write("strange\t7\n")
    out = finetuning_data.prepare("SST-2", source, corpus, tmp_path / "data")
    assert (out / "skipped.log").read_text() == "train.tsv:62: unknown label: 'strange\\t7'\n"
    printed = capsys.readouterr().out
    assert "faulty: unknown label" in printed and "skipped.log" in printed
    before = files(out)
    finetuning_data.prepare("SST-2", source, corpus, out)
    assert "nothing to do" in capsys.readouterr().out and files(out) == before

    def run(*options: str) -> tuple[int, str]:
        places = ("--task", "SST-2", "--data", source, "--corpus", corpus, "--out")
        status = run_verb("prepare", "task", *places, *options)
        return status, capsys.readouterr().err

    status, error = run(str(out), "--max-length", "16")
    assert status == 1 and "finetuning.max_length 512 -> 16" in error and error.count("\n") == 1
    assert run(str(out), "--max-length", "16", "--force")[0] == 0
    status, error = run(str(corpus), "--force")
    assert status == 1 and "holds no data to fine-tune on" in error
    assert read_manifest(corpus).counts["train"]["lines"] > 100
    assert not list(tmp_path.glob(".data*"))


def test_a_bad_input_leaves_nothing(corpus: Path, tmp_path: Path, capsys) -> None:
    source = finetuning_data.write_sst2(tmp_path / "source")
    (source / "dev.tsv").write_text("sentence\tlabel\nfine\t9\n")
    places = ("--data", source, "--corpus", corpus, "--out", tmp_path / "data")
    assert run_verb("prepare", "task", "--task", "SST-2", *places) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "dev.tsv has no row that can be used (1 unknown label)" in error
    assert not (tmp_path / "data").exists() and not list(tmp_path.glob(".data*"))


def test_the_corpus_of_a_checkpoint(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"cfg": OmegaConf.create({"task": {"data": f"{corpus}:{corpus}"}})}
    monkeypatch.setattr("fairseq_masking.checkpoints.loading.load_tensors", lambda path, way_out: state)
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.touch()
    source = finetuning_data.write_sst2(tmp_path / "source")
    places = ("--data", source, "--checkpoint", checkpoint, "--out", tmp_path / "data")
    assert run_verb("prepare", "task", "--task", "SST-2", *places) == 0
    state["cfg"]["task"]["data"] = str(tmp_path / "gone")
    assert run_verb("prepare", "task", "--task", "SST-2", *places) == 1


def test_faulty_questions_are_counted(corpus: Path, tmp_path: Path) -> None:
    source = finetuning_data.write_squad(tmp_path / "source")
    content = json.loads((source / "train-v2.0.json").read_text())
    paragraphs = content["data"][0]["paragraphs"]
    first = paragraphs[0]["qas"][0]
    paragraphs[0]["qas"] += [
        {**first, "id": "moved", "answers": [{**first["answers"][0], "answer_start": 0}]},
        {**first},
        {**first, "id": 7},
        {**first, "id": "no answer", "answers": []},
        {**first, "id": "no question", "question": " "},
        {**first, "id": "form", "answers": ["text"]},
    ]
    paragraphs.append({"context": "", "qas": [{**first, "id": "empty"}]})
    (source / "train-v2.0.json").write_text(json.dumps(content))
    data = finetuning_data.prepare("squad", source, corpus, tmp_path / "data")
    counts = read_manifest(data).counts["train"]
    assert counts["rows"] == 25 and counts["faulty"] == 6 and counts["without answer"] == 9
    assert {name for name in counts if name.startswith("faulty: ")} == {
        "faulty: answer that does not stand at answer_start",
        "faulty: id that another question has",
        "faulty: question without id",
        "faulty: empty question",
        "faulty: answers of another form",
        "faulty: paragraph without text",
    }
    (source / "dev-v2.0.json").write_text("[1]")
    places = ("--data", source, "--corpus", corpus, "--out", tmp_path / "other")
    assert run_verb("prepare", "task", "--task", "squad", *places) == 1


def test_a_set_without_an_answer_that_has_tokens_is_one_line(corpus: Path, tmp_path: Path, capsys) -> None:
    """SentencePiece drops a zero-width space at the end, which str.strip keeps."""
    source = finetuning_data.write_squad(tmp_path / "source")
    question = {"id": "a", "question": "What?", "answers": [{"text": "\u200b", "answer_start": 10}]}
    paragraph = {"context": "The river \u200b", "qas": [question]}
    (source / "train-v2.0.json").write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    places = ("--data", source, "--corpus", corpus, "--out", tmp_path / "data")
    assert run_verb("prepare", "task", "--task", "squad", *places) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "train-v2.0.json has no question that can be used (1 answer without a token of its own)" in error


@pytest.mark.parametrize("option", ["--max-train-rows", "--max-length", "--seed"])
def test_options_of_rows_are_refused_for_squad(option: str, tmp_path: Path, capsys) -> None:
    places = ("--data", tmp_path, "--corpus", tmp_path, "--out", tmp_path / "data")
    assert run_verb("prepare", "task", "--task", "squad", *places, option, "100") == 2
    error = capsys.readouterr().err
    assert f"{option} is of rows, not of --task squad" in error and error.count("\n") == 1
