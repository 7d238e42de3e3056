"""Tokenisers: text to dictionary symbols and back, for SentencePiece, GPT-2 BPE, BERT WordPiece and tokenizer.json.

Each kind keeps its files in DATA/tokenizer/ and has the name that fairseq's ``--bpe`` gives it. The symbols
stand in dict.txt as fairseq writes them: SentencePiece pieces ("▁the"), GPT-2 ids as decimal strings ("262"),
WordPieces ("##ing"). Special symbols written out in a text ("<s>", "[MASK]") are ordinary text here.
"""

from fairseq_masking.tokenizers.backend import HuggingFaceTokenizer
from fairseq_masking.tokenizers.base import Offsets, Tokenizer
from fairseq_masking.tokenizers.sentencepiece import SentencePieceTokenizer
from fairseq_masking.tokenizers.vocabularies import BertTokenizer, Gpt2Tokenizer, WhitespaceTokenizer

__all__ = [
    "KINDS", "BertTokenizer", "Gpt2Tokenizer", "HuggingFaceTokenizer", "Offsets", "SentencePieceTokenizer",
    "Tokenizer", "WhitespaceTokenizer",
]  # fmt: skip

_KINDS = (SentencePieceTokenizer, Gpt2Tokenizer, BertTokenizer, HuggingFaceTokenizer, WhitespaceTokenizer)
KINDS: dict[str, type[Tokenizer]] = {cls.kind: cls for cls in _KINDS}
