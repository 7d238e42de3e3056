"""The special symbols of a dictionary, by fairseq's names: spelt here and nowhere else."""

__all__ = [
    "BERT_SYMBOLS", "BOS_SYMBOL", "EOS_SYMBOL", "FILLER_PREFIX", "MASK_SYMBOL", "PAD_SYMBOL",
    "SPECIAL_SYMBOLS", "UNK_SYMBOL",
]  # fmt: skip

SPECIAL_SYMBOLS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
BOS_SYMBOL, PAD_SYMBOL, EOS_SYMBOL, UNK_SYMBOL, MASK_SYMBOL = SPECIAL_SYMBOLS
BERT_SYMBOLS = dict(zip(SPECIAL_SYMBOLS, ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"), strict=True))
FILLER_PREFIX = "madeupword"  # fairseq pads dictionaries with such symbols; they never occur in text
