"""A model's own tokenizer.json gives transformers' ids, whatever stands in it; what is said beside it is refused."""

import json

import pytest
from foreign_models import ENDINGS, LINES, TEXT
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from fairseq_masking.corpus.dictionary import dictionary_of
from fairseq_masking.errors import UserError
from fairseq_masking.tokenizers.hugging_face_files import import_tokenizer
from fairseq_masking.tokenizers.normalization import TextNormalizer
from fairseq_masking.tokenizers.to_hugging_face import write_tokenizer

BRACKETS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
OURS = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
TEXTS = [
    *LINES, *(line.upper() for line in LINES), "  two   spaces\there ", "Ünïcödé e\u0301 ﬁne \x07bell", "x" * 120,
    "I'm @user, covid-19!", "a [MASK] or <mask> written out",
]  # fmt: skip


def wordpiece(normalizer=None, pre=None, prefix="##", longest=100, names=BRACKETS):
    words = [*names.values(), *dict.fromkeys(TEXT.split()), *(end.replace("##", prefix) for end in ENDINGS)]
    words += [letter for letter in "BTHÜé日" if letter not in words] + [f"{prefix}{a}" for a in "aehnoprtu"]
    ids = {word: index for index, word in enumerate(words)}
    options = {"continuing_subword_prefix": prefix, "max_input_chars_per_word": longest}
    backend = Backend(models.WordPiece(ids, unk_token=names["unk"], **options))
    backend.normalizer = normalizer or normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre or pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=prefix)
    return backend, names


def byte_level(normalizer=None, pre=None, names=OURS, added=()):
    backend = Backend(models.BPE())
    if normalizer:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre or pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(LINES * 3, trainer)
    backend.add_tokens(list(added))
    backend.add_special_tokens([AddedToken(name, lstrip=role == "mask") for role, name in names.items()])
    return backend, names


def unigram():
    backend = Backend(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    options = {"special_tokens": list(OURS.values()), "unk_token": "<unk>", "show_progress": False}
    backend.train_from_iterator(LINES * 3, trainers.UnigramTrainer(vocab_size=90, **options))
    return backend, OURS


def words():
    ids = {word: index for index, word in enumerate([*OURS.values(), *TEXT.split()])}
    backend = Backend(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return backend, OURS


def spaces_apart():
    """As ModernBERT has it."""
    spaces = [" " * number for number in range(4, 1, -1)]
    return byte_level(normalizers.NFC(), names=BRACKETS, added=["|||IP|||", *spaces])


bert, split = normalizers.BertNormalizer, pre_tokenizers.Split
VARIANTS = {
    "uncased": wordpiece,
    "normalizers before": lambda: wordpiece(normalizers.Sequence([normalizers.Replace("12", "1"), bert()])),
    "no BertNormalizer": lambda: wordpiece(normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])),
    "other words": lambda: wordpiece(pre=pre_tokenizers.Whitespace()),
    "prefix and longest": lambda: wordpiece(prefix="@@", longest=4),
    "uncleaned": lambda: wordpiece(bert(clean_text=False, lowercase=False, strip_accents=True)),
    "Chinese": lambda: wordpiece(bert(handle_chinese_chars=False)),
    "unlike names": lambda: wordpiece(names={**BRACKETS, "cls": "<s>", "sep": "</s>", "unk": "<oov>"}),
    "byte-level": byte_level,
    "lower and strip": lambda: byte_level(normalizers.Sequence([normalizers.Lowercase(), normalizers.Strip()])),
    "prefix space": lambda: byte_level(pre=pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "own regex": lambda: byte_level(pre=pre_tokenizers.Sequence(
        [split(Regex("[aeiou]"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)])),
    "bracket specials": lambda: byte_level(names=BRACKETS),
    "added tokens": lambda: byte_level(added=["@user", "covid-19"]),
    "spaces apart": spaces_apart,
    "unigram": unigram,
    "words": words,
}  # fmt: skip


def write(variant, folder):
    backend, names = VARIANTS[variant]()
    backend.save(str(folder / "tokenizer.json"))
    roles = {f"{role}_token": name for role, name in names.items()}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **roles}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return {names[role]: symbol for role, symbol in OURS.items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_ids_are_transformers(transformers, tmp_path, variant):
    ours_of = write(variant, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, split_special_tokens=True)
    tokenizer = import_tokenizer(tmp_path, tmp_path / "files")
    for text in TEXTS:
        tokens = theirs.convert_ids_to_tokens(theirs(text, add_special_tokens=False)["input_ids"])
        expected = [ours_of.get(token, token) for token in tokens]
        assert tokenizer.encode(text) == tokenizer.encode_with_offsets(text)[0] == expected, text
    assert any(len(set(tokenizer.encode(text))) > 8 for text in TEXTS)

    # The way back: our own ids, transformers' tokens, the same special tokens.
    symbols = dictionary_of(tokenizer).symbols
    out = tmp_path / "out"
    out.mkdir()
    write_tokenizer(out, tokenizer, symbols, TextNormalizer(), max_length=24)
    again = transformers.AutoTokenizer.from_pretrained(out)
    assert (again.mask_token, again.cls_token) == (theirs.mask_token, theirs.cls_token)
    assert again.convert_tokens_to_ids(list(ours_of)) == [symbols.index(symbol) for symbol in ours_of.values()]
    for text in TEXTS[:-1]:
        ids = [symbols.index(symbol) for symbol in tokenizer.encode(text)]
        assert again(text)["input_ids"] == [0, *ids, 2], text
    back = import_tokenizer(out, tmp_path / "more")
    assert dictionary_of(back).symbols == symbols

    # Around a mask, and the text again.
    rest = " , a hat" if variant == "words" else ", a hat"
    further = tokenizer.encode_further(rest)
    assert tokenizer.encode("the dog" + rest)[-len(further) :] == further
    around = tokenizer.encode_around(["the dog ", rest])
    assert around == [*tokenizer.encode("the dog"), "<mask>", *further]
    if variant != "prefix space":  # there the library puts one before every stretch
        ids = again(f"the dog {again.mask_token}{rest}")["input_ids"]
        assert [symbols[index] for index in ids[1:-1]] == around
    assert tokenizer.decode(tokenizer.encode("the dog ate a hat")).split()[:2] == ["the", "dog"]
    if variant != "own regex":
        encoded = tokenizer.encode("a the dog ate")
        assert sum(map(tokenizer.starts_word, encoded[1:])) == 3, encoded


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"do_lower_case": False}, "do_lower_case False, its tokenizer.json True"),
        ({"strip_accents": False}, "strip_accents False"),
        ({"tokenize_chinese_chars": False}, "tokenize_chinese_chars False"),
        ({"added_tokens_decoder": {"999": {"content": "@user"}}}, "'@user' was added"),
    ],
)
def test_what_is_said_beside_the_file_is_refused_by_name(tmp_path, change, named):
    write("uncased", tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    with pytest.raises(UserError, match=named):
        import_tokenizer(tmp_path, tmp_path / "files")


@pytest.mark.parametrize("prefix", [False, True])
def test_the_files_of_a_slow_tokeniser(transformers, tmp_path, prefix):
    backend, _ = byte_level()
    backend.model.save(str(tmp_path))
    ids = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    ids |= {name: len(ids) + number for number, name in enumerate(OURS.values())}
    (tmp_path / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    config = {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": prefix}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    theirs = transformers.RobertaTokenizer.from_pretrained(tmp_path)
    tokenizer = import_tokenizer(tmp_path, tmp_path / "files")
    for text in TEXTS[:-1]:
        assert tokenizer.encode(text) == theirs.tokenize(text), text
    config["tokenizer_class"] = "BertweetTokenizer"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer_class 'BertweetTokenizer' .* is not imitated here"):
        import_tokenizer(tmp_path, tmp_path / "files")
