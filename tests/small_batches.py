"""A dictionary of 45 symbols and batches as the task makes them: for models of a few thousand parameters."""

from argparse import Namespace

import numpy as np
import torch
from fairseq.data import Dictionary

from fairseq_masking.data import MaskedExample, collate
from fairseq_masking.masking import Masker, MaskingConfig, MaskingVocabulary

NUM_SYMBOLS, MASK_INDEX, PAD_INDEX = 45, 44, 1  # 4 of fairseq's own, 40 words, <mask>


def dictionary() -> Dictionary:
    result = Dictionary()
    for index in range(40):
        result.add_symbol(f"w{index}")
    result.add_symbol("<mask>")
    return result


def pretraining_task(symbols: Dictionary | None = None, **more) -> Namespace:
    """What a model asks of its task."""
    return Namespace(source_dictionary=symbols or dictionary(), pretrains=True, **more)


def batch(device, lengths, *, num_splits=1, specials_inside=False, **masking):
    """Ids 0 and 2 around each row, a </s> inside long ones if asked for; two of three ids start a word."""
    vocabulary = MaskingVocabulary.build(
        NUM_SYMBOLS, special_ids=range(4), mask_index=MASK_INDEX, starts_word=np.arange(NUM_SYMBOLS) % 3 != 0
    )
    masker = Masker(MaskingConfig(num_splits=num_splits, **masking), vocabulary)
    rng, items = np.random.default_rng(0), []
    for index, length in enumerate(lengths):
        tokens = np.concatenate([[0], rng.integers(4, 44, length - 2), [2]])
        if specials_inside and length > 8:
            tokens[5] = 2
        items.append(MaskedExample(index, tokens, masker(tokens, epoch=1, index=index), num_splits))
    sample = collate(items, PAD_INDEX)
    sample["net_input"] = {
        key: value.to(device) if torch.is_tensor(value) else value for key, value in sample["net_input"].items()
    }
    return sample
