"""A Hugging Face folder: where it lies, the tokens of its tokeniser, and that as one of ours.

Names meet in Hugging Face's terms: WordPieces and SentencePiece's pieces are the same on both sides, GPT-2's
symbols are ids here ("262") and byte-level texts there ("Ġthe"). The special symbols have fairseq's names.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairseq_masking.errors import UserError, first_line
from fairseq_masking.files import hash_file, read_json
from fairseq_masking.tokenizers import HuggingFaceTokenizer, SentencePieceTokenizer, Tokenizer
from fairseq_masking.tokenizers.backend import BackendTokenizer, steps_of
from fairseq_masking.tokenizers.symbols import BERT_SYMBOLS, SPECIAL_SYMBOLS, UNK_SYMBOL
from fairseq_masking.tokenizers.vocabularies import byte_level_backend, read_merges, wordpiece_backend

__all__ = [
    "EXTRA", "GENERIC_CLASS", "ROLES", "TEXT_STEPS", "check_exported", "find_source", "hugging_face_symbols",
    "import_tokenizer", "text_steps", "tokens_of_symbols",
]  # fmt: skip

EXTRA = "pip install 'fairseq-masking[hf]'"
# Hugging Face's role of a special token -> our symbol.
ROLES = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"), SPECIAL_SYMBOLS, strict=True))
_OTHER_ROLES = {"cls_token": "bos_token", "sep_token": "eos_token"}
GENERIC_CLASS = "PreTrainedTokenizerFast"
TEXT_STEPS = "fairseq_masking_text"  # what our export says of them in its tokenizer_config.json
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "pytorch_model*.bin"]
_SENTENCEPIECE_FILES = (
    "sentencepiece.model", "sentencepiece.bpe.model", "spiece.model", "spm.model", "tokenizer.model",
)  # fmt: skip
_WORDPIECE_CLASSES = ("Bert", "ConvBert", "DistilBert", "Electra", "MobileBert", "MPNet")
_BYTE_LEVEL_CLASSES = ("Bart", "GPT2", "Longformer", "Roberta")
_CONVERT = (
    "is not imitated here: let transformers write a tokenizer.json,"
    " AutoTokenizer.from_pretrained(FOLDER).save_pretrained(ANOTHER), and give that folder"
)


def find_source(path: str) -> Path:
    """Return the local file or folder, or the folder that a model of the hub was downloaded to."""
    if Path(path).exists():
        return Path(path)
    if not _HUB_NAME.fullmatch(path):
        raise UserError(f"no such checkpoint or model folder: {path}")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(f"{path}: no such folder; to download models: {EXTRA}") from None
    try:
        return Path(snapshot_download(path, allow_patterns=_HUB_FILES))
    except Exception as error:  # its own errors, those of HTTP and of sockets
        reason = first_line(error)[:200].strip()
        raise UserError(
            f"{path}: no such folder, and the hub does not give it ({reason}): give a local folder"
        ) from error


def check_exported(folder: Path) -> None:
    """Refuse an export of ours with a file that has not its SHA-256, which stand in its model.safetensors."""
    weights = folder / "model.safetensors"
    if not weights.is_file():
        return
    try:
        with weights.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        digests = json.loads(header.get("__metadata__", {}).get("files", "{}")).items()
    except (ValueError, AttributeError, OverflowError, MemoryError):
        return  # what is wrong with the weights is said where they are read
    for name, digest in digests:
        if hash_file(folder / name) != digest:
            raise UserError(
                f"{folder / name} is not as it was exported (its SHA-256 differs): export it again; one that was"
                " changed on purpose is written by transformers' save_pretrained, with its model"
            )


def hugging_face_symbols(folder: Path) -> list[str | None] | None:
    """Return a Hugging Face folder's tokens by id, special ones under our names; None without tokeniser."""
    check_exported(folder)
    if not (tokens := _hugging_face_tokens(folder)):
        return None
    # A token that only bears one of our special names, as <unk> in MPNet, is not what we mean by it.
    ours = _special_tokens(folder, tokens)
    named = {index: ours.get(token, None if token in ours.values() else token) for token, index in tokens.items()}
    return [named.get(index) for index in range(max(named) + 1)]


def tokens_of_symbols(symbols: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """Return dictionary symbols in Hugging Face's terms."""
    tokens = tokenizer.tokens if isinstance(tokenizer, BackendTokenizer) else {}
    return [tokens.get(symbol, symbol) for symbol in symbols]


def import_tokenizer(source: Path, folder: Path) -> Tokenizer:
    """Return a folder's tokeniser; files that have to take another form are written into ``folder``.

    A tokenizer.json is run as it is. Its symbols keep the source's order, and so does a dictionary that is
    made from it. What beside its files says what they do not is an error.
    """
    check_exported(source)
    config = read_json(source / "tokenizer_config.json", optional=True)
    model = next((source / name for name in _SENTENCEPIECE_FILES if (source / name).is_file()), None)
    path = source / "tokenizer.json"
    if model is not None and (not path.is_file() or _is_own_export(config, model)):
        if config.get("do_lower_case") or config.get("keep_accents") is False:
            raise UserError(f"{source}: do_lower_case or keep_accents of its tokenizer_config.json {_CONVERT}")
        return SentencePieceTokenizer(model)
    tokens = _hugging_face_tokens(source)
    if path.is_file():
        _check_beside(source, read_json(path), config, tokens)
    else:
        path = folder / "tokenizer.json"
        folder.mkdir(parents=True, exist_ok=True)
        _converted(source, config, tokens).save(str(path))
    return HuggingFaceTokenizer(path, specials=_special_tokens(source, tokens))


def text_steps(source: Path) -> dict[str, Any]:
    """Return the fields of the TextNormalizer whose text our own export's tokeniser expects; of others none."""
    config = read_json(source / "tokenizer_config.json", optional=True)
    if TEXT_STEPS in config or not _is_own_export(config, source / _SENTENCEPIECE_FILES[0]):
        return dict(config.get(TEXT_STEPS, {}))
    # An older export says it in its tokenizer.json alone, which the model beside it does not know.
    values = read_json(source / "tokenizer.json", optional=True)
    return {"lowercase": True} if any(step["type"] == "Lowercase" for step in steps_of(values)) else {}


def _is_own_export(config: dict[str, Any], model: Path) -> bool:
    """Whether a SentencePiece model lies beside a tokenizer.json that was made from it here."""
    return model.is_file() and model.name == _SENTENCEPIECE_FILES[0] and config.get("tokenizer_class") == GENERIC_CLASS


def _check_beside(source: Path, values: dict[str, Any], config: dict[str, Any], tokens: dict[str, int]) -> None:
    """Refuse what would make the tokenizer.json alone give other ids than transformers does."""
    said: dict[str, Any] = {}
    for step in steps_of(values):
        if step["type"] == "BertNormalizer":
            accents = step["lowercase"] if step.get("strip_accents") is None else step["strip_accents"]
            names = ("do_lower_case", "tokenize_chinese_chars", "strip_accents")
            said.update(zip(names, (step["lowercase"], step["handle_chinese_chars"], accents), strict=True))
        if step["type"] == "ByteLevel" and "add_prefix_space" in step:
            said["add_prefix_space"] = step["add_prefix_space"]
    for name, value in said.items():
        if config.get(name) not in (None, value):
            raise UserError(
                f"{source}: its tokenizer_config.json has {name} {config[name]}, its tokenizer.json {value}: which"
                " one holds depends on the version of transformers; make them agree"
            )
    if values["model"].get("dropout"):
        raise UserError(f"{source}: its tokenizer.json has dropout {values['model']['dropout']}: ids at random")
    added = [token["content"] for token in config.get("added_tokens_decoder", {}).values()]
    for token in [*added, *read_json(source / "added_tokens.json", optional=True)]:
        if token not in tokens:
            raise UserError(
                f"{source}: {token!r} was added to its tokeniser outside of tokenizer.json, which {_CONVERT}"
            )


def _converted(source: Path, config: dict[str, Any], tokens: dict[str, int]) -> Any:
    """A vocab.txt, or vocab.json and merges.txt, as transformers reads them without a tokenizer.json."""
    name = str(config.get("tokenizer_class", "")).removesuffix("Fast").removesuffix("Tokenizer")
    unusual = [key for key in ("never_split", "word_tokenizer_type", "normalization") if config.get(key)]
    unusual += ["do_basic_tokenize"] if config.get("do_basic_tokenize") is False else []
    if name not in ("", "PreTrained", *_WORDPIECE_CLASSES, *_BYTE_LEVEL_CLASSES):
        unusual.append("tokenizer_class")
    if unusual:
        raise UserError(f"{source}: {unusual[0]} {config[unusual[0]]!r} of its tokenizer_config.json {_CONVERT}")
    if (source / "vocab.txt").is_file():
        specials = {symbol: token for token, symbol in _special_tokens(source, tokens).items()}
        return wordpiece_backend(
            tokens,
            unknown=specials.get(UNK_SYMBOL, BERT_SYMBOLS[UNK_SYMBOL]),
            lowercase=config.get("do_lower_case", True),
            strip_accents=config.get("strip_accents"),
            handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        )
    if (source / "merges.txt").is_file() and not any(token.endswith("</w>") for token in tokens):
        merges = read_merges(source / "merges.txt")
        return byte_level_backend(tokens, merges, prefix_space=bool(config.get("add_prefix_space")))
    raise UserError(
        f"{source} has no tokeniser of a kind known here (tokenizer.json, WordPiece's vocab.txt, byte-level BPE's"
        " vocab.json and merges.txt, or a SentencePiece .model file)"
    )


def _hugging_face_tokens(folder: Path) -> dict[str, int]:
    """Return a folder's tokens -> ids; empty where there is no tokeniser of a known form."""
    values = read_json(folder / "tokenizer.json", optional=True)
    if values:
        model = values.get("model") or {}
        vocabulary = model.get("vocab", {})
        if isinstance(vocabulary, list):  # Unigram: pairs of piece and score
            vocabulary = {piece: index for index, (piece, _) in enumerate(vocabulary)}
        return {**vocabulary, **{token["content"]: token["id"] for token in values.get("added_tokens", [])}}
    if (folder / "vocab.txt").is_file():
        lines = (folder / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
        return {line: index for index, line in enumerate(lines)}
    return read_json(folder / "vocab.json", optional=True)


def _special_tokens(folder: Path, tokens: dict[str, int]) -> dict[str, str]:
    """Return a folder's special tokens -> ours, by their roles; BERT's names where nothing says them."""
    config = read_json(folder / "tokenizer_config.json", optional=True)
    table = {**read_json(folder / "special_tokens_map.json", optional=True), **config}
    found = {}
    for role, symbol in ROLES.items():
        given = table.get(role) or table.get(_OTHER_ROLES.get(role, ""))  # text, or an object with the text inside
        content = given.get("content") if isinstance(given, dict) else given
        found[content or (BERT_SYMBOLS[symbol] if BERT_SYMBOLS[symbol] in tokens else symbol)] = symbol
    return {token: symbol for token, symbol in found.items() if token in tokens}
