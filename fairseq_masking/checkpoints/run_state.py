"""What a run keeps in its checkpoints beside fairseq's own state, and what is compared when one is loaded."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils
from fairseq.distributed import utils as distributed_utils
from omegaconf import DictConfig, OmegaConf

from fairseq_masking.checkpoints.loading import RUN_STATE, Checkpoint, read_checkpoint, symbols_of
from fairseq_masking.compat.errors import user_error_in
from fairseq_masking.compat.patching import loaded_program, replace
from fairseq_masking.corpus.dictionary import identity
from fairseq_masking.corpus.manifest import first_shard
from fairseq_masking.errors import UserError

__all__ = ["keep_run_state"]

logger = logging.getLogger(__name__)

_SAID = ("task", "criterion", "model", "optimizer")


def keep_run_state(cfg: DictConfig) -> None:
    """Have checkpoints keep their dictionary's identity and --patience's count, and every command ask for them.

    fairseq forgets how long validation has not improved, and compares no dictionaries, only their sizes.
    """
    from fairseq.trainer import Trainer  # late: it takes a while

    replace(Trainer, "state_dict", _with_run_state)
    replace(Trainer, "load_checkpoint", _load_compared)
    replace(checkpoint_utils, "load_model_ensemble_and_task", _load_ensemble_compared)


def _with_run_state(original: Callable[..., Any], self: Any) -> dict[str, Any]:
    state = original(self)
    patience = {name: value for name, value in _patience().items() if name in ("best", "num_runs")}
    kept: dict[str, Any] = {"patience": patience}
    if (symbols := symbols_of(self.task)) is not None:
        kept["trained_on"] = identity(symbols, first_shard(self.task.cfg.data))
    return {**state, "task_state": {**state["task_state"], RUN_STATE: kept}}


def _load_compared(original: Callable[..., Any], self: Any, filename: str, *args: Any, **options: Any) -> Any:
    """On every rank: fairseq reads the file on the first one and sends what is in it."""
    if not Path(filename).is_file():
        return original(self, filename, *args, **options)
    checkpoint = read_checkpoint(filename)
    checkpoint.check_task(self.task)
    try:
        extra_state = original(self, filename, *args, **options)
    except Exception as error:
        told = user_error_in(error)
        if told is None or str(filename) in str(told):
            raise
        raise UserError(f"{filename}: {told}") from error
    checkpoints = self.cfg.checkpoint
    if extra_state is not None and checkpoints.finetune_from_model != filename:
        _say_what_changed(checkpoint, self.cfg)
    if not (checkpoints.reset_optimizer or checkpoints.reset_meters or checkpoints.finetune_from_model == filename):
        _patience().update(checkpoint.run_state.get("patience", {}))
    return extra_state


def _say_what_changed(checkpoint: Checkpoint, cfg: DictConfig) -> None:
    """A run may go on with other masks, data or seed: the first rank says it."""
    kept = OmegaConf.create(checkpoint.state.get("cfg") or {}, flags={"allow_objects": True})
    pairs = {f"{part}.{name}": value for part in _SAID for name, value in (kept.get(part) or {}).items()}
    changes = [
        f"{field} {before} -> {now}"
        for field, before in pairs.items()
        if str(now := OmegaConf.select(cfg, field, default=before)) != str(before) and "max_update" not in field
    ]
    if changes and distributed_utils.is_master(cfg.distributed_training):
        logger.warning("%s goes on with other settings: %s", checkpoint.path, "; ".join(changes))


def _load_ensemble_compared(original: Callable[..., Any], filenames: list[str], *args: Any, **options: Any) -> Any:
    models, cfg, task = original(filenames, *args, **options)
    for filename in filter(Path.is_file, map(Path, filenames)):
        checkpoint = read_checkpoint(filename)
        checkpoint.check_finite()
        checkpoint.check_task(task)
    return models, cfg, task


def _patience() -> dict[str, Any]:
    """What fairseq counts for --patience: "best" and "num_runs", once there was a validation."""
    module = loaded_program("fairseq_cli.train")
    return vars(module.should_stop_early) if module else {}
