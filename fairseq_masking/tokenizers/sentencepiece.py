"""SentencePiece models (BPE, unigram, ...)."""

from collections.abc import Sequence
from pathlib import Path

from fairseq_masking.errors import UserError
from fairseq_masking.tokenizers.base import Offsets, Tokenizer, runs_of_symbols
from fairseq_masking.tokenizers.symbols import FILLER_PREFIX, SPECIAL_SYMBOLS, UNK_SYMBOL

__all__ = ["SentencePieceTokenizer"]


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model; its whole vocabulary but its control and unknown pieces."""

    kind = "sentencepiece"
    file_names = ("sentencepiece.model",)

    def __init__(self, model: Path) -> None:
        from sentencepiece import SentencePieceProcessor

        super().__init__(model)
        try:
            self._model = SentencePieceProcessor(model_file=str(model))
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"{model} is no SentencePiece model; give the .model file of spm_train"
            ) from error
        size = self._model.get_piece_size()
        if size == 0:
            raise UserError(f"{model} is a SentencePiece model without pieces; give another one")
        self.symbols = [
            piece
            for index in range(size)
            if not (self._model.is_control(index) or self._model.is_unknown(index))
            and (piece := self._model.id_to_piece(index)) not in SPECIAL_SYMBOLS
        ]
        self._known = frozenset(self.symbols)

    def encode(self, text: str) -> list[str]:
        return self._symbols_of(self._model.encode(text, out_type=str))

    def encode_with_offsets(self, text: str) -> tuple[list[str], list[Offsets]]:
        encoded = self._model.encode(text, return_type="offset_mapping")
        return self._symbols_of(encoded["pieces"]), encoded["offsets"]

    def decode(self, symbols: Sequence[str]) -> str:
        text = ""
        for run, special in runs_of_symbols(symbols):
            # A piece that the model does not know comes back as it is.
            part = run[0] if special else self._model.decode_pieces(run).replace("▁", " ")
            # SentencePiece drops the space before the first piece, be it the text's beginning or not.
            if (special and not text.endswith(" ")) or (run[0].startswith("▁") and not part.startswith(" ")):
                part = " " + part
            text += part
        return text.removeprefix(" ")

    def starts_word(self, symbol: str) -> bool:
        return symbol.startswith(("▁", FILLER_PREFIX)) or symbol in SPECIAL_SYMBOLS

    def surface(self, symbol: str) -> str:
        return " " + symbol if symbol in SPECIAL_SYMBOLS else symbol.replace("▁", " ")

    def _symbols_of(self, pieces: Sequence[str]) -> list[str]:
        known = self._known
        return [piece if piece in known else UNK_SYMBOL for piece in pieces]
