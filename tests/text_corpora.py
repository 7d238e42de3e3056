"""A small corpus, small tokeniser files, and the command as a function."""

from collections.abc import Callable
from pathlib import Path

import pytest
from commands import run_verb
from corpora import GPT2_FOLDER, WORDPIECES, make_lines


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """400 lines of text."""
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(make_lines(400)) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def wordpieces(tmp_path: Path) -> Path:
    """A vocab.txt."""
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(WORDPIECES) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def gpt2_options() -> list[str]:
    """Options of the GPT-2 tokeniser."""
    encoder, merges = GPT2_FOLDER / "encoder.json", GPT2_FOLDER / "vocab.bpe"
    if not encoder.exists():
        pytest.skip(f"{GPT2_FOLDER} is absent: it holds GPT-2's BPE files")
    return ["--tokenizer", "gpt2", "--gpt2-encoder-json", str(encoder), "--gpt2-vocab-bpe", str(merges)]


@pytest.fixture
def prepare(tmp_path: Path, corpus: Path) -> Callable[..., Path]:
    """Runs the command on the corpus; returns the folder it made."""

    def run(*options: object, out: str = "data", train: Path = corpus, vocab_size: int | None = 120) -> Path:
        size = [] if vocab_size is None else ["--vocab-size", str(vocab_size)]
        places = ["--train", train, "--out", tmp_path / out]
        assert run_verb("prepare", "corpus", *places, *size, *options) == 0
        return tmp_path / out

    return run
