"""The tokens that a task's validation hides, and how often each symbol occurs in its training text.

Shapes: V symbols, N masked tokens of the validation set.
"""

import numpy as np
import numpy.typing as npt

from fairseq_masking.corpus.indexed import TokenStream
from fairseq_masking.data import load_tokens
from fairseq_masking.measure.unigram import Unigram
from fairseq_masking.tasks import MaskedPretrainingTask
from fairseq_masking.tasks.masked_pretraining import data_folders
from fairseq_masking.tokenizers.symbols import MASK_SYMBOL

__all__ = ["training_unigram", "validation_targets"]

_CHUNK = 10_000_000  # tokens read at once


def validation_targets(task: MaskedPretrainingTask, split: str = "valid") -> npt.NDArray[np.int64]:
    """int64 [N]: the tokens at the masked positions of ``split``, the very ones that validation scores."""
    task.load_dataset(split)
    dataset = task.dataset(split)
    examples = (dataset[index] for index in range(len(dataset)))
    hidden = [
        example.tokens[example.masked.columns.reshape(-1)]
        for example in examples
        if example.masked is not None
    ]
    return np.concatenate(hidden) if hidden else np.empty(0, dtype=np.int64)


def training_unigram(task: MaskedPretrainingTask, split: str = "train") -> Unigram:
    """The unigram of the training text, over all shards."""
    dictionary = task.source_dictionary
    counts_V = np.zeros(len(dictionary), dtype=np.int64)
    for folder in data_folders(task.cfg.data):
        stream = TokenStream.of(load_tokens(str(folder / split), dictionary, True))
        assert stream is not None, "load_tokens gives memory-mapped files"
        for start in range(0, len(stream), _CHUNK):
            tokens = np.empty(min(_CHUNK, len(stream) - start), dtype=np.int64)
            stream.read(start, start + len(tokens), tokens)
            counts_V += np.bincount(tokens, minlength=len(dictionary))
    return Unigram(counts_V, [*range(dictionary.nspecial), dictionary.index(MASK_SYMBOL)])
