"""One flipped bit of a prepared folder is found, wherever it is; folders of before are read as they are."""

import json
import logging
import os
import random
import shutil

import pytest
from fairseq.data import data_utils

from fairseq_masking.corpus import manifest
from fairseq_masking.corpus.dictionary import load_dictionary
from fairseq_masking.corpus.indexed import load_tokens
from fairseq_masking.corpus.manifest import check_contents, check_dictionary, load_tokenizer, read_manifest
from fairseq_masking.errors import UserError

READ = {
    "train.bin": lambda data: load_tokens(str(data / "train"), load_dictionary(data / "dict.txt")),
    "train.idx": lambda data: data_utils.load_indexed_dataset(str(data / "train"), None, dataset_impl="mmap"),
    "dict.txt": check_dictionary,
    "tokenizer/sentencepiece.model": load_tokenizer,
    "manifest.json": read_manifest,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from finetuning_data import write_prepared_corpus

    return write_prepared_corpus(tmp_path_factory.mktemp("contents"))


@pytest.mark.parametrize("name", READ)
def test_a_flipped_bit_is_found(name, data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    path, rng = tmp_path / "data" / name, random.Random(0)
    whole = path.read_bytes()
    for trial in range(60):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        os.utime(path, ns=(trial, trial))
        with pytest.raises(UserError, match=path.name):
            READ[name](tmp_path / "data")
    path.write_bytes(whole)
    READ[name](tmp_path / "data")


def test_a_folder_of_before_is_read_as_it_is(data, tmp_path, caplog):
    shutil.copytree(data, tmp_path / "data")
    values = json.loads((data / "manifest.json").read_text())
    del values["digests"]
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(values))
    assert read_manifest(tmp_path / "data").digests == {}
    with caplog.at_level(logging.INFO):
        for read in READ.values():
            read(tmp_path / "data")
    assert caplog.text.count("tells no digests") == 1


def test_large_files_are_read_once_by_a_user(data, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(manifest, "_REMEMBERED_BYTES", 1)
    hashed, hash_file = [], manifest.hash_file
    monkeypatch.setattr(manifest, "hash_file", lambda path: hashed.append(path) or hash_file(path))
    for _ in range(2):
        manifest._check.cache_clear()  # as in another process
        check_contents(data / "train.bin")
    assert len(hashed) == 1
