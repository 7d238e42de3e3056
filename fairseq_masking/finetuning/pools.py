"""Batches of rows of similar length: an epoch's rows are drawn into pools, sorted there, and batched.

fairseq batches a task's rows in random order, so that a batch is as long as its longest row: 2 to 3 times the
tokens of the text on SST-2. Batches are made anew each epoch and visited in random order, as before; all of it follows
from seed and epoch, so that a resumed run has the same. ``--no-shuffle`` keeps the data's order.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from fairseq.data import BaseWrapperDataset, FairseqDataset
from fairseq.tasks.sentence_prediction import SentencePredictionTask

from fairseq_masking.compat.patching import replaces
from fairseq_masking.errors import UserError

__all__ = ["PooledRows"]

_POOL = 100  # batches


class PooledRows(BaseWrapperDataset):
    """A dataset whose neighbours in one epoch's order are of similar length: pools of ``rows`` are sorted."""

    can_reuse_epoch_itr_across_epochs = False

    def __init__(self, dataset: FairseqDataset, *, rows: int, seed: int, epoch: int) -> None:
        super().__init__(dataset)
        self.rows, self.rng_of = rows, (seed, epoch)
        self.lengths = np.max(np.atleast_2d(dataset.sizes), axis=0)  # fairseq keeps a list of them

    def ordered_indices(self) -> npt.NDArray[np.int64]:
        order = np.random.default_rng(self.rng_of).permutation(len(self))
        pools = [order[start : start + self.rows] for start in range(0, len(order), self.rows)]
        return np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools])

    def collater(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A batch of rows of one length says that it has no padding."""
        batch = super().collater(samples)
        if batch:
            inputs = batch["net_input"]
            inputs["shape"] = {"has_padding": bool((inputs["src_lengths"] < inputs["src_tokens"].shape[1]).any())}
        return batch


@replaces(SentencePredictionTask, "get_batch_iterator")
def _get_batch_iterator(original: Callable[..., Any], self: Any, dataset: FairseqDataset, **options: Any) -> Any:
    if "target" not in getattr(dataset, "dataset", dataset).defn:  # fairseq shuffles by a dataset around it
        raise UserError(
            f"{self.cfg.data}/label lacks labels of what is trained or validated on: prepare the task again"
        )
    if self.cfg.no_shuffle or len(dataset) == 0:
        return original(self, dataset, **options)
    rows = options.get("max_sentences") or max(1, options["max_tokens"] // int(np.max(dataset.sizes)))
    place = {"seed": options.get("seed", 1), "epoch": options.get("epoch", 1)}
    batches = original(self, PooledRows(dataset, rows=_POOL * rows, **place), **options)
    batches.reuse_dataloader = batches.persistent_workers = False  # kept workers would halt an epoch's end for 5 s
    return batches
