"""Order, sizes and reproducibility of masked blocks."""

import copy
import dataclasses
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq.data import iterators

from fairseq_masking.data import BlockDataset, MaskedDataset, load_tokens
from fairseq_masking.masking import Masker, MaskingConfig


@pytest.fixture
def make(tmp_path: Path, write_corpus, dictionary, sentences, vocabulary) -> Callable[..., MaskedDataset]:
    def build(mode: Any = "none", num_splits: int = 2, **options: Any) -> MaskedDataset:
        tokens = load_tokens(write_corpus(tmp_path / "train", sentences), dictionary)
        blocks = BlockDataset(tokens, tokens_per_sample=16, bos=0, eos=2, pad=1, break_mode=mode)
        masker = Masker(MaskingConfig(num_splits=num_splits, seed=3), vocabulary)
        return MaskedDataset(blocks, masker, **{"pad_index": 1, "seed": 3, **options})

    return build


def same(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return bool(torch.equal(left, right)) if torch.is_tensor(left) else left == right


@pytest.mark.parametrize("mode", ["none", "complete", "complete_doc", "eos"])
def test_items(mode: str, make) -> None:
    dataset = make(mode)
    dataset.set_epoch(4)
    for index in range(len(dataset)):
        item = dataset[index]
        np.testing.assert_array_equal(item.tokens, dataset.blocks[index])
        expected = dataset.masker(item.tokens, epoch=4, index=index)
        assert (item.index, item.num_splits) == (index, 2)
        assert (item.masked is None) == (expected is None)
        if expected is not None:
            for left, right in zip(item.masked, expected, strict=True):
                np.testing.assert_array_equal(left, right)


def test_separators_inside_count_and_are_never_chosen(make) -> None:
    """k follows from n = T - 2 in every full block, however many separators it holds."""
    dataset = make("none", num_splits=1)
    inside = 0
    for epoch in range(50):
        dataset.set_epoch(epoch)
        for index in range(len(dataset) - 1):
            item = dataset[index]
            inside += int((item.tokens[1:-1] == 2).sum())
            assert item.masked.columns.shape == (1, 2)  # 0.15 * 14 = 2.1
            assert (item.tokens[item.masked.columns] != 2).all()
    assert inside > 0
    batch = dataset.collater([dataset[i] for i in range(len(dataset) - 1)])
    assert batch["net_input"]["shape"]["rectangular"]


def test_sizes_count_rows(make) -> None:
    dataset = make("complete", num_splits=3)
    lengths = [len(dataset[i].tokens) for i in range(len(dataset))]
    assert [dataset.size(i) for i in range(len(dataset))] == dataset.sizes.tolist() == lengths
    assert [dataset.num_tokens(i) for i in range(len(dataset))] == [3 * length for length in lengths]
    assert dataset.num_tokens_vec(np.array([2, 0])).tolist() == [3 * lengths[2], 3 * lengths[0]]
    kept, ignored = dataset.filter_indices_by_size(dataset.ordered_indices(), 14)
    assert set(ignored) == {i for i, length in enumerate(lengths) if length > 14 and length - 2 >= 3}
    batches = dataset.batch_by_size(kept, max_tokens=100)
    assert sorted(np.concatenate(batches)) == sorted(kept)
    assert all(3 * len(b) * max(lengths[i] for i in b) <= 100 for b in batches)


def test_order(make) -> None:
    for mode in ("none", "complete"):
        dataset, other = make(mode, num_splits=1), make(mode, num_splits=1, seed=4)
        order = dataset.ordered_indices()
        assert sorted(order) == [i for i in range(len(dataset)) if dataset.size(i) > 2]
        assert order.tolist() == make(mode, num_splits=1).ordered_indices().tolist()
        dataset.set_epoch(7)
        assert order.tolist() == dataset.ordered_indices().tolist()
        assert order.tolist() != other.ordered_indices().tolist()
        if mode == "complete":
            assert (np.diff(dataset.sizes[order]) >= 0).all()
            assert (np.diff(order)[np.diff(dataset.sizes[order]) == 0] < 0).any(), "shuffled inside a length"
    in_order = make("none", num_splits=1, shuffle=False)
    assert in_order.ordered_indices().tolist() == list(range(len(in_order)))


def test_blocks_that_are_too_short_are_left_out(make, caplog: pytest.LogCaptureFixture) -> None:
    dataset = make("eos", num_splits=4)
    with caplog.at_level(logging.INFO):
        order = dataset.ordered_indices()
        dataset.ordered_indices()
    expected = [i for i in range(len(dataset)) if dataset.size(i) - 2 >= 4]
    assert sorted(order) == expected
    records = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(records) == 1
    assert f"left out {len(dataset) - len(expected)} of {len(dataset)} blocks" in records[0]


def test_epochs(make) -> None:
    dataset, fixed = make(), make(fixed_epoch=1)

    def batch(of: MaskedDataset, epoch: int) -> Any:
        of.set_epoch(epoch)
        return of.collater([of[i] for i in range(5)])

    assert same(batch(dataset, 1), batch(dataset, 1))
    first = batch(dataset, 1)
    second = batch(dataset, 2)
    assert not same(first["net_input"]["positions"], second["net_input"]["positions"])
    assert first["net_input"]["shape"]["noise_seed"] != second["net_input"]["shape"]["noise_seed"]
    assert same(batch(dataset, 1), first), "going back to an epoch gives its masks again"
    assert same(batch(fixed, 1), batch(fixed, 2))


def test_batch_composition_does_not_matter(make) -> None:
    dataset = make()
    together = dataset.collater([dataset[i] for i in (5, 2, 7)])["net_input"]
    alone = dataset.collater([dataset[2]])["net_input"]
    start = int(together["num_masked"][:2].sum())
    count = int(alone["num_masked"].sum())
    shift = 2 * together["src_tokens"].shape[1]
    assert torch.equal(together["positions"][start : start + count] - shift, alone["positions"])
    assert torch.equal(together["replacements"][start : start + count], alone["replacements"])


@pytest.mark.parametrize("mode", ["none", "complete"])
def test_workers_do_not_matter(mode: str, make) -> None:
    """Two epochs through fairseq's own iterator with 0, 1 and 2 workers, without kept workers."""
    epochs: list[list[list[Any]]] = []
    for num_workers in (0, 1, 2):
        dataset = make(mode)
        batches = dataset.batch_by_size(dataset.ordered_indices(), max_sentences=4)
        iterator = iterators.EpochBatchIterator(
            dataset,
            dataset.collater,
            batches,
            num_workers=num_workers,
            reuse_dataloader=False,
            persistent_workers=False,
        )
        epochs.append([list(iterator.next_epoch_itr(shuffle=True)) for _ in range(2)])
    for epoch in range(2):
        reference = epochs[0][epoch]
        for other in epochs[1:]:
            assert len(other[epoch]) == len(reference) > 2
            assert all(same(left, right) for left, right in zip(reference, other[epoch], strict=True))
    by_id = {int(b["id"][0]): b for b in epochs[0][0]}
    assert any(
        not same(b["net_input"]["positions"], by_id[int(b["id"][0])]["net_input"]["positions"])
        for b in epochs[0][1]
        if int(b["id"][0]) in by_id
    ), "the second epoch has other masks"


def test_dataset_can_be_copied_and_pickled(make) -> None:
    dataset = make()
    dataset.set_epoch(3)
    reference = dataset.collater([dataset[i] for i in range(4)])
    for twin in (copy.copy(dataset), pickle.loads(pickle.dumps(dataset))):
        assert same(twin.collater([twin[i] for i in range(4)]), reference)


def test_empty_batch(make) -> None:
    assert make().collater([]) == {}


@pytest.mark.parametrize(("every", "warned"), [(3, False), (40, True)])
def test_words_are_told_and_missing_ones_warned_of(every, warned, make, caplog, monkeypatch) -> None:
    """40: but for the separators nothing begins a word, as in text without spaces."""
    dataset = make("none")
    monkeypatch.setattr("fairseq_masking.data.masked_dataset._LONG_WORD", 3)
    starts_word = np.arange(40) % every == 0
    dataset.masker = Masker(
        dataset.masker.config, dataclasses.replace(dataset.masker.vocabulary, starts_word=starts_word)
    )
    with caplog.at_level(logging.INFO):
        dataset.tell_words()
    lengths = []
    for tokens in (dataset.blocks[index] for index in range(len(dataset))):
        for column in range(1, len(tokens) - 1):
            special = dataset.masker.vocabulary.special[tokens[column]]
            begins = starts_word[tokens[column]] or dataset.masker.vocabulary.special[tokens[column - 1]]
            if not special and begins:
                lengths.append(0)
            if not special:
                lengths[-1] += 1
    assert f"words have {np.mean(lengths):.2f} tokens on average, the longest {max(lengths)}" in caplog.text
    assert ("as where a script has no spaces" in caplog.text) == warned
