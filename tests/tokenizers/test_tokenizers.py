import json
import random
from collections.abc import Callable
from pathlib import Path
from unicodedata import category

import numpy as np
import pytest
from corpora import GPT2_FOLDER, WORDPIECES, make_lines
from fairseq.data import Dictionary
from fairseq.data.encoders.gpt2_bpe_utils import get_encoder
from sentencepiece import SentencePieceTrainer

from fairseq_masking.corpus.manifest import load_tokenizer
from fairseq_masking.errors import UserError
from fairseq_masking.tokenizers import BertTokenizer, SentencePieceTokenizer, Tokenizer, sentencepiece
from fairseq_masking.tokenizers.sentencepiece import NORMALIZATIONS, BpeTraining, train_bpe

TEXTS = [*make_lines(20, seed=1), "the river", "It’s 3.5 café."]


def test_sentencepiece_round_trip(prepare: Callable[..., Path]) -> None:
    data = prepare()
    tokenizer = load_tokenizer(data)
    dictionary = Dictionary.load(str(data / "dict.txt"))
    assert tokenizer.kind == "sentencepiece"
    assert len(dictionary) == 120 and dictionary.symbols[4:-1] == tokenizer.symbols
    assert dictionary.symbols[-1] == "<mask>" and len(set(dictionary.symbols)) == 120
    for text in make_lines(20, seed=1):
        symbols = tokenizer.encode(text)
        assert all(symbol in dictionary for symbol in symbols)
        assert tokenizer.decode(symbols) == text
        assert "".join(map(tokenizer.surface, symbols)) == " " + text
        starts = sum(map(tokenizer.starts_word, symbols))
        assert starts == len(text.split())


def test_sentencepiece_decodes_specials_as_words(prepare: Callable[..., Path]) -> None:
    tokenizer = load_tokenizer(prepare())
    assert tokenizer.decode(["<s>", "▁the", "▁of", "</s>", "<pad>"]) == "the of"
    assert tokenizer.decode(["▁the", "<mask>", "▁of", "s"]) == "the <mask> ofs"
    assert tokenizer.decode(["<mask>", "▁of", "▁", "<unk>"]) == "<mask> of <unk>"
    assert tokenizer.decode([]) == ""
    assert tokenizer.encode("") == []
    assert tokenizer.encode("the ψ")[-1] == "<unk>"
    for symbol, starts in (("▁a", True), ("▁", True), ("a", False), ("<mask>", True), ("<0x41>", False)):
        assert tokenizer.starts_word(symbol) is starts


def test_bytes_stand_in_for_unknown_characters(prepare: Callable[..., Path]) -> None:
    data = prepare("--byte-fallback", vocab_size=400)
    tokenizer = load_tokenizer(data)
    symbols = tokenizer.encode("the ψ river")
    assert "<unk>" not in symbols
    assert tokenizer.decode(symbols) == "the ψ river"
    assert_lines_are_encoded_alike(tokenizer, ["the ψ river", *TEXTS])


def test_specials_in_the_text_are_text(tmp_path: Path, prepare: Callable[..., Path], wordpieces: Path) -> None:
    text = "alpha <s> beta</s> <pad> a<mask>b <unk> gamma [MASK] [SEP]"
    path = tmp_path / "specials.txt"
    path.write_text(f"{text}\n" * 300 + "\n".join(make_lines(100)))
    data = prepare(train=path)
    dictionary = Dictionary.load(str(data / "dict.txt"))
    assert len(dictionary) == 120
    for tokenizer in (load_tokenizer(data), BertTokenizer(wordpieces, lowercase=True)):
        assert not {"<s>", "</s>", "<pad>", "<mask>", "[MASK]", "[SEP]"} & set(tokenizer.encode(text))
        assert_lines_are_encoded_alike(tokenizer, [text, "", *TEXTS, "the ψ"])


@pytest.mark.parametrize("rule", NORMALIZATIONS)
def test_a_text_has_the_symbols_of_its_words(tmp_path: Path, rule: str) -> None:
    """Characters at both ends and in place of a word: neither a rule nor a run of unknowns reaches over a space."""
    training = BpeTraining(vocab_size=150, normalization=rule, byte_fallback=False)
    tokenizer = train_bpe(["a ā ▁ψ", *make_lines(300)], 301, tmp_path / "bpe.model", training)
    assert tokenizer._words_apart
    kinds = {chr(code): category(chr(code)) for code in range(1, 0x110000)}
    odd = [
        c for c, kind in kinds.items() if kind != "Cs" and (ord(c) % 97 == 0 or (kind[0] in "MZC" and c < "\ud800"))
    ]
    lines = [" ".join(f"a{c} {c} {c}a" for c in odd[i : i + 9]) for i in range(0, len(odd), 9)]
    assert_lines_are_encoded_alike(tokenizer, [*lines, "a▁ ▁ ▁a", "a  b", " a ", ""])


def test_a_text_that_is_more_than_its_words_goes_whole(tmp_path: Path) -> None:
    """Pieces over spaces, rules of a user's own, and unigram models."""
    lines = make_lines(300)
    for name, options in {
        "phrases": {"model_type": "bpe", "split_by_whitespace": False, "vocab_size": 400},
        "unigram": {"model_type": "unigram"},
        "suffix": {"model_type": "bpe", "treat_whitespace_as_suffix": True},
        "symbols": {"model_type": "bpe", "user_defined_symbols": ["the"]},
        "spaces": {"model_type": "bpe", "remove_extra_whitespaces": False},
    }.items():
        prefix = tmp_path / name
        options = {"vocab_size": 120, "hard_vocab_limit": False, "minloglevel": 2, **options}
        SentencePieceTrainer.train(sentence_iterator=iter(lines), model_prefix=str(prefix), **options)
        tokenizer = SentencePieceTokenizer(prefix.with_suffix(".model"))
        assert not tokenizer._words_apart, name
        assert_lines_are_encoded_alike(tokenizer, [*TEXTS, "the  river of  the "])
        assert not tokenizer._pieces_of


def test_no_more_words_are_remembered_than_there_is_room_for(
    prepare: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(prepare())
    assert_lines_are_encoded_alike(tokenizer, TEXTS)
    assert {"the", "river"} <= tokenizer._pieces_of.keys()
    monkeypatch.setattr(sentencepiece, "_REMEMBERED", 10)
    assert_lines_are_encoded_alike(tokenizer, TEXTS)
    assert not tokenizer._pieces_of


def assert_lines_are_encoded_alike(tokenizer: Tokenizer, lines: list[str]) -> None:
    indices = {symbol: 7 + number for number, symbol in enumerate(tokenizer.symbols[::2])}
    for _ in range(2):  # the second time words are known
        ids, sizes = tokenizer.encode_lines(lines, indices, 3)
        found = [part.tolist() for part in np.split(ids, np.cumsum(sizes)[:-1])]
        assert found == [[indices.get(symbol, 3) for symbol in tokenizer.encode(line)] for line in lines]


def test_gpt2_is_fairseqs_own(prepare: Callable[..., Path], gpt2_options: list[str]) -> None:
    data = prepare(*gpt2_options, vocab_size=None)
    tokenizer = load_tokenizer(data)
    dictionary = Dictionary.load(str(data / "dict.txt"))
    assert tokenizer.kind == "gpt2"
    assert dictionary.symbols[4:] == [*map(str, range(50257)), "<mask>"]
    fairseq = get_encoder(str(GPT2_FOLDER / "encoder.json"), str(GPT2_FOLDER / "vocab.bpe"))
    rng = random.Random(0)
    odd = ["".join(chr(rng.randrange(32, 0x2FFF)) for _ in range(50)) for _ in range(50)]
    for text in [*TEXTS, *odd, "  two  spaces ", "a\tb 's 'S <|endoftext|> 😀"]:
        symbols = tokenizer.encode(text)
        assert symbols == list(map(str, fairseq.encode(text)))
        assert tokenizer.decode(symbols) == text
    assert tokenizer.starts_word("262") and tokenizer.surface("262") == " the"
    assert not tokenizer.starts_word("1169") and tokenizer.surface("1169") == "the"
    assert tokenizer.starts_word("<mask>") and tokenizer.starts_word("madeupword0001")
    assert tokenizer.decode(["<s>", "464", "<mask>", "3290", "</s>"]) == "The <mask> dog"


def test_wordpiece_is_berts(prepare: Callable[..., Path], wordpieces: Path) -> None:
    options = ("--tokenizer", "wordpiece", "--wordpiece-vocab", wordpieces)
    data = prepare(*options, "--wordpiece-lowercase", vocab_size=None)
    tokenizer = load_tokenizer(data)
    dictionary = Dictionary.load(str(data / "dict.txt"))
    assert tokenizer.kind == "bert"
    specials = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    assert dictionary.symbols[4:] == [*(word for word in WORDPIECES if word not in specials), "<mask>"]
    symbols = tokenizer.encode("The Riverwalkable house, Café 字")
    assert " ".join(symbols) == "the river ##w ##a ##l ##k ##able house , c ##a ##f ##e <unk>"
    assert tokenizer.decode(tokenizer.encode("The walked house.")) == "the walked house."
    assert tokenizer.decode(["<s>", "the", "<mask>", "walk", "##ed", "</s>"]) == "the <mask> walked"
    assert [tokenizer.starts_word(s) for s in ("the", "##ed", ".", "<mask>")] == [True, False, True, True]
    assert (tokenizer.surface("walk"), tokenizer.surface("##ed")) == (" walk", "ed")
    cased = load_tokenizer(prepare(*options, vocab_size=None, out="cased"))
    assert cased.encode("The") == ["<unk>"]


def test_load_says_what_is_missing(tmp_path: Path, prepare: Callable[..., Path], wordpieces: Path) -> None:
    data = prepare()
    assert load_tokenizer(f"{data}:{tmp_path / 'other'}").kind == "sentencepiece"
    with pytest.raises(UserError, match=r"encoder\.json does not exist"):
        load_tokenizer(data, kind="gpt2")
    with pytest.raises(UserError, match="unknown tokeniser kind 'bytes'; known are sentencepiece, gpt2, bert"):
        load_tokenizer(data, kind="bytes")
    with pytest.raises(UserError, match=r"no manifest\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "vocab.txt").write_text(wordpieces.read_text())
    assert load_tokenizer(tmp_path, kind="bert").encode("the") == ["the"]
    (data / "tokenizer" / "sentencepiece.model").unlink()
    with pytest.raises(UserError, match=r"sentencepiece\.model does not exist"):
        load_tokenizer(data)


def test_save_and_load_give_the_same(tmp_path: Path, wordpieces: Path) -> None:
    tokenizer = BertTokenizer(wordpieces, lowercase=True)
    tokenizer.save(tmp_path / "saved")
    again = BertTokenizer.load(tmp_path / "saved")
    again.save(tmp_path / "saved")  # onto itself
    assert again.encode("The RIVER") == tokenizer.encode("The RIVER") == ["the", "river"]
    assert json.loads((tmp_path / "saved" / "options.json").read_text()) == {"lowercase": True}
