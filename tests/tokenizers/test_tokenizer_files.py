"""tokenizer.json gives the ids of our own tokenisers; a folder's tokeniser becomes one of ours."""

import json
import lzma
import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import run_verb
from foreign_models import LINES, TEXT, prepare, write_wordpiece
from tokenizers import Tokenizer as Backend

from fairseq_masking.checkpoints.hub import HubInterface
from fairseq_masking.corpus.dictionary import dictionary_of
from fairseq_masking.corpus.encoding import TextEncoder
from fairseq_masking.corpus.manifest import load_normalizer, load_tokenizer
from fairseq_masking.corpus.prepare import tokenizer_of
from fairseq_masking.data import load_dictionary
from fairseq_masking.errors import UserError
from fairseq_masking.tokenizers import SentencePieceTokenizer
from fairseq_masking.tokenizers.hugging_face_files import import_tokenizer
from fairseq_masking.tokenizers.normalization import TextNormalizer
from fairseq_masking.tokenizers.symbols import SPECIAL_SYMBOLS
from fairseq_masking.tokenizers.to_hugging_face import write_tokenizer

SHARED = Path(__file__).parents[3] / "shared" / "data"
GPT2 = SHARED / "gpt2_bpe"
CORPUS = SHARED / "corpus" / "cs.valid.txt.xz"
KINDS = ["bpe", "bpe bytes", "bpe lowercase", "unigram", "gpt2", "wordpiece"]
MASKED = [
    "The <mask> sat on the mat.",
    "<mask> dog ate the hat.",
    "The dog<mask>.",
    "A<mask>b <mask> <mask>, no",
    "an old\t<mask>",
]


def options_of(kind, folder):
    """What ``prepare corpus`` is told to have such a tokeniser."""
    if kind == "gpt2":
        if not GPT2.is_dir():
            pytest.skip(f"no GPT-2 BPE in {GPT2}")
        files = ("--gpt2-encoder-json", GPT2 / "encoder.json", "--gpt2-vocab-bpe", GPT2 / "vocab.bpe")
        return ("--tokenizer", "gpt2", *files)
    if kind == "wordpiece":
        write_wordpiece(folder)
        vocab = folder / "vocab.txt"
        return ("--tokenizer", "wordpiece", "--wordpiece-vocab", vocab, "--wordpiece-lowercase")
    if kind == "unigram":
        from sentencepiece import SentencePieceTrainer

        (folder / "text").write_text("\n".join([*LINES, TEXT] * 20), encoding="utf-8")
        model = folder / "unigram"
        SentencePieceTrainer.train(
            input=str(folder / "text"), model_prefix=str(model), vocab_size=90, hard_vocab_limit=False,
            minloglevel=2,
        )  # fmt: skip
        return ("--tokenizer", "sentencepiece", "--sentencepiece-model", f"{model}.model")
    more = {"bpe bytes": ("--byte-fallback", "--character-coverage", "0.98"), "bpe lowercase": ("--lowercase",)}
    return ("--vocab-size", "310" if kind == "bpe bytes" else "120", *more.get(kind, ()))


@pytest.fixture(scope="module", params=KINDS)
def prepared(request, tmp_path_factory):
    """A corpus with a kind of tokeniser, and the folder its tokenizer.json was written into."""
    folder = tmp_path_factory.mktemp("corpus")
    data = prepare(folder, *options_of(request.param, folder))
    symbols = load_dictionary(data / "dict.txt").symbols
    write_tokenizer(folder, load_tokenizer(data), symbols, load_normalizer(data), max_length=24)
    return data, folder


def encoder_of(data):
    """Our own encoding of a text with <mask>s: the interface without its model."""
    dictionary = load_dictionary(data / "dict.txt")
    model = torch.nn.Linear(1, 1)
    return HubInterface(model, dictionary, load_tokenizer(data), load_normalizer(data)).encode


def corpus():
    if not CORPUS.is_file():
        return []
    with lzma.open(CORPUS, "rt", encoding="utf-8") as file:
        lines = [line.strip() for _, line in zip(range(400), file, strict=False)]
    return [line for line in lines if line and not any(symbol in line for symbol in SPECIAL_SYMBOLS)]


def test_ids_are_ours_on_a_corpus(prepared):
    data, folder = prepared
    encode, theirs = encoder_of(data), Backend.from_file(str(folder / "tokenizer.json"))
    lines = [*LINES, *(line.upper() for line in LINES), "x" * 120, "a\u0301 ﬁne ½ \u200b\ufeffend…", *corpus()]
    for line in lines:
        assert theirs.encode(line).ids == encode(line).tolist(), line
    pair = theirs.encode(LINES[0], LINES[2]).ids
    assert pair == [*encode(LINES[0]).tolist(), 2, *encode(LINES[2]).tolist()[1:]], "<s> a </s></s> b </s>"


@pytest.mark.parametrize("prepared", ["bpe lowercase"], indirect=True)
def test_lower_case_is_pythons(prepared):
    text = "ΟΔΟΣ ΣΟΦΟΣ, Σ ΑΣ'Α; ΑΣ\u0301Σ. İSTANBUL ẞ"
    theirs = Backend.from_file(str(prepared[1] / "tokenizer.json")).normalizer
    assert theirs.normalize_str(text) == unicodedata.normalize("NFKC", text.lower())


def test_masks_in_a_text(prepared):
    data, folder = prepared
    encode, theirs = encoder_of(data), Backend.from_file(str(folder / "tokenizer.json"))
    mask = load_dictionary(data / "dict.txt").index("<mask>")
    for text in MASKED:
        assert theirs.encode(text).ids == encode(text).tolist(), text
        assert theirs.encode(text).ids.count(mask) == text.count("<mask>")


def test_around_a_mask_a_text_is_written_as_training_would(prepared):
    """As with a word in its place, whose symbols are taken out again."""
    data, folder = prepared
    encode, theirs = encoder_of(data), Backend.from_file(str(folder / "tokenizer.json"))
    tokenizer, dictionary = load_tokenizer(data), load_dictionary(data / "dict.txt")
    for text in ("a {}.", "the {}'s hat", "he sat ({}), two", "the {} hat", "{}, the hat", '"{}" is #{}!'):
        whole = text.format("dog", "dog").strip()
        symbols, offsets = tokenizer.encode_with_offsets(whole)
        dogs = {place for found in re.finditer("dog", whole) for place in range(*found.span())}
        hidden = [bool(dogs & set(range(*offset))) for offset in offsets]
        # A space that is a symbol of its own belongs to the word after it.
        hidden = [
            here or (s == "▁" and after) for s, here, after in zip(symbols, hidden, [*hidden[1:], 0], strict=True)
        ]
        expected = []
        for symbol, is_hidden in zip(symbols, hidden, strict=True):
            if not is_hidden or expected[-1:] != ["<mask>"]:
                expected.append("<mask>" if is_hidden else symbol)
        masked = text.format("<mask>", "<mask>")
        for ids in (encode(masked).tolist(), theirs.encode(masked).ids):
            assert [dictionary[index] for index in ids[1:-1]] == expected, text
    assert encode("he sat<mask><mask> , <mask>").tolist().count(dictionary.index("<mask>")) == 3


def test_transformers_takes_it(transformers, prepared):
    data, folder = prepared
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    dictionary = load_dictionary(data / "dict.txt")
    roles = ("bos_token", "cls_token", "pad_token", "eos_token", "sep_token", "unk_token", "mask_token")
    symbols = ("<s>", "<s>", "<pad>", "</s>", "</s>", "<unk>", "<mask>")
    for role, symbol in zip(roles, symbols, strict=True):
        assert getattr(tokenizer, role) == symbol
        assert getattr(tokenizer, f"{role}_id") == dictionary.index(symbol)
    assert len(tokenizer) == len(dictionary) and tokenizer.model_max_length == 24
    encode = encoder_of(data)
    texts = [*LINES, *MASKED, *corpus()[:50]]
    assert tokenizer(texts)["input_ids"] == [encode(text).tolist() for text in texts]
    batch = tokenizer([LINES[0], MASKED[0]], padding=True)
    assert set(batch) == {"input_ids", "attention_mask"}
    for text, ids, seen in zip([LINES[0], MASKED[0]], batch["input_ids"], batch["attention_mask"], strict=True):
        assert ids[: sum(seen)] == encode(text).tolist() and set(ids[sum(seen) :]) <= {1}
    text = "the dog ate the hat."
    decoded = tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)
    assert decoded.replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("steps", [{}, {"lowercase": True}, {"moses_normalize": True, "moses_lang": "de"},
                                   {"moses_tokenize": True, "lowercase": True}], ids=str)  # fmt: skip
def test_back_again_text_has_the_same_ids(prepared, tmp_path, steps):
    """Of every tokeniser, with every step that is done to a text before; of --tokenizer-from a corpus too."""
    data, _ = prepared
    if load_tokenizer(data).kind == "gpt2" and steps in (
        {"lowercase": True},
        {"moses_normalize": True, "moses_lang": "de"},
    ):
        return  # its 50,000 symbols take a second each time
    before = TextEncoder(
        load_tokenizer(data), load_dictionary(data / "dict.txt"), replace(load_normalizer(data), **steps)
    )
    symbols = before.dictionary.symbols
    write_tokenizer(tmp_path, before.tokenizer, symbols, before.normalizer, max_length=24)
    tokenizer, dictionary, found = tokenizer_of(str(tmp_path), tmp_path / "files")
    after = TextEncoder(tokenizer, dictionary_of(tokenizer, dictionary), TextNormalizer(**found))
    assert found == before.normalizer.steps()
    assert len(after.dictionary) == len(symbols)
    for line in [*LINES, *corpus()[:50]]:
        assert after(line) == before(line)
        assert after.with_offsets(line)[0] == before(line)


def test_an_export_of_before_is_lower_cased_again(prepared, tmp_path):
    data, _ = prepared
    normalizer = TextNormalizer(lowercase=True)
    symbols = load_dictionary(data / "dict.txt").symbols
    write_tokenizer(tmp_path, load_tokenizer(data), symbols, normalizer, max_length=24)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config.pop("fairseq_masking_text") == {"lowercase": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer, _, found = tokenizer_of(str(tmp_path), tmp_path / "files")
    for line in LINES:
        assert tokenizer.encode(TextNormalizer(**found)(line)) == tokenizer.encode(line.lower())


def test_a_corpus_with_the_tokeniser_of_another(prepared, tmp_path):
    """A prepared folder gives its dictionary along, with its rows in their order."""
    data, _ = prepared
    again = prepare(tmp_path, "--tokenizer-from", data)
    symbols = load_dictionary(data / "dict.txt").symbols
    assert load_dictionary(again / "dict.txt").symbols == symbols
    assert load_tokenizer(again).encode(LINES[0]) == load_tokenizer(data).encode(LINES[0])


@pytest.mark.parametrize("prepared", ["bpe", "unigram"], indirect=True)
def test_letters_written_in_two_characters(prepared):
    """As SentencePiece's own normaliser has them, whatever stands in the vocabulary."""
    text = unicodedata.normalize("NFD", "Où est le café? Việt ế ﬁ")
    theirs = Backend.from_file(str(prepared[1] / "tokenizer.json")).normalizer
    assert theirs.normalize_str(text) == unicodedata.normalize("NFKC", text)


def test_a_tokenisers_faults_are_named(tmp_path, capsys):
    with pytest.raises(UserError, match="no tokeniser of a kind known here"):
        import_tokenizer(tmp_path, tmp_path)
    data = prepare(tmp_path, "--vocab-size", "120")
    tokenizer = load_tokenizer(data)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    symbols = [symbol for symbol in dictionary_of(tokenizer).symbols if symbol != "▁the"]
    with pytest.raises(UserError, match="lacks 1 symbols of its tokeniser, such as '▁the'"):
        write_tokenizer(tmp_path, tokenizer, symbols, TextNormalizer(), max_length=9)
    capsys.readouterr()
    start = ["--train", tmp_path / "lines.txt", "--out", tmp_path / "x", "--tokenizer-from", data]
    for more, part in (
        (["--vocab-size", "90"], "--tokenizer-from brings what --vocab-size says"),
        (["--dictionary", "d"], "--tokenizer-from brings what --dictionary says"),
        (["--tokenizer", "gpt2"], "--tokenizer gpt2 needs"),
    ):
        assert run_verb("prepare", "corpus", *start, *more) == 2
        assert part in capsys.readouterr().err
