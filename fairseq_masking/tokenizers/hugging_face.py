"""Any tokeniser that Hugging Face's ``tokenizers`` runs from a tokenizer.json."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from fairseq_masking.errors import UserError, first_line
from fairseq_masking.files import read_json
from fairseq_masking.tokenizers.base import BackendTokenizer
from fairseq_masking.tokenizers.symbols import FILLER_PREFIX, SPECIAL_SYMBOLS, UNK_SYMBOL

__all__ = ["HuggingFaceTokenizer", "backend_of", "steps_of"]

_WAY_OUT = "give a tokenizer.json of Hugging Face's tokenizers"


class HuggingFaceTokenizer(BackendTokenizer):
    """A model's own tokenizer.json, run by the library that wrote it; its tokens are the symbols.

    Attributes:
        symbol_of: its tokens -> symbols, in the order of its ids.
    """

    kind = "hugging_face"
    file_names = ("tokenizer.json",)

    def __init__(self, tokenizer_json: Path, *, specials: Mapping[str, str]) -> None:
        """Read the file.

        Args:
            specials: its special tokens -> ours, by their roles.
        """
        super().__init__(tokenizer_json, specials=dict(specials))
        self.values = read_json(tokenizer_json, _WAY_OUT)
        try:
            self.backend = backend_of(self.values)
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{tokenizer_json} cannot be read ({first_line(error)}); {_WAY_OUT}") from error
        ids = self.backend.get_vocab(with_added_tokens=True)
        # A token that only bears one of our special names, as <unk> in MPNet, is not what we mean by it.
        others = dict.fromkeys(SPECIAL_SYMBOLS, UNK_SYMBOL)
        self.symbol_of = {token: specials.get(token, others.get(token, token)) for token in sorted(ids, key=ids.get)}
        self.by_id = [UNK_SYMBOL] * (max(ids.values()) + 1)
        for token, symbol in self.symbol_of.items():
            self.by_id[ids[token]] = symbol
        self.symbols = [symbol for symbol in self.symbol_of.values() if symbol not in SPECIAL_SYMBOLS]

    def encode_further(self, text: str) -> list[str]:
        return [self.by_id[index] for index in self._further.encode(text, add_special_tokens=False).ids]

    def join(self, symbols: Sequence[str]) -> str:
        ids = [self.backend.token_to_id(symbol) for symbol in symbols]
        return self.backend.decode([index for index in ids if index is not None], skip_special_tokens=False)

    def starts_word(self, symbol: str) -> bool:
        if symbol in SPECIAL_SYMBOLS or symbol in self._whole_words or symbol.startswith(FILLER_PREFIX):
            return True
        beginning, middle = self._word_marks
        return symbol.startswith(beginning) if beginning else symbol == middle or not symbol.startswith(middle)

    def surface(self, symbol: str) -> str:
        return (" " if self.starts_word(symbol) else "") + self.decode([symbol]).removeprefix(" ")

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
    def _whole_words(self) -> frozenset[str]:
        return frozenset(token["content"] for token in self.values.get("added_tokens", ()))

    @cached_property
    def _word_marks(self) -> tuple[str, str]:
        """What a symbol at a word's beginning begins with, or, where that is "", every other symbol."""
        model, kinds = self.values["model"], {step["type"]: step for step in steps_of(self.values)}
        if "ByteLevel" in kinds:
            return "Ġ", ""
        if "Metaspace" in kinds or model["type"] == "Unigram" or model.get("byte_fallback"):
            return kinds.get("Metaspace", {}).get("replacement", "▁"), ""
        if model["type"] == "WordLevel" or model.get("continuing_subword_prefix"):
            return "", model.get("continuing_subword_prefix", "\n")
        raise UserError(
            f"{self.files['tokenizer.json']}: its {model['type']} symbols do not show where words begin:"
            " --mask-unit subword is what it can do"
        )


def backend_of(values: dict[str, Any]) -> Any:
    """Returns what a tokenizer.json describes; special tokens that are written out in a text are text."""
    from tokenizers import Tokenizer as Backend

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
