"""What preparation does unasked is listed, and what a tokeniser cannot write is said or refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import run_verb
from corpora import make_lines

from fairseq_masking.corpus.encoding import TextEncoder
from fairseq_masking.corpus.manifest import load_normalizer, load_tokenizer, read_manifest
from fairseq_masking.errors import UserError

Prepare = Callable[..., Path]
LINES = make_lines(200)


def write(path: Path, *lines: str) -> Path:
    path.write_bytes("\n".join([*LINES, *lines, ""]).encode())
    return path


def test_what_is_changed_is_listed_with_its_options(prepare: Prepare, tmp_path: Path, capsys) -> None:
    odd = ["AT&amp;T &lt;b&gt; &amp; &#65;", "你好，世界，½", "one\rtwo\u2028three", "\u200b\ufeff", "\u200b\u200b"]
    text = write(tmp_path / "odd.txt", *odd)
    capsys.readouterr()
    options = ("--valid-fraction", 0, "--character-coverage", 1)
    data = prepare(*options, train=text, vocab_size=200)
    out = capsys.readouterr().out
    for part in (
        "5 HTML entities left as text, such as &amp; (2), &lt; (1), &gt; (1); --unescape-entities makes",
        "2 line breaks inside of lines made spaces, such as '\\r' (1), '\\u2028' (1); tr",
        r"2 lines without a visible character taken for empty ones, such as '\u200b\ufeff' (1), ",
        "characters rewritten by the tokeniser, such as '，' to ',' (2), '½' to '1⁄2' (1); --normalization identity",
    ):
        assert part in out
    assert read_manifest(data).counts["train"]["lines"] == 203
    assert "normalization" not in read_manifest(data).settings["tokenizer"]["trained"]

    kept = prepare(
        *options, "--unescape-entities", "--normalization", "identity", train=text, out="kept", vocab_size=200
    )
    out = capsys.readouterr().out
    assert "entities" not in out and "rewritten" not in out and "2 line breaks" in out
    assert load_tokenizer(kept).decode(load_tokenizer(kept).encode("你好，½")) == "你好，½"
    assert load_normalizer(kept)("AT&amp;T") == "AT&T" and load_normalizer(kept).steps() == {"unescape_entities": True}
    settings = read_manifest(kept).settings
    assert settings["text"]["unescape_entities"] and settings["tokenizer"]["trained"]["normalization"] == "identity"


def test_lines_that_end_in_carriage_returns(prepare: Prepare, tmp_path: Path, corpus: Path, capsys) -> None:
    old = tmp_path / "old.txt"
    old.write_bytes("\r".join(LINES).encode())
    for more in ([], ["--valid", corpus]):
        assert run_verb("prepare", "corpus", "--train", old, "--out", tmp_path / "d", *more) == 1
        assert r"199 carriage returns (\r) inside of its 1 lines" in capsys.readouterr().err
    windows = tmp_path / "windows.txt"
    windows.write_bytes("\r\n".join(LINES).encode())
    assert read_manifest(prepare("--valid-fraction", 0, train=windows)).counts["train"]["lines"] == 200
    assert "line breaks" not in capsys.readouterr().out


def test_a_text_without_a_visible_character_is_none(tmp_path: Path, corpus: Path, capsys) -> None:
    path = tmp_path / "unseen.txt"
    path.write_text("\u200b\n\u200b\u200b\n\ufeff\n", encoding="utf-8")
    assert run_verb("prepare", "corpus", "--train", corpus, "--valid", path, "--out", tmp_path / "d") == 1
    assert "unseen.txt holds no text" in capsys.readouterr().err


def test_names_that_fairseq_would_take_apart(tmp_path: Path, corpus: Path, capsys) -> None:
    assert run_verb("prepare", "corpus", "--train", corpus, "--out", tmp_path / "a:b") == 1
    assert "a:b: fairseq takes ':' for what separates shards" in capsys.readouterr().err


def test_the_share_that_cannot_be_written(prepare: Prepare, tmp_path: Path, wordpieces: Path, caplog, capsys) -> None:
    cased = ["--tokenizer", "wordpiece", "--wordpiece-vocab", wordpieces]
    text = write(tmp_path / "some.txt", *["The River the river"] * 80)
    with caplog.at_level("WARNING", "fairseq_masking"):
        data = prepare(*cased, "--wordpiece-lowercase", train=text, vocab_size=None)
        assert not [line for line in caplog.messages if "<unk>, most often 'The'" in line]
        caplog.clear()
        prepare(*cased, "--valid-fraction", 0, train=text, vocab_size=None, out="cased")
    (said,) = caplog.messages
    assert "% of the tokens of the train text are <unk>, most often " in said and "'The' (80), 'River' (80)" in said
    upper = tmp_path / "upper.txt"
    upper.write_text("THE RIVER HOUSE\n" * 90, encoding="utf-8")
    assert run_verb("prepare", "corpus", *cased, "--train", upper, "--out", tmp_path / "upper") == 1
    line = capsys.readouterr().err
    assert "75.0% of the tokens of the valid text are <unk>" in line and "--tokenizer-from" in line
    assert not (tmp_path / "upper").exists()

    rows = tmp_path / "rows"
    rows.mkdir()
    for split in ("train", "valid"):
        content = [json.dumps({"text": "字 字 字", "label": label}) for label in ("a", "b")]
        (rows / f"{split}.jsonl").write_text("\n".join(content), encoding="utf-8")
    places = ["--task", "jsonl", "--data", rows, "--corpus", data, "--out", tmp_path / "task"]
    assert run_verb("prepare", "task", *places) == 1
    assert "of the train rows are <unk>, most often '字' (6)" in capsys.readouterr().err


def test_half_a_character_is_refused_in_one_line(prepare: Prepare) -> None:
    encoder = TextEncoder.of_corpus(prepare())
    for encode in (encoder, encoder.with_offsets):
        with pytest.raises(UserError, match=r"'the .* holds a lone surrogate \('\\ud83d'\)"):
            encode("the \ud83d river")
