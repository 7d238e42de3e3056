"""Symbols that white space parts: prepared here, or by stock fairseq-preprocess; in and out, and any objective."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from commands import PACKAGE, run_verb, write_corpus

from fairseq_masking.corpus.dictionary import masking_vocabulary
from fairseq_masking.corpus.encoding import TextEncoder
from fairseq_masking.corpus.manifest import check_dictionary, load_normalizer, load_tokenizer, read_manifest
from fairseq_masking.data import load_dictionary, load_tokens
from fairseq_masking.errors import UserError
from fairseq_masking.tokenizers.hugging_face_files import import_tokenizer
from fairseq_masking.tokenizers.to_hugging_face import write_tokenizer

RESIDUES = ["Q V Q L V Q S G V E V K", "K P G A S V K  <s>", "M K T A Y I A K Q R"]


def run(*options: object) -> int:
    return run_verb("prepare", "corpus", *options)


def prepare(folder: Path, *options: object) -> Path:
    (folder / "text").write_text("\n".join(RESIDUES * 40) + "\n", encoding="utf-8")
    assert run("--train", folder / "text", "--out", folder / "d", "--tokenizer", "whitespace", *options) == 0
    return folder / "d"


def test_every_symbol_of_a_text_is_one(tmp_path: Path, capsys) -> None:
    data = prepare(tmp_path)
    dictionary, tokenizer = load_dictionary(data / "dict.txt"), load_tokenizer(data)
    symbols = sorted(set(" ".join(RESIDUES).split()) - {"<s>"})
    assert (
        sorted(dictionary.symbols[4:-1]) == symbols and dictionary.symbols[4] == "V" and tokenizer.kind == "whitespace"
    )
    assert (
        tokenizer.encode("M  K ZZ") == ["M", "K", "<unk>"] and tokenizer.decode(["M", "K", "<mask>"]) == "M K <mask>"
    )
    assert tokenizer.encode("K <s>")[1] == "<unk>", "what is written out is no special symbol"
    assert masking_vocabulary(dictionary, folder=data, need_words=True).starts_word.all()
    assert tokenizer.encode_around(["M ", " K", " A"]) == ["M", "<mask>", "K", "<mask>", "A"]
    capsys.readouterr()
    again = tmp_path / "again"
    again.mkdir()
    (tmp_path / "old.txt").write_text("".join(f"{s} 1\n" for s in [*symbols[2:], "madeupword0000"]))
    rest = prepare(again, "--dictionary", tmp_path / "old.txt")  # a checkpoint's; others are warned of
    assert load_dictionary(rest / "dict.txt").symbols[4:] == [*symbols[2:], "madeupword0000", "<mask>"]
    assert run("--train", tmp_path / "text", "--out", tmp_path / "x", "--tokenizer", "whitespace", "--lowercase") == 2
    assert "takes symbols as they are: leave --lowercase out" in capsys.readouterr().err


def test_stock_data_get_a_manifest_and_stay_as_they_are(tmp_path: Path, capsys, caplog) -> None:
    write_corpus(tmp_path, {"train": 30, "valid": 4})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with caplog.at_level("WARNING", "fairseq_masking"):
        guessed = load_tokenizer(tmp_path)
    assert "has no manifest.json: taken for data of fairseq-preprocess" in caplog.text
    assert load_normalizer(tmp_path).steps() == {}
    for _ in range(2):
        assert run("--from-fairseq", tmp_path) == 0
        assert f"fairseq-train takes: {tmp_path}" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before
    manifest, dictionary = read_manifest(tmp_path), load_dictionary(tmp_path / "dict.txt")
    check_dictionary(tmp_path)
    data = load_tokens(str(tmp_path / "train"), dictionary)
    tokens = int(np.sum(data.sizes))
    assert manifest.counts["train"] == {"documents": 30, "lines": 30, "tokens": tokens, "unknown": 0}
    encoder = TextEncoder.of_corpus(tmp_path)
    assert encoder("word3 word5 else") == [dictionary.index("word3"), dictionary.index("word5"), dictionary.unk()]
    assert encoder.tokenizer.symbols == guessed.symbols

    assert run("--from-fairseq", tmp_path, "--train", tmp_path / "dict.txt") == 2
    assert run("--train", tmp_path / "dict.txt") == 2
    assert run("--from-fairseq", tmp_path / "none") == run("--from-fairseq", "a:b") == 1
    err = capsys.readouterr().err
    for part in (
        "made already: leave --train out",
        "--train and --out are required",
        "none/dict.txt does not exist",
        "a:b: fairseq",
    ):
        assert part in err


def test_the_pages_way_from_fasta(tmp_path: Path) -> None:
    page = (PACKAGE / "corpus" / "README.md").read_text(encoding="utf-8")
    (tmp_path / "proteins.fasta").write_text(">one x\nMKT\nAY\r\n\n>two\nQV-Q*\n", encoding="utf-8")
    (line,) = (line for line in page.splitlines() if line.startswith("awk "))
    subprocess.run(line, shell=True, check=True, cwd=tmp_path)
    assert (tmp_path / "residues.txt").read_text(encoding="utf-8").splitlines() == ["M K T A Y ", "Q V Q * "]


@pytest.mark.parametrize("sign", ["▁the", "##ing", "1"])
def test_symbols_of_another_tokeniser_are_not_guessed(tmp_path: Path, capsys, sign: str) -> None:
    symbols = [sign, "a"] if sign != "1" else map(str, range(2000))
    (tmp_path / "dict.txt").write_text("".join(f"{symbol} 1\n" for symbol in symbols), encoding="utf-8")
    with pytest.raises(UserError, match=r"text went through a tokeniser; say which: .* --tokenizer [a-z0-9]+, with"):
        load_tokenizer(tmp_path)
    assert run("--from-fairseq", tmp_path) == 1


def test_they_leave_and_come_back(transformers, tmp_path: Path) -> None:
    data = prepare(tmp_path)
    encoder = TextEncoder.of_corpus(data)
    symbols = encoder.dictionary.symbols
    out = tmp_path / "out"
    out.mkdir()
    write_tokenizer(out, encoder.tokenizer, symbols, encoder.normalizer, max_length=24)
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    for text in [RESIDUES[0], RESIDUES[2], "M J K"]:
        assert theirs(text)["input_ids"] == [0, *encoder(text), 2]
    assert theirs("M <mask> K")["input_ids"][2] == encoder.dictionary.index("<mask>")
    back = import_tokenizer(out, tmp_path / "files")
    assert back.symbols == encoder.tokenizer.symbols and back.encode("M J K") == encoder.tokenizer.encode("M J K")
    shutil.rmtree(data / "tokenizer")
