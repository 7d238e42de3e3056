"""GPT-2's byte-level BPE."""

from pathlib import Path
from typing import Any

from fairseq_masking.errors import UserError, first_line
from fairseq_masking.files import read_json
from fairseq_masking.tokenizers.backend import BackendTokenizer
from fairseq_masking.tokenizers.base import read_utf8_lines

__all__ = ["Gpt2Tokenizer", "byte_level_backend", "read_merges"]


class Gpt2Tokenizer(BackendTokenizer):
    """GPT-2's byte-level BPE from encoder.json and vocab.bpe, read by Hugging Face tokenizers.

    Gives the ids of fairseq's own (pure Python) encoder, several times faster.
    """

    kind = "gpt2"
    file_names = ("encoder.json", "vocab.bpe")

    def __init__(self, encoder_json: Path, vocab_bpe: Path) -> None:
        super().__init__(encoder_json, vocab_bpe)
        vocabulary, merges = _read_encoder_json(encoder_json), read_merges(vocab_bpe)
        try:
            self.backend = byte_level_backend(vocabulary, merges)
        except Exception as error:  # the library raises bare Exception
            raise UserError(
                f"{vocab_bpe} does not belong to {encoder_json} ({first_line(error)}); "
                "give the vocab.bpe that came with it"
            ) from error
        self.symbols = self.by_id = [str(index) for index in range(len(vocabulary))]


def byte_level_backend(ids: dict[str, int], merges: list[tuple[str, str]], *, prefix_space: bool = False) -> Any:
    """Returns Hugging Face's byte-level BPE over these tokens -> ids."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers

    backend = Backend(models.BPE(ids, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    backend.decoder = decoders.ByteLevel()
    return backend


def read_merges(path: Path) -> list[tuple[str, str]]:
    """Returns the pairs of a vocab.bpe, first merge first.

    Raises:
        UserError: it is none.
    """
    merges = []
    for number, line in enumerate(read_utf8_lines(path, "give GPT-2's vocab.bpe"), start=1):
        parts = line.split()
        if len(parts) == 2 and not (number == 1 and line.startswith("#version")):
            merges.append((parts[0], parts[1]))
        elif parts and number > 1:
            raise UserError(f"{path}: line {number} is no pair of symbols; give GPT-2's vocab.bpe")
    if not merges:
        raise UserError(f"{path} holds no merges; give GPT-2's vocab.bpe")
    return merges


def _read_encoder_json(path: Path) -> dict[str, int]:
    vocabulary = read_json(path, "give GPT-2's encoder.json")
    if (
        len(vocabulary) < 256
        or not all(type(index) is int for index in vocabulary.values())
        or sorted(vocabulary.values()) != list(range(len(vocabulary)))
    ):
        raise UserError(f"{path} does not map 256 symbols or more to the ids 0, 1, ...; give GPT-2's encoder.json")
    return vocabulary
