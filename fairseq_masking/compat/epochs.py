"""The place in an epoch, kept in rows: a run may be resumed with other batches, rows and ranks.

fairseq keeps how many batches each rank has had, which is another place with another batch size, row length or number
of ranks. Here a checkpoint keeps the rows as well. Where today's batches, as many as were had, are the same rows, the
run goes on in them, to the bit; where they are not, the rows that are left make batches for the rest of the epoch.

Shapes: I rows of the dataset.
"""

import copy
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from fairseq.data.iterators import EpochBatchIterator

from fairseq_masking.compat.patching import replaces

logger = logging.getLogger(__name__)

Rows = npt.NDArray[np.bool_]  # [I], True where a row was read in this epoch


@replaces(EpochBatchIterator, "state_dict")
def _state_dict(original: Callable[..., Any], self: EpochBatchIterator) -> dict[str, Any]:
    state = original(self)
    if state["iterations_in_epoch"] > 0:
        before = _before(self)
        read = _rows_of(self, before, state["iterations_in_epoch"], state["shuffle"])
        rows = {"read": _packed(read), "number": len(read), "num_shards": self.num_shards}
        rows["before"] = None if before is None else _packed(before)  # when batches were last made of what was left
        blocks = getattr(self.dataset, "blocks", None)
        state["rows"] = {**rows, "cut": getattr(blocks, "cut", None)}
    return state


@replaces(EpochBatchIterator, "load_state_dict")
def _load_state_dict(original: Callable[..., Any], self: EpochBatchIterator, state: dict[str, Any]) -> None:
    self._read_before = None
    kept = state.get("rows")
    if kept is None or state["iterations_in_epoch"] == 0:
        return _load_batches(original, self, state)
    self.epoch, shuffle, total = state["epoch"], state["shuffle"], len(self.dataset)
    read = _unpacked(kept["read"], kept["number"])
    before = None if kept["before"] is None else _unpacked(kept["before"], kept["number"])
    offset, rest = divmod(state["iterations_in_epoch"] * kept["num_shards"], self.num_shards)
    if rest or len(read) != total or not np.array_equal(_rows_of(self, before, offset, shuffle), read):
        blocks = getattr(self.dataset, "blocks", None)
        if blocks is not None and kept["cut"] not in (None, blocks.cut):
            read = blocks.rows_within(read, kept["cut"])
        if read is None or len(read) != total:
            logger.warning("epoch %d begins anew: its data are not those that the checkpoint has read", self.epoch)
            self._next_epoch_itr = None
            return None
        logger.info(
            "epoch %d goes on after %d of %d sequences: batch size, row length or number of ranks are not the"
            " checkpoint's, so the %d that are left make batches of their own",
            *(self.epoch, read.sum(), total, total - read.sum()),
        )
        before, offset = read, 0
    whole = self.frozen_batches
    try:
        self._frozen_batches = _batches(self, before)
        self._next_epoch_itr = self._get_iterator_for_epoch(self.epoch, shuffle, offset=offset) if len(self) else None
    finally:
        self._frozen_batches = whole  # the next epoch's
    self._read_before = None if before is None else (self.epoch, before)
    self.epoch += self._next_epoch_itr is None  # nothing is left


def _load_batches(original: Callable[..., Any], self: EpochBatchIterator, state: dict[str, Any]) -> None:
    """A checkpoint of before: batches are all that it knows."""
    if state.get("iterations_in_epoch", 0) >= len(self) > 0:
        logger.warning("epoch %d ends: the checkpoint has had more batches of it than there are now", state["epoch"])
        state = {**state, "epoch": state["epoch"] + 1, "iterations_in_epoch": 0}
    elif state.get("iterations_in_epoch", 0):
        logger.info("the place in the epoch is the checkpoint's if batch size, row length and ranks are as well")
    original(self, state)


def _before(self: EpochBatchIterator) -> Rows | None:
    epoch, rows = getattr(self, "_read_before", None) or (None, None)
    return rows if epoch == self.epoch else None


def _rows_of(self: EpochBatchIterator, before: Rows | None, num_batches: int, shuffle: bool) -> Rows:
    """The rows that are read when each rank has had ``num_batches``, those of before included."""
    read = np.zeros(len(self.dataset), dtype=bool) if before is None else before.copy()
    rank = copy.copy(self)
    rank._frozen_batches = _batches(self, before)
    for rank.shard_id in range(self.num_shards):
        for batch in rank.ordered_batches(self.epoch, False, shuffle)[:num_batches]:
            read[batch] = True
    return read


def _batches(self: EpochBatchIterator, before: Rows | None) -> tuple[Any, ...]:
    """The epoch's batches; of what was not read before, no larger than these and as many on each rank."""
    whole = self.frozen_batches
    if before is None:
        return whole
    order = np.concatenate([np.asarray(batch, dtype=np.int64) for batch in whole])
    num_tokens = max(len(batch) * max(map(self.dataset.num_tokens, batch)) for batch in whole)
    left = self.dataset.batch_by_size(order[~before[order]], max_tokens=num_tokens, max_sentences=max(map(len, whole)))
    return tuple(left[: len(left) - len(left) % self.num_shards] or left)


def _packed(rows: Rows) -> torch.Tensor:
    return torch.from_numpy(np.packbits(rows))


def _unpacked(bits: torch.Tensor, number: int) -> Rows:
    return np.unpackbits(bits.cpu().numpy(), count=number).astype(bool)
