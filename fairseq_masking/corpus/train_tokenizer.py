"""Trains a SentencePiece BPE on a corpus's text."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq_masking.corpus.documents import TextFile
from fairseq_masking.errors import UserError
from fairseq_masking.tokenizers.symbols import MASK_SYMBOL, PAD_SYMBOL

__all__ = ["BpeTraining", "train_bpe"]

# SentencePiece leaves out longer lines. Words are counted one by one, so cutting at a space changes nothing.
_MAX_CHARACTERS = 1024


@dataclass(frozen=True)
class BpeTraining:
    """How to train a SentencePiece BPE.

    Attributes:
        vocab_size: size of the dictionary, hence rows of the embedding, special symbols included.
        character_coverage: share of the text's characters that get a symbol of their own. SentencePiece's
            0.9995 is meant for Chinese and Japanese: of English prose it drops "?", "(" and "K".
        byte_fallback: write the other characters as UTF-8 bytes (256 of the symbols), not as <unk>.
        input_sentences: train on so many lines, drawn with the seed, where the corpus has more; 0 for all.
        seed: of that draw.
    """

    vocab_size: int = 32000
    character_coverage: float = 0.99999
    byte_fallback: bool = False
    input_sentences: int = 5_000_000
    seed: int = 1


def train_bpe(text: TextFile, output: Path, training: BpeTraining) -> None:
    """Trains a BPE model on ``text`` and writes it to ``output``; the same text and settings, the same bytes.

    Raises:
        UserError: the text does not support so large, or needs a larger, a vocabulary.
    """
    import io

    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=_sample(text, training),
            model_writer=model,
            model_type="bpe",
            vocab_size=training.vocab_size,
            character_coverage=training.character_coverage,
            byte_fallback=training.byte_fallback,
            # With its own <unk>, <s> and </s> these are fairseq's five special symbols: both counts agree,
            # and no merge spells one of them, which would have no place of its own in the dictionary.
            control_symbols=[PAD_SYMBOL, MASK_SYMBOL],
            shuffle_input_sentence=False,
            max_sentence_length=1 << 20,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(_condense(str(error), training)) from error
    output.write_bytes(model.getvalue())


def _sample(text: TextFile, training: BpeTraining) -> Iterator[str]:
    size = training.input_sentences
    chosen = None
    if 0 < size < text.lines:
        rng = np.random.default_rng(training.seed)
        chosen = np.zeros(text.lines, dtype=bool)
        chosen[rng.choice(text.lines, size, replace=False, shuffle=False)] = True
    for number, (_, line) in enumerate(text.read()):
        if chosen is None or chosen[number]:
            yield from _cut(line)


def _cut(line: str) -> Iterator[str]:
    start = 0
    while len(line) - start > _MAX_CHARACTERS:
        end = line.rfind(" ", start + 1, start + _MAX_CHARACTERS)
        end = start + _MAX_CHARACTERS if end == -1 else end
        yield line[start:end]
        start = end
    yield line[start:]


def _condense(message: str, training: BpeTraining) -> str:
    """SentencePiece's message, which names its own source file and options, as one line in our terms."""
    size = training.vocab_size
    if limit := re.search(r"set it to a value <= (\d+)", message):
        most = int(limit[1])
        return f"--vocab-size {size} is more than the corpus supports; give at most {most}, or more text"
    if limit := re.search(r"smaller than required_chars. (\d+) vs (\d+)", message):
        least = int(limit[2])
        return (
            f"--vocab-size {size} is less than the corpus's characters need; give at least {least}, "
            "or a lower --character-coverage"
        )
    return f"SentencePiece could not train a vocabulary of {size}: {' '.join(message.split())}"
