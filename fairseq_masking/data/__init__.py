"""From binarised files to batches: checked loading, blocks, masks, collation."""

from fairseq_masking.corpus.dictionary import load_dictionary
from fairseq_masking.corpus.indexed import load_tokens
from fairseq_masking.data.batch import MaskedExample, batch_input, collate
from fairseq_masking.data.blocks import BlockDataset, BreakMode
from fairseq_masking.data.masked_dataset import MaskedDataset

__all__ = [
    "BlockDataset", "BreakMode", "MaskedDataset", "MaskedExample", "batch_input", "collate", "load_dictionary",
    "load_tokens",
]  # fmt: skip
