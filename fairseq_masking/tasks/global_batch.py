"""``--global-batch``: an update has so many rows, on however many devices."""

import logging

from omegaconf import DictConfig, OmegaConf

from fairseq_masking.compat.options import was_typed
from fairseq_masking.errors import UserError

__all__ = ["divide", "set_global_batch"]

logger = logging.getLogger(__name__)


def divide(rows: int, *, ranks: int, batch_size: int, num_splits: int) -> tuple[int, int]:
    """Divide an update's ``rows`` of all ranks together, among these and their micro-batches.

    Args:
        batch_size: the most rows of a micro-batch.
        num_splits: rows of a sequence, all of which go into one micro-batch.

    Returns:
        Rows of a micro-batch, the most that come out even, and ``update_freq``.

    Raises:
        UserError: it does not come out even; the line has the nearest settings that do.
    """
    unit = ranks * num_splits
    if rows < 1 or rows % unit:
        below, above = rows - rows % unit, rows - rows % unit + unit
        near = " or ".join(str(size) for size in (below, above) if size > 0)
        fits = [str(n) for n in range(1, ranks) if rows > 0 and rows % (n * num_splits) == 0][-3:]
        raise UserError(
            f"--global-batch {rows} is no multiple of {ranks} processes x {num_splits} rows of a sequence: give"
            f" {near}" + (f", or take {', '.join(fits)} processes" if fits else "")
        )
    share = rows // ranks
    sizes = [size for size in range(num_splits, min(batch_size, share) + 1, num_splits) if share % size == 0]
    if not sizes:
        raise UserError(
            f"--batch-size {batch_size} is less than the {num_splits} rows of a sequence (--mask-splits): give"
            f" {num_splits} or a multiple"
        )
    return sizes[-1], share // sizes[-1]


def set_global_batch(cfg: DictConfig) -> None:
    """Before a command starts: let --update-freq follow from ``task.global_batch``, if there is one.

    An --update-freq on the command line wins over a recipe's global batch.
    """
    rows = OmegaConf.select(cfg, "task.global_batch")
    if rows is None:
        return
    task, data = cfg.task, cfg.dataset
    typed = was_typed("optimization", "update_freq")
    if typed and not was_typed("task", "global_batch"):
        logger.info("--update-freq is given: the recipe's --global-batch %d does not hold", rows)
        task.global_batch = None
        return
    if typed:
        raise UserError("--global-batch and --update-freq exclude each other: give one")
    if data.batch_size is None:
        raise UserError("--global-batch needs --batch-size, the rows that a device takes at once")
    splits = task.mask_splits if str(task.mask_splits_over) == "batch" else 1
    ranks = cfg.distributed_training.distributed_world_size
    size, update_freq = divide(rows, ranks=ranks, batch_size=data.batch_size, num_splits=splits)
    if size < data.batch_size:
        logger.info(f"--batch-size {data.batch_size} becomes {size}, so that --global-batch {rows} comes out even")
    data.batch_size = size
    cfg.optimization.update_freq = task.update_freq = [update_freq]
