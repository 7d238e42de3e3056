"""Tokenisers: text to dictionary symbols and back, for SentencePiece, GPT-2 BPE and BERT WordPiece.

Each kind keeps its files in DATA/tokenizer/ and has the name that fairseq's ``--bpe`` gives it. The symbols
stand in dict.txt as fairseq writes them: SentencePiece pieces ("▁the"), GPT-2 ids as decimal strings ("262"),
WordPieces ("##ing"). Special symbols written out in a text ("<s>", "[MASK]") are ordinary text here.
"""

from pathlib import Path

from fairseq_masking.corpus.manifest import TOKENIZER_FOLDER, first_shard, read_manifest
from fairseq_masking.errors import UserError
from fairseq_masking.tokenizers.base import Offsets, Tokenizer
from fairseq_masking.tokenizers.gpt2 import Gpt2Tokenizer
from fairseq_masking.tokenizers.sentencepiece import SentencePieceTokenizer
from fairseq_masking.tokenizers.wordpiece import BertTokenizer

__all__ = [
    "KINDS",
    "BertTokenizer",
    "Gpt2Tokenizer",
    "Offsets",
    "SentencePieceTokenizer",
    "Tokenizer",
    "load_tokenizer",
]

KINDS: dict[str, type[Tokenizer]] = {
    cls.kind: cls for cls in (SentencePieceTokenizer, Gpt2Tokenizer, BertTokenizer)
}


def load_tokenizer(data_dir: str | Path, kind: str | None = None) -> Tokenizer:
    """Loads the tokeniser that a data folder was prepared with.

    Args:
        data_dir: folder with manifest.json and tokenizer/; of colon-separated shards, the first one counts.
        kind: "sentencepiece", "gpt2" or "bert", instead of what the manifest says.

    Raises:
        UserError: nothing says which kind it is, the kind is unknown, or its files are missing or damaged.
    """
    folder = first_shard(data_dir)
    if kind is None:
        manifest = read_manifest(folder)
        if manifest is None:
            raise UserError(
                f"{folder} has no manifest.json that names its tokeniser; prepare the data with "
                f"fairseq-masking prepare corpus, or give --bpe ({', '.join(KINDS)}) and put its files into "
                f"{folder / TOKENIZER_FOLDER}"
            )
        kind = manifest.tokenizer["kind"]
    if kind not in KINDS:
        raise UserError(f"unknown tokeniser kind {kind!r}; known are {', '.join(KINDS)}")
    return KINDS[kind].load(folder / TOKENIZER_FOLDER)
