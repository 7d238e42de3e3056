"""A run that is resumed with other batches, rows or ranks reads what is left of its epoch, each row once."""

import io
import math

import numpy as np
import pytest
import torch
from binarised_corpus import *  # noqa: F403 - fixtures
from fairseq.data import FairseqDataset, data_utils, iterators

import fairseq_masking  # noqa: F401 - it mends fairseq
from fairseq_masking.data import BlockDataset, load_tokens

NUM_ROWS = 60


class Rows(FairseqDataset):
    """Rows of 1 to 5 tokens, or blocks; an item is its number."""

    def __init__(self, number=NUM_ROWS, blocks=None):
        self.blocks = blocks
        self.number = number if blocks is None else len(blocks)

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        return index

    def num_tokens(self, index):
        return 1 + index % 5

    size = num_tokens

    def collater(self, items):
        return list(map(int, items))


def epoch(dataset, batch_size=None, *, max_tokens=None, ranks=1, whole_updates_of=1):
    """An epoch's batches for each rank, cut to whole updates as the pre-training task does."""
    with data_utils.numpy_seed(3):
        order = np.random.permutation(len(dataset))
    batches = dataset.batch_by_size(order, max_sentences=batch_size, max_tokens=max_tokens)
    multiple = ranks * whole_updates_of
    batches = batches[: len(batches) - len(batches) % multiple]
    return [
        iterators.EpochBatchIterator(dataset, dataset.collater, batches, seed=5, num_shards=ranks, shard_id=rank)
        for rank in range(ranks)
    ]


def read(iterators_of_ranks, number=None):
    """The batches that all ranks read next, rank by rank, and the state to resume from."""
    found = []
    for each in iterators_of_ranks:
        batches = each.next_epoch_itr()
        found.append([next(batches) for _ in range(min(number or math.inf, len(batches) - batches.n))])
    file = io.BytesIO()
    torch.save(iterators_of_ranks[0].state_dict(), file)
    file.seek(0)
    return found, torch.load(file, weights_only=True)


def resumed(state, iterators_of_ranks):
    for each in iterators_of_ranks:
        each.load_state_dict(state)
    return iterators_of_ranks


def rows(batches_of_ranks):
    return sorted(row for batches in batches_of_ranks for batch in batches for row in batch)


@pytest.mark.parametrize("settings", [{"batch_size": 4}, {"batch_size": 4, "ranks": 2}, {"max_tokens": 12}])
def test_nothing_changes_where_nothing_was_changed(settings):
    whole, _ = read(epoch(Rows(), **settings))
    first, state = read(epoch(Rows(), **settings), 3)
    rest, after = read(resumed(state, epoch(Rows(), **settings)))
    assert [a + b for a, b in zip(first, rest, strict=True)] == whole
    assert after["epoch"] == 2 and "rows" not in after


@pytest.mark.parametrize(
    "before,after",
    [
        ({"batch_size": 4}, {"batch_size": 6}),
        ({"batch_size": 6}, {"batch_size": 1}),
        ({"batch_size": 4}, {"batch_size": 4, "ranks": 2}),
        ({"batch_size": 4, "ranks": 3}, {"batch_size": 5, "ranks": 2}),
        ({"max_tokens": 12}, {"max_tokens": 20, "ranks": 2}),
    ],
)
def test_each_row_is_read_once(before, after, caplog):
    first, state = read(epoch(Rows(), **before), 3)
    with caplog.at_level("INFO"):
        rest, end = read(resumed(state, epoch(Rows(), **after)))
    found = rows(first) + rows(rest)
    assert len(set(found)) == len(found)
    largest = max(len(batch) for batches in rest for batch in batches)
    # ranks end together: today's batches were cut for that, and those of what is left are
    assert len(found) >= NUM_ROWS - 2 * largest * (after.get("ranks", 1) - 1)
    assert len({len(batches) for batches in rest}) == 1 and all(batch for batches in rest for batch in batches)
    assert f"goes on after {len(rows(first))} of {NUM_ROWS} sequences" in caplog.text
    assert end["epoch"] == 2


def test_the_next_epoch_is_whole():
    _, state = read(epoch(Rows(), 4), 3)
    later = resumed(state, epoch(Rows(), 6))
    read(later)
    assert rows(read(later)[0]) == list(range(NUM_ROWS))


def test_as_many_ranks_as_before_times_update_freq_go_on_in_the_same_batches():
    first, state = read(epoch(Rows(), 4, whole_updates_of=2), 4)
    (whole,), _ = read(epoch(Rows(), 4, whole_updates_of=2))
    (left, right), _ = read(resumed(state, epoch(Rows(), 4, ranks=2)))
    assert first[0] + [batch for pair in zip(left, right, strict=True) for batch in pair] == whole


def test_what_was_resumed_with_others_is_resumed_again():
    _, state = read(epoch(Rows(), 4), 3)
    (whole,), _ = read(resumed(state, epoch(Rows(), 6)))
    (first,), again = read(resumed(state, epoch(Rows(), 6)), 2)
    (rest,), _ = read(resumed(again, epoch(Rows(), 6)))
    assert first + rest == whole
    (other,), _ = read(resumed(again, epoch(Rows(), 3)))
    assert sorted(rows([other])) == sorted(rows([rest]))


@pytest.mark.parametrize("mode", ["none", "complete", "eos"])
def test_rows_of_another_length(mode, tmp_path, write_corpus, dictionary, sentences):
    tokens = load_tokens(write_corpus(tmp_path / "train", sentences), dictionary)

    def blocks(length):
        return BlockDataset(tokens, tokens_per_sample=length, bos=0, eos=2, pad=1, break_mode=mode, drop_last=True)

    short, long = blocks(8), blocks(20)
    first, state = read(epoch(Rows(blocks=short), 1), len(short) // 2)
    rest, _ = read(resumed(state, epoch(Rows(blocks=long), 1)))
    times = np.zeros(int(np.sum(tokens.sizes)), int)
    for cut, found in ((short, rows(first)), (long, rows(rest))):
        for row in found:
            times[slice(*cut._all_slices()[row])] += 1
    # a long block counts as read by its middle: what is read twice or never is where it does not follow the others
    assert (times == 1).mean() > (0.99 if mode == "eos" else 0.7)
    assert abs(times.mean() - 1) < 0.15


def test_other_data_begin_the_epoch_anew(caplog):
    _, state = read(epoch(Rows(), 4), 3)
    assert rows(read(resumed(state, epoch(Rows(50), 4)))[0]) == list(range(50))
    assert "begins anew: its data are not those" in caplog.text


def test_a_checkpoint_of_before_knows_batches_alone(caplog):
    (whole,), _ = read(epoch(Rows(), 4))
    old = {"version": 2, "epoch": 1, "iterations_in_epoch": 3, "shuffle": True}
    assert read(resumed(old, epoch(Rows(), 4)))[0] == [whole[3:]]
    _, end = read(resumed({**old, "iterations_in_epoch": 20}, epoch(Rows(), 4)))
    assert "more batches of it than there are now" in caplog.text and end["epoch"] == 3
