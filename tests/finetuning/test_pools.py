"""Batches of rows of similar length: every row once, anew each epoch, little padding, the same after a resume."""

import multiprocessing

import finetuning_data
import numpy as np
import pytest
import torch
from commands import PACKAGE, assert_ok, run_command, run_verb, weights
from fairseq.data import FairseqDataset, SortDataset, data_utils
from fairseq.tasks.sentence_prediction import SentencePredictionTask
from omegaconf import OmegaConf

import fairseq_masking  # noqa: F401 - makes the pools
from fairseq_masking.errors import UserError
from fairseq_masking.finetuning.pools import PooledRows

ROWS = 16  # of a batch


class Lengths(FairseqDataset):
    """Rows of so many tokens, as fairseq's tasks keep them."""

    def __init__(self, lengths: np.ndarray) -> None:
        self.sizes = [lengths]
        self.defn = {"target": None}  # of fairseq's dataset of several things

    def __len__(self) -> int:
        return len(self.sizes[0])

    def num_tokens(self, index: int) -> int:
        return int(self.sizes[0][index])

    def ordered_indices(self) -> np.ndarray:
        return np.arange(len(self))

    def collater(self, samples: list) -> dict:
        lengths = torch.from_numpy(self.sizes[0][samples])
        return {"id": samples, "net_input": {"src_lengths": lengths, "src_tokens": torch.empty(1, int(lengths.max()))}}

    def __getitem__(self, index: int) -> int:
        return index


def skewed(rows: int = 5000) -> Lengths:
    return Lengths(np.random.default_rng(1).geometric(0.05, rows) + 2)


def order(dataset: Lengths, epoch: int = 1, seed: int = 1) -> np.ndarray:
    return PooledRows(dataset, rows=100 * ROWS, seed=seed, epoch=epoch).ordered_indices()


def test_every_row_once_sorted_within_its_pool() -> None:
    dataset = skewed()
    found = order(dataset)
    assert sorted(found) == list(range(5000))
    for start in range(0, 5000, 100 * ROWS):
        assert (np.diff(dataset.sizes[0][found[start : start + 100 * ROWS]]) >= 0).all()
    assert (np.diff(dataset.sizes[0][found]) < 0).sum() == 3  # four pools, of any length each


def test_epochs_and_seeds_differ_and_repeat() -> None:
    dataset = skewed()
    assert (order(dataset) == order(dataset)).all()
    assert (order(dataset) != order(dataset, epoch=2)).mean() > 0.9
    assert (order(dataset) != order(dataset, seed=2)).mean() > 0.9


def iterator(dataset: Lengths, *, no_shuffle: bool = False, **options: object) -> object:
    task = SentencePredictionTask.__new__(SentencePredictionTask)
    task.cfg, task.dataset_to_epoch_iter = OmegaConf.create({"no_shuffle": no_shuffle, "data": "SST-2"}), {}
    return task.get_batch_iterator(dataset, seed=1, **options)


@pytest.mark.parametrize("no_shuffle", [True, False])
def test_rows_without_labels_name_the_folder(no_shuffle):
    dataset = skewed(rows=10)
    dataset.defn = {}  # as fairseq leaves it where label/train.bin is missing
    dataset = dataset if no_shuffle else SortDataset(dataset, sort_order=[np.arange(10)])
    with pytest.raises(UserError, match=r"^SST-2/label lacks labels"):
        iterator(dataset, no_shuffle=no_shuffle, max_sentences=4)


def test_padding_is_little_and_batches_come_in_random_order() -> None:
    dataset = skewed()
    lengths = dataset.sizes[0]
    found = list(iterator(dataset, max_sentences=ROWS, epoch=1).next_epoch_itr(shuffle=True))
    batches = [np.array(batch["id"]) for batch in found]
    assert sorted(np.concatenate(batches)) == list(range(5000))
    assert sum(len(batch) * lengths[batch].max() for batch in batches) <= 1.05 * lengths.sum()
    longest = [lengths[batch].max() for batch in batches]
    assert abs(np.corrcoef(longest[1:], longest[:-1])[0, 1]) < 0.2
    again = iterator(dataset, max_sentences=ROWS, epoch=2).next_epoch_itr(shuffle=True)
    assert {tuple(sorted(batch)) for batch in batches}.isdisjoint({tuple(sorted(batch["id"])) for batch in again})
    padded = [batch["net_input"]["shape"]["has_padding"] for batch in found]
    assert padded == [len(set(lengths[batch])) > 1 for batch in batches] and len(set(padded)) == 2


def test_batches_by_tokens_and_rows_in_order() -> None:
    dataset = skewed(400)
    lengths = dataset.sizes[0]
    by_tokens = iterator(dataset, max_tokens=2000, epoch=1).next_epoch_itr(shuffle=False)
    batches = [np.array(batch["id"]) for batch in by_tokens]
    assert all(len(batch) * lengths[batch].max() <= 2000 for batch in batches)
    kept = iterator(dataset, max_sentences=ROWS, epoch=1, no_shuffle=True).next_epoch_itr(shuffle=False)
    assert np.concatenate([batch["id"] for batch in kept]).tolist() == list(range(400))


def test_data_workers_end_with_their_epoch() -> None:
    """Those of a dataloader that is made anew would be left to the garbage collector, which waits five seconds."""
    options = {"max_sentences": ROWS, "num_workers": 1, "data_buffer_size": 2}
    batches = iterator(skewed(64), epoch=1, **options).next_epoch_itr(shuffle=True)
    assert sum(len(batch["id"]) for batch in batches) == 64
    for worker in multiprocessing.active_children():
        worker.join(20)
        assert not worker.is_alive()


@pytest.fixture
def sentences(tmp_path):
    corpus = finetuning_data.write_prepared_corpus(tmp_path)
    files = finetuning_data.write_sst2(tmp_path / "sst2")
    given = ["--task", "SST-2", "--data", files, "--corpus", corpus, "--out", tmp_path / "data"]
    assert run_verb("prepare", "task", *given) == 0
    return tmp_path / "data"


def test_a_run_goes_on_in_the_middle_of_an_epoch(sentences, tmp_path) -> None:
    options = """--task sentence_prediction --criterion scored_sentence_prediction --init-token 0 --separator-token 2
        --arch mlm_tiny --optimizer adam --lr 1e-3 --cpu --num-workers 0 --num-classes 2 --batch-size 8
        --max-positions 64 --required-batch-size-multiple 1 --dropout 0.1 --disable-validation""".split()  # noqa: SIM905

    def train(folder: str, updates: str) -> None:
        command = ["fairseq-train", sentences, "--user-dir", PACKAGE, "--save-dir", tmp_path / folder, *options]
        assert_ok(run_command([*command, "--max-update", updates], server="plugin"))

    assert len(data_utils.load_indexed_dataset(str(sentences / "input0" / "train"))) == 60  # 8 batches an epoch
    train("whole", "13")
    for updates in ("5", "10", "13"):
        train("parts", updates)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(parts[name], weight) for name, weight in whole.items())
