"""Blocks of every mode against a slow and obvious reconstruction."""

import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq.data import data_utils

from fairseq_masking.corpus.indexed import TokenStream
from fairseq_masking.data import BlockDataset, load_tokens
from fairseq_masking.errors import UserError

MODES = ["none", "complete", "complete_doc", "eos"]
BOS, PAD, EOS = 0, 1, 2


def expected_blocks(sentences: list[list[int]], mode: str, length: int) -> list[list[int]]:
    """What design.md says about blocks, sentence by sentence."""
    if mode == "none":
        flat = [token for sentence in sentences for token in sentence]
        return [[BOS, *flat[i : i + length - 2], EOS] for i in range(0, len(flat), length - 2)]
    if mode == "eos":
        return [[BOS, *sentence] for sentence in sentences]
    blocks: list[list[int]] = []
    current: list[int] = []

    def close() -> None:
        # fairseq drops a lone separator in complete_doc.
        if len(current) > (1 if mode == "complete_doc" else 0):
            blocks.append([BOS, *current])
        current.clear()

    for sentence in sentences:
        is_document_end = mode == "complete_doc" and len(sentence) == 1
        if is_document_end or (current and len(current) + len(sentence) > length - 1):
            close()
        if not is_document_end:
            current.extend(sentence)
    close()
    return blocks


class InMemory(torch.utils.data.Dataset):
    """A dataset that is no memory map."""

    def __init__(self, sentences: list[list[int]]) -> None:
        self.sentences = sentences
        self.sizes = np.array([len(sentence) for sentence in sentences])

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(self.sentences[index])


def build(tokens: Any, mode: Any, length: int, **options: Any) -> BlockDataset:
    return BlockDataset(tokens, tokens_per_sample=length, bos=BOS, eos=EOS, pad=PAD, break_mode=mode, **options)


@pytest.mark.parametrize("source", ["file", "memory", "combined", "int32 file"])
@pytest.mark.parametrize("length", [3, 9, 16, 33, 1000])
@pytest.mark.parametrize("mode", MODES)
def test_blocks(
    mode: str, length: int, source: str, tmp_path: Path, write_corpus, dictionary, sentences: list[list[int]]
) -> None:
    if source == "memory":
        tokens: Any = InMemory(sentences)
    elif source == "combined":
        for suffix, part in (("", sentences[:25]), ("1", sentences[25:26]), ("2", sentences[26:])):
            write_corpus(tmp_path / f"train{suffix}", part)
        tokens = load_tokens(str(tmp_path / "train"), dictionary, combine=True)
    else:
        dtype = np.int32 if source == "int32 file" else np.uint16
        tokens = load_tokens(write_corpus(tmp_path / "train", sentences, dtype), dictionary)
    blocks = build(tokens, mode, length)
    expected = expected_blocks(sentences, mode, length)
    assert [blocks[i].tolist() for i in range(len(blocks))] == expected
    assert all(blocks[i].dtype == np.int64 for i in range(len(blocks)))
    assert blocks.sizes.tolist() == [len(block) for block in expected]
    assert (blocks._stream is None) == (source == "memory"), "the fast path is taken where there is one"
    copy = pickle.loads(pickle.dumps(blocks))
    np.testing.assert_array_equal(copy[len(blocks) - 1], expected[-1])


def test_full_blocks_are_rectangular(tmp_path: Path, write_corpus, dictionary, sentences) -> None:
    tokens = load_tokens(write_corpus(tmp_path / "train", sentences), dictionary)
    kept, dropped = build(tokens, "none", 16), build(tokens, "none", 16, drop_last=True)
    assert tokens.sizes.sum() % 14 != 0, "the corpus must have an incomplete last block for this test"
    assert len(dropped) == len(kept) - 1
    assert set(dropped.sizes) == {16}
    assert kept.sizes[-1] == tokens.sizes.sum() % 14 + 2
    whole = load_tokens(write_corpus(tmp_path / "whole", [[5] * 27 + [EOS]]), dictionary)
    assert len(build(whole, "none", 16, drop_last=True)) == 2, "a last block that is complete stays"


@pytest.mark.parametrize("mode", MODES[1:])
def test_drop_last_is_for_mode_none(mode: str, sentences: list[list[int]]) -> None:
    kept, same = build(InMemory(sentences), mode, 16), build(InMemory(sentences), mode, 16, drop_last=True)
    assert kept.sizes.tolist() == same.sizes.tolist()


def test_a_long_sentence_keeps_its_length() -> None:
    """fairseq's 16-bit sizes would make 70,002 out to be 4,466."""
    blocks = build(InMemory([[5] * 70_000 + [EOS], [5, EOS]]), "complete", 128)
    assert blocks.sizes.tolist() == [70_002, 3]


def test_pickle_carries_paths_and_no_corpus(tmp_path: Path, write_corpus, dictionary) -> None:
    tokens = load_tokens(write_corpus(tmp_path / "train", [[5] * 100_000 + [EOS]]), dictionary)
    blocks = build(tokens, "none", 512)
    blocks[0]
    assert len(pickle.dumps(blocks)) < 20_000


def test_lines_take_four_bytes_each(tmp_path: Path, write_corpus, dictionary) -> None:
    """Where they begin stands in the files, also in the second one of a corpus."""
    lines = [[5 + number % 7, EOS] for number in range(20_000)]
    for suffix in ("", "1"):
        write_corpus(tmp_path / f"train{suffix}", lines)
    tokens = load_tokens(str(tmp_path / "train"), dictionary, combine=True)
    tracemalloc.start()
    blocks = build(tokens, "eos", 16)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / len(blocks) < 4.5
    for index in (0, 19_999, 20_000, 39_999):
        assert blocks[index].tolist() == [BOS, *lines[index % 20_000]]


def test_stream_reads_across_files(tmp_path: Path, write_corpus) -> None:
    for suffix, part in (("", [[4, 5], [6]]), ("1", [[7]]), ("2", [[8, 9, 10]])):
        write_corpus(tmp_path / f"train{suffix}", part)
    dataset = data_utils.load_indexed_dataset(str(tmp_path / "train"), combine=True)
    stream = TokenStream.of(dataset)
    assert stream is not None and len(stream) == 7
    for start in range(8):
        for stop in range(start, 8):
            out = np.empty(stop - start, dtype=np.int64)
            stream.read(start, stop, out)
            assert out.tolist() == list(range(4 + start, 4 + stop))


@pytest.mark.parametrize(
    ("sentences_", "options", "named"),
    [
        ([[5, EOS]], {"mode": "paragraph"}, ["--sample-break-mode", "paragraph", "complete_doc"]),
        ([[5, EOS]], {"length": 2}, ["--tokens-per-sample 2", "at least 3"]),
        ([[5, EOS]], {"length": 16, "drop_last": True}, ["2 tokens", "--tokens-per-sample 16"]),
        ([], {}, ["no sentences"]),
        ([[EOS], [EOS]], {"mode": "complete_doc"}, ["only empty lines"]),
    ],
)
def test_wrong_input(sentences_: list[list[int]], options: dict, named: list[str]) -> None:
    with pytest.raises(UserError) as error:
        build(InMemory(sentences_), **{"mode": "none", "length": 8, **options})
    assert "\n" not in str(error.value)
    for part in named:
        assert part in str(error.value)
