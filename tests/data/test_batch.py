"""The batch made directly, as measurements do; test_collate.py has every field against plain loops."""

import numpy as np
import pytest
import torch

from fairseq_masking.data import MaskedExample, batch_input, collate
from fairseq_masking.masking import MaskedItem, Masker, MaskingConfig, MaskingVocabulary

TEXT = np.array([0, *range(5, 23), 2])


def splits(vocabulary: MaskingVocabulary, number: int) -> MaskedItem:
    masked = Masker(MaskingConfig(num_splits=number), vocabulary)(TEXT, epoch=1, index=0)
    assert masked is not None
    return masked


def test_masks_of_one_text_as_rows(vocabulary: MaskingVocabulary, device: torch.device) -> None:
    """Three rows with a mask each are the three splits of one text, but for K and what is drawn later."""
    masked = splits(vocabulary, 3)
    rows = [MaskedItem(masked.columns[k : k + 1], masked.kinds, masked.replacements[k : k + 1]) for k in range(3)]
    apart = batch_input([TEXT] * 3, rows, device=device)
    together = collate([MaskedExample(0, TEXT, masked, 3)], 1)["net_input"]
    shape, expected = apart.pop("shape"), together.pop("shape")
    assert (shape.pop("num_splits"), expected.pop("num_splits")) == (1, 3)
    assert shape.pop("noise_seed") == 0 and expected.pop("noise_seed") != 0
    assert shape == expected
    assert apart.keys() == together.keys()
    for name, tensor in apart.items():
        assert tensor.device.type == device.type
        torch.testing.assert_close(tensor.cpu(), together[name], rtol=0, atol=0)


def test_only_texts_of_one_length_go_without_a_pad(vocabulary: MaskingVocabulary) -> None:
    with pytest.raises(AssertionError, match="<pad>"):
        batch_input([TEXT, TEXT[:9]], [splits(vocabulary, 1), None])
