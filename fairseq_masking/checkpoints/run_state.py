"""What a run keeps in its checkpoints beside fairseq's own state, and what is compared when one is loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils
from omegaconf import DictConfig

from fairseq_masking.checkpoints.loading import RUN_STATE, read_checkpoint, symbols_of
from fairseq_masking.compat.patching import loaded_program, replace
from fairseq_masking.corpus.identity import identity
from fairseq_masking.corpus.manifest import first_shard

__all__ = ["keep_run_state"]


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
    extra_state = original(self, filename, *args, **options)
    checkpoints = self.cfg.checkpoint
    if not (checkpoints.reset_optimizer or checkpoints.reset_meters or checkpoints.finetune_from_model == filename):
        _patience().update(checkpoint.run_state.get("patience", {}))
    return extra_state


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
