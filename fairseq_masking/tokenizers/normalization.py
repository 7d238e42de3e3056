"""What happens to a line of raw text before it is tokenised: Moses, sentence splitting, lower-casing."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fairseq_masking.corpus.manifest import read_manifest
from fairseq_masking.errors import UserError
from fairseq_masking.tokenizers.sentences import SentenceSplitter

__all__ = ["TextNormalizer", "load_normalizer"]


@dataclass(frozen=True)
class TextNormalizer:
    """Turns a raw line into the lines to train on; picklable, so that worker processes can hold it.

    Attributes:
        moses_normalize: normalise punctuation (sacremoses).
        split_sentences: one sentence a line.
        moses_tokenize: spaces between words and punctuation (sacremoses), no escaping to XML entities.
        lowercase: lower-case everything.
        moses_lang: language of the Moses steps and of the sentence splitter's abbreviations.

    Raises:
        UserError: the language is unknown to Moses.
    """

    moses_normalize: bool = False
    split_sentences: bool = False
    moses_tokenize: bool = False
    lowercase: bool = False
    moses_lang: str = "en"

    def __post_init__(self) -> None:
        if self.is_costly:
            _check_language(self.moses_lang)

    @property
    def is_costly(self) -> bool:
        """Whether the work is worth several processes."""
        return self.moses_normalize or self.split_sentences or self.moses_tokenize

    def sentences(self, line: str) -> list[str]:
        """Returns the lines, none of them empty, that a raw line becomes."""
        if self.moses_normalize:
            line = self._moses_normalizer.normalize(line)
        lines = self._splitter(line) if self.split_sentences else [line.strip()]
        return [text for text in map(self._finish, lines) if text]

    def __call__(self, text: str) -> str:
        """Normalises a text as the training data was, without splitting it (for text at inference)."""
        if self.moses_normalize:
            text = self._moses_normalizer.normalize(text)
        return self._finish(text)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    def _finish(self, text: str) -> str:
        if self.moses_tokenize:
            text = self._moses_tokenizer.tokenize(text, return_str=True, escape=False)
        return (text.lower() if self.lowercase else text).strip()

    @cached_property
    def _splitter(self) -> SentenceSplitter:
        return SentenceSplitter(self.moses_lang)

    @cached_property
    def _moses_normalizer(self) -> Any:
        from sacremoses import MosesPunctNormalizer

        return MosesPunctNormalizer(lang=self.moses_lang)

    @cached_property
    def _moses_tokenizer(self) -> Any:
        from sacremoses import MosesTokenizer

        return MosesTokenizer(lang=self.moses_lang)


def load_normalizer(data_dir: str | Path) -> TextNormalizer:
    """Returns the normaliser that a data folder was prepared with (from its manifest).

    Raises:
        UserError: the folder has no manifest.
    """
    manifest = read_manifest(data_dir)
    if manifest is None:
        raise UserError(f"{data_dir} has no manifest.json; prepare it with fairseq-masking prepare corpus")
    return TextNormalizer(**manifest.settings["text"])


def _check_language(language: str) -> None:
    """sacremoses would quietly take its English rules."""
    from sacremoses.corpus import NonbreakingPrefixes

    known = sorted(set(NonbreakingPrefixes().available_langs.values()))
    if language not in known:
        raise UserError(f"--moses-lang {language!r} has no Moses rules; known are {', '.join(known)}")
