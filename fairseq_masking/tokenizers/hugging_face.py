"""Any tokeniser that Hugging Face's ``tokenizers`` runs from a tokenizer.json."""

from collections.abc import Mapping
from pathlib import Path

from fairseq_masking.errors import UserError, first_line
from fairseq_masking.files import read_json
from fairseq_masking.tokenizers.backend import BackendTokenizer, backend_of
from fairseq_masking.tokenizers.symbols import SPECIAL_SYMBOLS, UNK_SYMBOL

__all__ = ["HuggingFaceTokenizer"]


class HuggingFaceTokenizer(BackendTokenizer):
    """A model's own tokenizer.json, run by the library that wrote it; its tokens are the symbols."""

    kind = "hugging_face"
    file_names = ("tokenizer.json",)

    def __init__(self, tokenizer_json: Path, *, specials: Mapping[str, str]) -> None:
        """Read the file.

        Args:
            specials: its special tokens -> ours, by their roles.
        """
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
        self.by_id = [UNK_SYMBOL] * (max(ids.values()) + 1)
        for token, index in ids.items():
            self.by_id[index] = symbol_of.get(token, token)
        self.symbols = [symbol for symbol in self.by_id if symbol not in SPECIAL_SYMBOLS]
