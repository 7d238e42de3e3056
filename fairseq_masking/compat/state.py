"""What a run leaves behind in fairseq's modules for the next run of the same process (Hydra's multirun)."""

import sys

from fairseq import checkpoint_utils
from fairseq.logging import progress_bar

from fairseq_masking.compat.reading_ahead import stop_reading_ahead

__all__ = ["reset_process_state"]


def reset_process_state() -> None:
    """Forgets the best score, the patience, the TensorBoard writers and the unread batches of the run before.

    fairseq keeps them in attributes of functions and in a module dictionary. Left alone, the second job of a
    multirun compares itself with the first one's best score and writes no checkpoint_best.pt, may stop early
    at once, logs into the first one's TensorBoard folder, and shares the machine with its data worker. A
    resumed run gets its own best score back from the checkpoint, which is loaded later.
    """
    stop_reading_ahead()
    _delete_attributes(checkpoint_utils.save_checkpoint, "best")
    train = sys.modules.get("fairseq_cli.train")
    if train is not None:
        _delete_attributes(train.should_stop_early, "best", "num_runs")
    writers = getattr(progress_bar, "_tensorboard_writers", None) or {}
    for writer in writers.values():
        writer.close()
    writers.clear()


def _delete_attributes(function: object, *names: str) -> None:
    for name in names:
        if hasattr(function, name):
            delattr(function, name)
