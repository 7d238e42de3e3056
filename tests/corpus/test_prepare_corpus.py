import gzip
import hashlib
import json
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import run_command, run_verb
from corpora import make_lines
from fairseq.binarizer import FileBinarizer, VocabularyDatasetBinarizer
from fairseq.data import Dictionary, data_utils
from fairseq.data.token_block_dataset import TokenBlockDataset

from fairseq_masking.corpus import binarization
from fairseq_masking.corpus.manifest import check_dictionary, load_normalizer, load_tokenizer, read_manifest
from fairseq_masking.errors import UserError

Prepare = Callable[..., Path]


def items(data: Path, split: str) -> list[list[int]]:
    dictionary = Dictionary.load(str(data / "dict.txt"))
    dataset = data_utils.load_indexed_dataset(str(data / split), dictionary)
    return [dataset[index].tolist() for index in range(len(dataset))]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def expected(data: Path, line: str) -> list[int]:
    dictionary = Dictionary.load(str(data / "dict.txt"))
    return [dictionary.index(symbol) for symbol in load_tokenizer(data).encode(line)] + [dictionary.eos()]


def test_ids_are_those_of_the_symbols(prepare: Prepare, corpus: Path, tmp_path: Path) -> None:
    valid = tmp_path / "valid.xz"
    valid.write_bytes(lzma.compress("\n".join([*make_lines(5, seed=7), "the ψ"]).encode()))
    data = prepare("--valid", valid)
    lines = corpus.read_text().splitlines()
    ids = items(data, "train")
    assert ids == [expected(data, line) for line in lines]
    assert items(data, "valid") == [expected(data, line) for line in [*make_lines(5, seed=7), "the ψ"]]
    manifest = read_manifest(data)
    tokens = sum(map(len, ids))
    assert manifest.counts["train"] == {"documents": 400, "lines": 400, "tokens": tokens, "unknown": 0}
    assert manifest.counts["valid"]["unknown"] == 1
    dictionary = Dictionary.load(str(data / "dict.txt"))
    seen = np.bincount([index for line in ids for index in line], minlength=len(dictionary))
    assert dictionary.count[4:] == seen[4:].tolist()  # of the training text alone


def test_the_files_are_those_of_fairseqs_binarizer(prepare: Prepare, corpus: Path, tmp_path: Path) -> None:
    data = prepare("--valid-fraction", 0)
    dictionary = Dictionary.load(str(data / "dict.txt"))
    binarizer = VocabularyDatasetBinarizer(dictionary, tokenize=load_tokenizer(data).encode)
    stock = str(tmp_path / "stock")
    FileBinarizer.multiprocess_dataset(str(corpus), "mmap", binarizer, stock, vocab_size=len(dictionary))
    for suffix in (".bin", ".idx"):
        assert (data / f"train{suffix}").read_bytes() == Path(stock + suffix).read_bytes()
    assert not (data / "valid.bin").exists()


@pytest.mark.parametrize("options", [(), ("--split-sentences", "--moses-tokenize", "--shards", 2)])
def test_one_worker_gives_what_two_give(prepare: Prepare, monkeypatch: pytest.MonkeyPatch, options) -> None:
    one = prepare(*options, "--workers", 1, out="one")
    monkeypatch.setattr(binarization, "_CHUNK_BYTES", 31)  # some hold no beginning of a line
    two = prepare(*options, "--workers", 2, out="two")
    assert contents(one) == contents(two)


def test_shards_make_up_the_whole(prepare: Prepare, capsys: pytest.CaptureFixture[str]) -> None:
    whole = prepare(out="whole")
    capsys.readouterr()
    sharded = prepare("--shards", 3, out="sharded")
    shards = [sharded / f"shard{shard}" for shard in range(3)]
    assert f"fairseq-train takes: {':'.join(map(str, shards))}" in capsys.readouterr().out
    dealt = [items(shard, "train") for shard in shards]
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    assert [dealt[index % 3][index // 3] for index in range(396)] == items(whole, "train")
    assert items(shards[0], "valid") == items(whole, "valid")
    assert not list(sharded.glob("shard[12]/valid.*")) and not (sharded / "train.bin").exists()
    for shard in shards:
        assert (shard / "dict.txt").read_bytes() == (whole / "dict.txt").read_bytes()
        assert read_manifest(shard).missing_outputs(shard) == []
        assert load_tokenizer(shard).kind == "sentencepiece"
    tokens = [read_manifest(shard).counts["train"]["tokens"] for shard in shards]
    assert sum(tokens) == read_manifest(sharded).counts["train"]["tokens"] == sum(map(len, items(whole, "train")))
    check_dictionary(":".join(map(str, shards)))


def test_documents_between_empty_lines(prepare: Prepare, tmp_path: Path) -> None:
    documents = [make_lines(3, seed=1), make_lines(1, seed=2), make_lines(4, seed=3)]
    path = tmp_path / "documents.gz"
    text = "\n\n" + "\n \n\n".join("\n".join(lines) for lines in documents) + "\n\n"
    path.write_bytes(gzip.compress(text.encode()))
    model = prepare(out="model") / "tokenizer" / "sentencepiece.model"
    options = ["--documents", "blank-line", "--tokenizer", "sentencepiece", "--sentencepiece-model", model]
    data = prepare(*options, "--valid-fraction", 0, train=path, vocab_size=None)
    lines = ["\n".join(lines) for lines in documents]
    assert items(data, "train") == [expected(data, line) for line in "\n\n".join(lines).split("\n")]
    assert read_manifest(data).counts["train"]["documents"] == 3
    dictionary = Dictionary.load(str(data / "dict.txt"))
    dataset = data_utils.load_indexed_dataset(str(data / "train"), dictionary)
    blocks = TokenBlockDataset(
        dataset, dataset.sizes, 10_000, pad=dictionary.pad(), eos=dictionary.eos(), break_mode="complete_doc"
    )
    whole = [[index for line in document for index in expected(data, line)] for document in documents]
    assert [block.tolist() for block in blocks] == whole


def test_the_end_of_a_file_ends_a_document(tmp_path: Path) -> None:
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for seed, path in enumerate(paths):
        path.write_text("\n".join(make_lines(100, seed)))
    argv = ["--documents", "blank-line", "--vocab-size", "100", "--valid-fraction", "0"]
    data = tmp_path / "data"
    assert run_verb("prepare", "corpus", *argv, "--train", *paths, "--out", data) == 0
    ids = items(data, "train")
    assert read_manifest(data).counts["train"]["documents"] == 2
    assert len(ids) == 201 and ids[100] == expected(data, "") and ids[101] == expected(data, make_lines(100, 1)[0])


def test_sentences_of_a_line_stay_one_document(prepare: Prepare, tmp_path: Path) -> None:
    path = tmp_path / "paragraphs.txt"
    path.write_text("It Works. Does IT?\nYes.\n" + "\n".join(make_lines(50)))
    options = ("--split-sentences", "--lowercase", "--valid-fraction", 0)
    data = prepare(*options, train=path, vocab_size=60)
    assert [load_tokenizer(data).decode(_symbols(data, ids)) for ids in items(data, "train")[:4]] == [
        "it works.",
        "does it?",
        "",
        "yes.",
    ]
    assert load_normalizer(data)("Does IT?") == "does it?"


def _symbols(data: Path, ids: list[int]) -> list[str]:
    dictionary = Dictionary.load(str(data / "dict.txt"))
    return [dictionary[index] for index in ids]


def test_validation_is_an_exact_seeded_share_of_the_documents(prepare: Prepare, corpus: Path) -> None:
    splits = []
    for seed in (1, 1, 2):
        data = prepare("--valid-fraction", 0.1, "--seed", seed, out=f"data{len(splits)}")
        train, valid = items(data, "train"), items(data, "valid")
        assert (len(train), len(valid)) == (360, 40)
        everything = [expected(data, line) for line in corpus.read_text().splitlines()]
        assert sorted(train + valid) == sorted(everything)
        splits.append([load_tokenizer(data).decode(_symbols(data, ids)) for ids in valid])
    assert splits[0] == splits[1] != splits[2]


def test_a_long_line_is_trained_on(prepare: Prepare, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text(" ".join(make_lines(400)) + "\nshort line\n")
    symbols = load_tokenizer(prepare("--valid-fraction", 0, train=path)).symbols
    assert "▁engineers" in symbols or "▁river" in symbols


def test_a_sample_of_the_lines_is_drawn_with_the_seed(prepare: Prepare) -> None:
    sampled = [
        load_tokenizer(
            prepare("--valid-fraction", 0, "--input-sentences", 60, "--seed", seed, out=f"sampled{seed}")
        ).symbols
        for seed in (1, 2)
    ]
    again = prepare("--valid-fraction", 0, "--input-sentences", 60, "--seed", 1, "--workers", 2, out="again")
    assert load_tokenizer(again).symbols == sampled[0] != sampled[1]


def test_an_existing_dictionary_gives_the_ids(prepare: Prepare, tmp_path: Path) -> None:
    model = prepare(out="model") / "tokenizer" / "sentencepiece.model"
    symbols = load_tokenizer(tmp_path / "model").symbols[::-1]
    (tmp_path / "old.txt").write_text("".join(f"{s} 5\n" for s in symbols if s != "▁the") + "madeupword0000 0\n")
    data = prepare(
        *("--tokenizer", "sentencepiece", "--sentencepiece-model", model, "--dictionary", tmp_path / "old.txt"),
        vocab_size=None,
    )
    dictionary = Dictionary.load(str(data / "dict.txt"))
    assert dictionary.symbols[4:] == [*(s for s in symbols if s != "▁the"), "madeupword0000", "<mask>"]
    assert items(data, "train")[0] in [expected(data, line) for line in make_lines(400)]
    assert read_manifest(data).counts["train"]["unknown"] > 0


def test_a_second_run_does_nothing(prepare: Prepare, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = prepare()
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    corpus.rename(corpus.with_name("elsewhere.txt"))
    capsys.readouterr()
    prepare("--workers", 2, train=corpus.with_name("elsewhere.txt"))
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before


def test_the_manifest_says_what_was_done(prepare: Prepare, corpus: Path) -> None:
    data = prepare()
    manifest = json.loads((data / "manifest.json").read_text())

    def sha256(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    assert manifest["inputs"]["train"] == [
        {"name": str(corpus), "sha256": sha256(corpus), "size": corpus.stat().st_size}
    ]
    assert manifest["dictionary_sha256"] == sha256(data / "dict.txt")
    model = data / "tokenizer" / "sentencepiece.model"
    assert manifest["tokenizer"]["files"] == {"sentencepiece.model": sha256(model)}
    assert manifest["settings"]["tokenizer"]["trained"]["vocab_size"] == 120
    assert set(manifest["versions"]) >= {"ve-fairseq", "torch", "sentencepiece", "numpy"}
    files = {name: len(content) for name, content in contents(data).items() if name != "manifest.json"}
    assert manifest["outputs"] == files
    check_dictionary(data)
    (data / "dict.txt").write_text((data / "dict.txt").read_text().replace("▁the", "▁teh"))
    with pytest.raises(UserError, match="is not the dictionary"):
        check_dictionary(data)


def test_the_command_of_its_own_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fairseq_masking", "prepare", "corpus"]
    shown = run_command([*command, "--help"], cwd=tmp_path)
    assert shown.returncode == 0 and "--valid-fraction" in shown.stdout and "Example:" in shown.stdout
    failed = run_command([*command, "--train", "none", "--out", "data"], cwd=tmp_path)
    assert failed.returncode == 1
    assert failed.stderr == "fairseq_masking: error: none does not exist; check the path\n"
