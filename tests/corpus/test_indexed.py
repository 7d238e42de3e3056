"""Damaged .bin and .idx files: each is one line that names the file and the way out."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq.data.indexed_dataset import IndexedDatasetBuilder, MMapIndexedDataset

from fairseq_masking.corpus import indexed
from fairseq_masking.data import load_tokens
from fairseq_masking.errors import UserError

HEADER = 26


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def patch(path: Path, offset: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(bytes(content))


def append(path: Path, data: bytes) -> None:
    path.write_bytes(path.read_bytes() + data)


DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no index": ("idx", Path.unlink, "does not exist"),
    "no data": ("bin", Path.unlink, "does not exist"),
    "empty index": ("idx", lambda p: cut(p, 0), "is empty"),
    "empty data": ("bin", lambda p: cut(p, 0), "is empty"),
    "index is a folder": ("idx", lambda p: (p.unlink(), p.mkdir()), "cannot be read"),
    "index cut in its magic": ("idx", lambda p: cut(p, 5), "is cut short"),
    "index cut in its header": ("idx", lambda p: cut(p, 20), "is cut short"),
    "index cut behind its header": ("idx", lambda p: cut(p, HEADER), "is cut short"),
    "index cut in its sizes": ("idx", lambda p: cut(p, HEADER + 50), "is cut short"),
    "index short by a byte": ("idx", lambda p: cut(p, p.stat().st_size - 1), "is cut short"),
    "index too long": ("idx", lambda p: append(p, b"\0"), "is too long"),
    "data short by a byte": ("bin", lambda p: cut(p, p.stat().st_size - 1), "is cut short"),
    "data half": ("bin", lambda p: cut(p, p.stat().st_size // 2), "is cut short"),
    "data too long": ("bin", lambda p: append(p, b"\0\0"), "is too long"),
    "index is text": ("idx", lambda p: p.write_text("hello " * 100), "wrong first bytes"),
    "index is noise": ("idx", lambda p: p.write_bytes(np.random.default_rng(0).bytes(999)), "wrong first bytes"),
    "wrong version": ("idx", lambda p: patch(p, 9, struct.pack("<Q", 2)), "version 2"),
    "unknown type": ("idx", lambda p: patch(p, 17, b"\x63"), "type code 99"),
    "tokens are floats": ("idx", lambda p: patch(p, 17, b"\x06"), "type code 6"),
    "another integer type": ("idx", lambda p: patch(p, 17, b"\x04"), "sizes and pointers disagree"),
    "count of zero": ("idx", lambda p: (cut(p, HEADER), patch(p, 18, struct.pack("<Q", 0))), "no sentences"),
    "huge count": ("idx", lambda p: patch(p, 18, struct.pack("<Q", 2**60)), "is cut short"),
    "negative size": ("idx", lambda p: patch(p, HEADER, struct.pack("<i", -3)), "sizes and pointers disagree"),
    "wrong size": ("idx", lambda p: patch(p, HEADER + 4, struct.pack("<i", 99)), "sizes and pointers disagree"),
    "noise in the middle": ("idx", lambda p: patch(p, HEADER + 4 * 60, b"\x11" * 16), "disagree"),
    "ids beyond the dictionary": ("bin", lambda p: patch(p, 100, b"\xff\xff"), "token id 65535"),
    "one id beyond the dictionary": ("bin", lambda p: patch(p, 100, b"\x28\x00"), "token id 40"),
    "data is noise": ("bin", lambda p: p.write_bytes(b"\x77" * p.stat().st_size), "40 symbols"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("combined", [False, True])
def test_damaged_files(damage: str, combined: bool, tmp_path: Path, write_corpus, dictionary, sentences) -> None:
    ending, spoil, named = DAMAGES[damage]
    write_corpus(tmp_path / "train", sentences)
    victim = tmp_path / f"train.{ending}"
    if combined:
        write_corpus(tmp_path / "train1", sentences)
        victim = tmp_path / f"train1.{ending}"
    spoil(victim)
    with pytest.raises(UserError) as error:
        load_tokens(str(tmp_path / "train"), dictionary, combine=combined)
    message = str(error.value)
    assert named in message
    assert str(victim) in message
    assert "\n" not in message
    assert "prepare the corpus again" in message


def test_nothing_there(tmp_path: Path, dictionary) -> None:
    with pytest.raises(UserError, match=r"train\.idx does not exist"):
        load_tokens(str(tmp_path / "absent" / "train"), dictionary)


def test_the_old_format_is_named(tmp_path: Path, dictionary) -> None:
    builder = IndexedDatasetBuilder(str(tmp_path / "train.bin"))
    builder.add_item(torch.tensor([5, 2]))
    builder.finalize(str(tmp_path / "train.idx"))
    with pytest.raises(UserError, match="--dataset-impl mmap"):
        load_tokens(str(tmp_path / "train"), dictionary)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, np.uint32])
def test_whole_files(tmp_path: Path, write_corpus, dictionary, sentences, dtype: type) -> None:
    tokens = load_tokens(write_corpus(tmp_path / "train", sentences, dtype), dictionary)
    assert isinstance(tokens, MMapIndexedDataset)
    assert [tokens[i].tolist() for i in range(len(tokens))] == sentences


def test_text_beside_the_corpus_is_not_taken_for_it(tmp_path: Path, write_corpus, dictionary) -> None:
    """fairseq, left to guess, would tokenise a plain file named `train` instead."""
    write_corpus(tmp_path / "train", [[5, 6, 2]])
    (tmp_path / "train").write_text("w1 w2 w3 w4\n")
    assert load_tokens(str(tmp_path / "train"), dictionary)[0].tolist() == [5, 6, 2]


def test_combine(tmp_path: Path, write_corpus, dictionary) -> None:
    for suffix, token in (("", 5), ("1", 6), ("3", 8)):
        write_corpus(tmp_path / f"train{suffix}", [[token, 2]])
    assert len(load_tokens(str(tmp_path / "train"), dictionary)) == 1
    combined = load_tokens(str(tmp_path / "train"), dictionary, combine=True)
    assert [combined[i].tolist() for i in range(len(combined))] == [[5, 2], [6, 2]]


def test_big_corpora_are_checked_at_both_ends(
    tmp_path: Path, write_corpus, dictionary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexed, "_FULL_SCAN_TOKENS", 50)
    monkeypatch.setattr(indexed, "_PARTIAL_SCAN_TOKENS", 10)
    for place, found in ((0, True), (9, True), (50, False), (90, True), (99, True)):
        sentence = [5] * 100
        sentence[place] = 40
        write_corpus(tmp_path / "train", [sentence])
        if found:
            with pytest.raises(UserError, match="token id 40"):
                load_tokens(str(tmp_path / "train"), dictionary)
        else:
            load_tokens(str(tmp_path / "train"), dictionary)


def test_chunks_of_the_index(tmp_path: Path, write_corpus, dictionary, sentences, monkeypatch) -> None:
    """Checking in small chunks accepts what is whole and finds damage in any of them."""
    monkeypatch.setattr(indexed, "_CHUNK", 7)
    prefix = write_corpus(tmp_path / "train", sentences)
    assert len(load_tokens(prefix, dictionary)) == 60
    patch(tmp_path / "train.idx", HEADER + 4 * 60 + 8 * 31, struct.pack("<q", 1))
    with pytest.raises(UserError, match="disagree"):
        load_tokens(prefix, dictionary)
