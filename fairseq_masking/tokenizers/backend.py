"""What Hugging Face's ``tokenizers`` runs, and any tokenizer.json: ids as symbols, where words begin."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from fairseq_masking.errors import UserError, first_line
from fairseq_masking.files import read_json
from fairseq_masking.tokenizers.base import Offsets, Tokenizer
from fairseq_masking.tokenizers.symbols import FILLER_PREFIX, SPECIAL_SYMBOLS, UNK_SYMBOL

__all__ = ["BackendTokenizer", "HuggingFaceTokenizer", "backend_of", "steps_of"]


class BackendTokenizer(Tokenizer):
    """A tokeniser of that library."""

    backend: Any  # the library's own
    by_id: list[str]  # its ids -> symbols

    def encode_with_offsets(self, text: str) -> tuple[list[str], list[Offsets]]:
        encoded = self.backend.encode(text, add_special_tokens=False)
        return [self.by_id[index] for index in encoded.ids], encoded.offsets

    def encode_words(self, text: str) -> tuple[list[str], list[int]]:
        """As ``transformers`` numbers words: a full stop is one of its own even where no symbol shows it."""
        encoded = self.backend.encode(text, add_special_tokens=False)
        return [self.by_id[index] for index in encoded.ids], encoded.word_ids

    def encode(self, text: str) -> list[str]:
        return [self.by_id[index] for index in self.backend.encode(text, add_special_tokens=False).ids]

    def encode_further(self, text: str) -> list[str]:
        return [self.by_id[index] for index in self._further.encode(text, add_special_tokens=False).ids]

    def normalize(self, text: str) -> str:
        return self.backend.normalizer.normalize_str(text) if self.backend.normalizer else text

    def join(self, symbols: Sequence[str]) -> str:
        ids = [self.backend.token_to_id(self.tokens[symbol]) for symbol in symbols if symbol in self.tokens]
        return self.backend.decode(ids, skip_special_tokens=False)

    def starts_word(self, symbol: str) -> bool:
        if symbol in SPECIAL_SYMBOLS or symbol in self._added or symbol.startswith(FILLER_PREFIX):
            return True
        token, (beginning, middle) = self.tokens.get(symbol, symbol), self._word_marks
        return token.startswith(beginning) if beginning else token == middle or not token.startswith(middle)

    def surface(self, symbol: str) -> str:
        text = self.decode([symbol])
        return " " + text.removeprefix(" ") if self.starts_word(symbol) else text.removeprefix(self._word_marks[1])

    @cached_property
    def values(self) -> dict[str, Any]:
        """What a tokenizer.json of it says."""
        return json.loads(self.backend.to_str())

    @cached_property
    def tokens(self) -> dict[str, str]:
        """Its symbols, but for the special ones -> the library's tokens."""
        named = enumerate(self.by_id)
        return {symbol: self.backend.id_to_token(index) for index, symbol in named if symbol not in SPECIAL_SYMBOLS}

    @cached_property
    def _further(self) -> Any:
        """The same without what is done to a text's beginning alone."""
        values = json.loads(json.dumps(self.values))
        for step in steps_of(values):
            step.update({name: False for name in ("add_prefix_space", "strip_left") if name in step})
            if step["type"] == "Metaspace":
                step["prepend_scheme"] = "never"
            if step["type"] == "Prepend":
                step["prepend"] = ""
        return backend_of(values)

    @cached_property
    def _added(self) -> frozenset[str]:
        return frozenset(token["content"] for token in self.values["added_tokens"])

    @cached_property
    def _word_marks(self) -> tuple[str, str]:
        """What a token at a word's beginning begins with, or, where that is "", every other token."""
        model, kinds = self.values["model"], {step["type"]: step for step in steps_of(self.values)}
        if "ByteLevel" in kinds:
            return "Ġ", ""  # the byte-level alphabet's space
        if "Metaspace" in kinds or model["type"] == "Unigram" or model.get("byte_fallback"):
            return kinds.get("Metaspace", {}).get("replacement", "▁"), ""
        if model["type"] == "WordLevel" or model.get("continuing_subword_prefix"):
            return "", model.get("continuing_subword_prefix", "\n")
        raise UserError(
            f"{next(iter(self.files.values()))}: its {model['type']} symbols do not show where words begin:"
            " --mask-unit subword is what it can do"
        )


class HuggingFaceTokenizer(BackendTokenizer):
    """A model's own tokenizer.json, run by the library that wrote it; its tokens are the symbols."""

    kind = "hugging_face"
    file_names = ("tokenizer.json",)

    def __init__(self, tokenizer_json: Path, *, specials: Mapping[str, str]) -> None:
        """Read the file, whose special tokens are ours by their roles (``specials``: theirs -> ours)."""
        super().__init__(tokenizer_json, specials=dict(specials))
        way_out = "give a tokenizer.json of Hugging Face's tokenizers"
        values = read_json(tokenizer_json, way_out)
        try:
            self.backend = backend_of(values)
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{tokenizer_json} cannot be read ({first_line(error)}); {way_out}") from error
        # A token that only bears one of our special names, as <unk> in MPNet, is not what we mean by it.
        symbol_of = {**dict.fromkeys(SPECIAL_SYMBOLS, UNK_SYMBOL), **specials}
        ids = self.backend.get_vocab(with_added_tokens=True)
        named = {index: symbol_of.get(token, token) for token, index in ids.items()}
        self.by_id = [named.get(index, UNK_SYMBOL) for index in range(max(named) + 1)]
        self.symbols = [symbol for symbol in self.by_id if symbol not in SPECIAL_SYMBOLS]


def backend_of(values: dict[str, Any]) -> Any:
    """Returns what a tokenizer.json describes; special tokens that are written out in a text are text."""
    backend = Backend.from_str(json.dumps(values))
    backend.no_padding()
    backend.no_truncation()
    backend.encode_special_tokens = True
    return backend


def steps_of(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields what a tokenizer.json does to a text before its model sees it, one by one."""
    stack = [part for part in (values.get("pre_tokenizer"), values.get("normalizer")) if part]
    while stack:
        step = stack.pop()
        yield step
        stack += [*reversed(step.get("normalizers", [])), *reversed(step.get("pretokenizers", []))]
