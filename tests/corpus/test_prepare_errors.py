"""Each error is one line, no traceback, a non-zero status, and leaves nothing behind."""

import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import run_verb
from corpora import make_lines

from fairseq_masking.corpus import binarization
from fairseq_masking.tokenizers import SentencePieceTokenizer

LONG = "\n".join(make_lines(5000)).encode()


@pytest.fixture
def refused(tmp_path: Path, corpus: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command, which must fail; returns its one line."""

    def run(*options: object, status: int = 1, train: Path = corpus, out: str = "data") -> str:
        before = sorted(tmp_path.rglob("*"))
        capfd.readouterr()
        code = run_verb("prepare", "corpus", "--train", train, "--out", tmp_path / out, *options)
        lines = capfd.readouterr().err.splitlines()
        assert code == status
        assert len(lines) == 1 and lines[0].startswith("fairseq-masking prepare corpus: error: "), lines
        assert sorted(tmp_path.rglob("*")) == before
        return lines[0]

    return run


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "holds no text"),
        (b"fine\ncaf\xe9\n", "line 2 (byte 8) is not UTF-8 (0xe9); convert it, e.g. iconv"),
        (lzma.compress(LONG)[:-99], "is cut short"),
        (gzip.compress(LONG)[:-99], "is cut short"),
        (None, "does not exist; check the path"),
    ],
)
def test_bad_inputs(refused: Callable[..., str], tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "bad"
    if content is not None:
        path.write_bytes(content)
    assert f"{path}" in (line := refused(train=path)) and message in line
    assert message in refused("--valid", path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tokenizer", "bytes"], "invalid choice: 'bytes'"),
        (["--tokenizer", "gpt2"], "--tokenizer gpt2 needs --gpt2-encoder-json"),
        (["--tokenizer", "sentencepiece"], "--tokenizer sentencepiece needs --sentencepiece-model"),
        (["--tokenizer", "wordpiece", "--vocab-size", "9"], "--vocab-size belongs to --tokenizer train-bpe"),
        (["--vocab-size", "many"], "--vocab-size: 'many' is no whole number"),
        (["--vocab-size", "5"], "--vocab-size: 5 is below 6"),
        (["--workers", "0"], "--workers: 0 is below 1"),
        (["--valid-fraction", "1.5"], "--valid-fraction: 1.5 is not in [0, 1)"),
        (["--valid", "x", "--valid-fraction", "0.1"], "exclude each other"),
        (["--character-coverage", "0"], "--character-coverage: 0 is not in (0, 1]"),
        (["--documents", "page"], "invalid choice: 'page'"),
        (["--vocabsize", "8"], "unrecognized arguments"),
    ],
)
def test_wrong_options(refused: Callable[..., str], options: list[str], message: str) -> None:
    assert message in refused(*options, status=2)


def test_vocabulary_sizes_that_do_not_fit(refused: Callable[..., str], tmp_path: Path) -> None:
    line = refused("--vocab-size", 100_000)
    most = int(line.split("give at most ")[1].split(",")[0])
    assert refused("--vocab-size", most + 1)
    places = ["--train", tmp_path / "corpus.txt", "--out", tmp_path / "fits"]
    assert run_verb("prepare", "corpus", *places, "--vocab-size", most) == 0
    assert "is less than the corpus's characters need; give at least" in refused("--vocab-size", 20)


def test_files_that_are_no_tokeniser(refused: Callable[..., str], tmp_path: Path, wordpieces: Path) -> None:
    garbage, empty, text = tmp_path / "garbage", tmp_path / "empty", tmp_path / "text"
    garbage.write_bytes(bytes(range(256)) * 20)
    empty.write_bytes(b"")
    text.write_text("\n".join(make_lines(20)))
    for path, fault in ((garbage, ""), (empty, "is empty"), (text, ""), (tmp_path / "none", "does not exist")):
        for options in (
            ["--tokenizer", "sentencepiece", "--sentencepiece-model", path],
            ["--tokenizer", "wordpiece", "--wordpiece-vocab", path],
            ["--tokenizer", "gpt2", "--gpt2-encoder-json", path, "--gpt2-vocab-bpe", wordpieces],
        ):
            assert str(path) in (line := refused(*options)) and fault in line
    wordpieces.write_text(wordpieces.read_text() + "the\n")
    assert "('the') stands there twice" in refused("--tokenizer", "wordpiece", "--wordpiece-vocab", wordpieces)
    wordpieces.write_text("the\nriver\n")
    assert "has no [UNK]" in refused("--tokenizer", "wordpiece", "--wordpiece-vocab", wordpieces)
    for vocabulary in ({"a": 0}, {str(i): 2 * i for i in range(300)}, {str(i): str(i) for i in range(300)}):
        text.write_text(json.dumps(vocabulary))
        options = ["--tokenizer", "gpt2", "--gpt2-encoder-json", text, "--gpt2-vocab-bpe", garbage]
        assert "does not map 256 symbols" in refused(*options)
    text.write_text("[1]")
    assert "holds no JSON object; give GPT-2's encoder.json" in refused(*options)


def test_merges_that_do_not_fit(refused: Callable[..., str], tmp_path: Path, gpt2_options: list[str]) -> None:
    merges = tmp_path / "vocab.bpe"
    for content, message in (
        (b"#version: 0.2\nzz qqqq\n", "does not belong to"),
        (b"#version: 0.2\na b c\n", "line 2 is no pair"),
        (b"#version: 0.2\n", "holds no merges"),
        (b"\xff\xfe", "is not UTF-8"),
    ):
        merges.write_bytes(content)
        assert message in refused(*gpt2_options[:-1], merges)


def test_a_dictionary_of_another_tokeniser(refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "dict.txt"
    for content, message in (("262 1\n", "holds not one symbol"), ("a b c\n", "'a b c' is not of the form")):
        path.write_text(content)
        assert message in refused("--vocab-size", 120, "--dictionary", path)
    path.write_bytes(b"\xff\xfe 1\n")
    message = "is no dictionary (byte 0 is not UTF-8): give the dict.txt"
    assert message in refused("--vocab-size", 120, "--dictionary", path)


def test_changed_settings_and_inputs_are_named(
    refused: Callable[..., str], prepare: Callable[..., Path], corpus: Path, tmp_path: Path
) -> None:
    data = prepare()
    model = data / "tokenizer" / "sentencepiece.model"
    for options, change in (
        (["--vocab-size", 130], "tokenizer.trained.vocab_size 120 -> 130"),
        (["--vocab-size", 120, "--lowercase"], "text.lowercase False -> True"),
        (["--vocab-size", 120, "--shards", 2], "shards 1 -> 2"),
        (["--vocab-size", 120, "--valid", corpus], "the contents of the --valid files"),
        (["--tokenizer", "sentencepiece", "--sentencepiece-model", model], "tokenizer.trained"),
    ):
        line = refused(*options)
        assert change in line and "--force" in line
    other = tmp_path / "other.txt"
    other.write_text(corpus.read_text() + "one more line\n")
    line = refused("--vocab-size", 120, train=other)
    assert "changed: the contents of the --train files;" in line
    # --force replaces only when the new one is complete.
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    refused("--vocab-size", 100_000, "--force")
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before
    prepare("--force", train=other, vocab_size=130)
    assert len((data / "dict.txt").read_text().splitlines()) == 126
    (data / "train.bin").write_bytes(b"")
    assert "train.bin missing or of another size" in refused("--vocab-size", 130, train=other)


def test_a_folder_of_somebody_else(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("mine")
    for options in ([], ["--force"]):
        assert "was not made by fairseq-masking prepare" in refused(*options)
    (tmp_path / "data" / "manifest.json").write_text("{}")
    assert "is no manifest of a preparation" in refused("--force")
    assert "corpus.txt" in refused("--vocab-size", 120, status=2, out="corpus.txt/data")


def test_too_few_documents(refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("a single document of some words\nin two lines\n")
    options = ("--documents", "blank-line", "--vocab-size", 30)
    assert "has 1 document, too few" in refused(*options, train=path)
    assert "--shards 2 is more than the 1 training documents" in refused(
        *options, "--valid", path, "--shards", 2, train=path
    )


def test_a_killed_worker_is_noticed(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binarization, "_CHUNK_BYTES", 2000)
    monkeypatch.setattr(SentencePieceTokenizer, "encode_lines", lambda *_: os.kill(os.getpid(), 9))
    assert "2 worker processes was killed" in refused("--vocab-size", 120, "--workers", 2, "--valid-fraction", 0)
