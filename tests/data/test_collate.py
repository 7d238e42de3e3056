"""Every field of the batch against plain loops over rows."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from fairseq_masking.data import MaskedExample, collate
from fairseq_masking.masking import Masker, MaskingConfig, MaskingVocabulary, noise_seed

PAD = 1
# Lengths with <s> and </s>; negative: of the text, all but three tokens are separators.
LENGTHS = {
    "rectangular": [20, 20, 20],
    "ragged": [20, 7, 12, 33, 5],
    "one item": [20],
    "short last": [20, 20, 9],
    "skipped first": [3, 20],
    "skipped last": [20, 3],
    "all skipped": [3, 3],
    "equal lengths, unequal counts": [20, -20, 20],
    "equal lengths, one skipped": [3, 3, -3],
    "longest with few masks": [-40, 33, 20],
}


def make_items(lengths: list[int], num_splits: int, vocabulary: MaskingVocabulary) -> list[MaskedExample]:
    rng = np.random.default_rng(0)
    masker = Masker(MaskingConfig(num_splits=num_splits, mask_prob=0.2), vocabulary)
    items = []
    for number, length in enumerate(lengths):
        inner = rng.integers(4, 39, size=abs(length) - 2).tolist()
        if length < 0:
            inner[3:] = [2] * len(inner[3:])
        elif length == 3:
            # Nothing to mask, with one split as with three.
            inner = [2]
        tokens = np.array([0, *inner, 2])
        index = 100 - number
        items.append(MaskedExample(index, tokens, masker(tokens, epoch=2, index=index), num_splits))
    return items


@pytest.mark.parametrize("num_splits", [1, 3])
@pytest.mark.parametrize("case", LENGTHS)
def test_batch(case: str, num_splits: int, vocabulary: MaskingVocabulary) -> None:
    items = make_items(LENGTHS[case], num_splits, vocabulary)
    batch = collate(items, PAD, seed=7, epoch=2)

    rows: list[list[int]] = []
    ids, splits, positions, kinds, replacements, num_masked = [], [], [], [], [], []
    visible = []
    width = max(len(item.tokens) for item in items)
    for item, split in itertools.product(items, range(num_splits)):
        row = len(rows)
        rows.append([*item.tokens.tolist(), *[PAD] * (width - len(item.tokens))])
        ids.append(item.index)
        splits.append(split)
        masks = 0
        if item.masked is None:
            num_masked.append(0)
        else:
            num_masked.append(len(item.masked.kinds))
            for place, kind in enumerate(item.masked.kinds.tolist()):
                positions.append(row * width + int(item.masked.columns[split, place]))
                kinds.append(kind)
                replacements.append(int(item.masked.replacements[split, place]))
                masks += kind == 0
        visible.append(len(item.tokens) - masks)

    lengths = [len(item.tokens) for item in items for _ in range(num_splits)]
    net_input = batch["net_input"]
    expected: dict[str, tuple[list[Any], torch.dtype]] = {
        "src_tokens": (rows, torch.int64),
        "src_lengths": (lengths, torch.int64),
        "positions": (positions, torch.int64),
        "kinds": (kinds, torch.int8),
        "replacements": (replacements, torch.int64),
        "num_masked": (num_masked, torch.int64),
    }
    assert set(net_input) == {*expected, "shape"}
    for name, (values, dtype) in expected.items():
        assert net_input[name].tolist() == values, name
        assert net_input[name].dtype == dtype, name
    assert net_input["shape"] == {
        "rectangular": len(set(lengths)) == 1 and len(set(num_masked)) == 1,
        "max_masked": max(num_masked),
        "num_mask": kinds.count(0),
        "max_visible": max(visible),
        "has_padding": len(set(lengths)) > 1,
        "noise_seed": noise_seed(7, 2, items[0].index),
        "num_splits": num_splits,
    }
    assert set(batch) == {"id", "split", "nsentences", "ntokens", "num_skipped", "net_input"}
    assert (batch["id"].tolist(), batch["split"].tolist()) == (ids, splits)
    assert (batch["id"].dtype, batch["split"].dtype) == (torch.int64, torch.int64)
    assert batch["nsentences"] == len(rows)
    assert batch["ntokens"] == sum(lengths)
    assert batch["num_skipped"] == sum(item.masked is None for item in items)
    for value in (*net_input["shape"].values(), batch["nsentences"], batch["ntokens"], batch["num_skipped"]):
        assert type(value) in (int, bool), "host values are plain Python"


def test_corrupting_is_one_scatter(vocabulary: MaskingVocabulary) -> None:
    """The contract as models use it: scatter the replacements, gather the targets."""
    items = make_items([20, 12], 3, vocabulary)
    net_input = collate(items, PAD)["net_input"]
    clean = net_input["src_tokens"]
    corrupted = clean.flatten().scatter(0, net_input["positions"], net_input["replacements"]).view_as(clean)
    changed = corrupted != clean
    unchanged_kind = net_input["positions"][net_input["kinds"] == 2]
    assert not changed.flatten()[unchanged_kind].any()
    masked = net_input["positions"][net_input["kinds"] == 0]
    assert (corrupted.flatten()[masked] == 39).all()
    assert (clean.flatten()[net_input["positions"]] != PAD).all()
    assert int(changed.sum()) <= len(net_input["positions"])


def test_no_items() -> None:
    assert collate([], PAD) == {}


def test_rows_can_be_written_to(vocabulary: MaskingVocabulary) -> None:
    """The tensors own their memory: writing to a batch changes neither its items nor the masker's tables."""
    items = make_items([20], 1, vocabulary)
    tokens, kinds = items[0].tokens.copy(), items[0].masked.kinds.copy()  # type: ignore[union-attr]
    net_input = collate(items, PAD)["net_input"]
    net_input["src_tokens"].fill_(9)
    net_input["kinds"].fill_(9)
    np.testing.assert_array_equal(items[0].tokens, tokens)
    np.testing.assert_array_equal(items[0].masked.kinds, kinds)  # type: ignore[union-attr]
