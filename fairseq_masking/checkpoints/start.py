"""What a command is given is checked before anything is built, and before other processes are started."""

import logging
import multiprocessing
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from fairseq import tasks, utils
from fairseq.data import data_utils
from fairseq.file_io import PathManager
from omegaconf import DictConfig, OmegaConf

from fairseq_masking.checkpoints.loading import read_checkpoint
from fairseq_masking.compat.checkpoints import RESUME_EARLIER
from fairseq_masking.compat.distributed import runs_on_cpu
from fairseq_masking.compat.patching import loaded_program
from fairseq_masking.corpus.manifest import check_dictionary
from fairseq_masking.errors import UserError

__all__ = ["check_start"]

logger = logging.getLogger(__name__)

_LAST = "checkpoint_last.pt"


def check_start(cfg: DictConfig) -> None:
    """Check devices, folders, checkpoints and data: would training fail, or be another than asked for?"""
    if OmegaConf.select(cfg, "model") is None:  # fairseq-validate and others, which train nothing
        for path in filter(None, (OmegaConf.select(cfg, "common_eval.path") or "").split(os.pathsep)):
            _check_checkpoint("--path", path)
        return
    if OmegaConf.is_config(cfg.model) and not any(OmegaConf.select(cfg.model, key) for key in ("_name", "arch")):
        raise UserError("model: the recipe names none; give one, such as model=mlm_base")
    _check_device(cfg)
    _check_save_dir(cfg.checkpoint.save_dir)
    if OmegaConf.select(cfg, "task.start_over"):
        _put_aside(cfg)
    _check_checkpoints(cfg.checkpoint)
    _check_data(cfg)


def _check_device(cfg: DictConfig) -> None:
    on_cpu = runs_on_cpu(cfg)
    for name in ("amp", "fp16", "memory_efficient_fp16"):
        if cfg.common[name] and on_cpu:
            raise UserError(f"--{name.replace('_', '-')} needs a GPU, and this runs on the CPU: leave it out")
    if not on_cpu or cfg.common.cpu or multiprocessing.parent_process() is not None:
        return
    told = "there is no GPU here; where the CPU is meant, say --cpu (common.cpu=true)"
    wants = {
        "--bf16": cfg.common.bf16,
        "--distributed-world-size": cfg.distributed_training.distributed_world_size > 1,
    }
    wanted = [option for option, value in wants.items() if value]
    if wanted and loaded_program("fairseq_cli.train") is not None:  # else it is only planned
        raise UserError(f"{wanted[0]} is for GPUs, and {told}, or leave it out")
    logger.warning("%s: this trains on it", told)


def _check_save_dir(save_dir: str) -> None:
    if PathManager.path_requires_pathmanager(save_dir):
        return
    folder = Path(save_dir).absolute()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "may not be written to" if there.is_dir() else "is no folder"
        raise UserError(f"--save-dir {save_dir}: {there} {reason}; give another")


def _put_aside(cfg: DictConfig) -> None:
    """For --start-over: move the checkpoints into a folder, by the first process of the run, unless it resumes."""
    folder = Path(cfg.checkpoint.save_dir)
    restarts = [os.environ.get(name, "0") for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")]
    first = multiprocessing.parent_process() is None and os.environ.get("RANK", "0") == "0"
    if first and set(restarts) == {"0"} and (old := sorted(folder.glob("checkpoint*.pt"))):
        aside = folder / datetime.now().strftime("before-%Y-%m-%d-%H%M%S")
        aside.mkdir()
        for path in old:
            path.rename(aside / path.name)
        logger.warning("--start-over: the %d checkpoints of %s are in %s now", len(old), folder, aside)


def _check_checkpoints(cfg: Any) -> None:
    last = Path(cfg.save_dir) / _LAST
    if cfg.restore_file != _LAST:
        _check_checkpoint("--restore-file", cfg.restore_file)
    elif others := [path for path in last.parent.glob("checkpoint*.pt") if "-shard" not in path.name]:
        _go_on(cfg, last, sorted({*others} - {last}, key=lambda path: path.stat().st_mtime, reverse=True))
    elif cfg.continue_once:
        _check_checkpoint("--continue-once", cfg.continue_once)
    elif cfg.finetune_from_model:
        _check_checkpoint("--finetune-from-model", cfg.finetune_from_model)


def _go_on(cfg: Any, last: Path, others: Sequence[Path]) -> None:
    """Never begin anew where checkpoints lie: without a whole last one, go on from the newest of the others."""
    try:
        _check_checkpoint("checkpoint", last, RESUME_EARLIER if last.exists() else "others lie beside it")
    except UserError as error:
        for path in others:
            with suppress(UserError):
                _check_checkpoint("checkpoint", path)
                logger.warning("%s. Training goes on from %s; to begin anew: --start-over", error, path)
                cfg.restore_file, cfg.finetune_from_model = str(path), None
                return
        raise


def _check_checkpoint(option: str, path: str | Path, way_out: str = "") -> None:
    """What is no checkpoint is not found by fairseq, which then begins with random weights."""
    if PathManager.path_requires_pathmanager(str(path)):
        return
    if not way_out:
        way_out = "give a checkpoint of a training (.pt)"
        way_out += f"; other encoders, Hugging Face's too, go to --init-from {path}" if option != "--path" else ""
    if not Path(path).is_file():
        reason = "is no file" if Path(path).exists() else "does not exist"
        raise UserError(f"{option} {path} {reason}: {way_out}")
    checkpoint = read_checkpoint(path, way_out=way_out)
    if "model" not in checkpoint.state or not (checkpoint.state.get("cfg") or checkpoint.state.get("args")):
        raise UserError(f"{option} {path} is a PyTorch file, but not a fairseq checkpoint: {way_out}")
    checkpoint.check_finite()


def _check_data(cfg: DictConfig) -> None:
    if cfg.dataset.max_tokens is None and cfg.dataset.batch_size is None:
        raise UserError("how large is a batch? give --batch-size ROWS or --max-tokens TOKENS")
    folders = utils.split_paths(getattr(cfg.task, "data", None) or "")
    for folder in filter(os.path.isdir, folders):
        check_dictionary(folder)
    if not cfg.dataset.disable_validation and all(map(os.path.isdir, folders)):  # else the task says it better
        data_utils.raise_if_valid_subsets_unintentionally_ignored(cfg)
    settings = cfg.distributed_training
    spawns = settings.distributed_init_method is not None and not settings.distributed_no_spawn
    if spawns and multiprocessing.parent_process() is None:  # or each rank says it, after a minute
        task = tasks.setup_task(cfg.task)
        task.load_dataset(cfg.dataset.train_subset, epoch=1, combine=True)
        if not (cfg.dataset.disable_validation or cfg.dataset.combine_valid_subsets):
            for subset in cfg.dataset.valid_subset.split(","):
                task.load_dataset(subset, epoch=1, combine=False)
