"""The one way in which files with weights are read: without running their code, whoever wrote them.

Tensors of a PyTorch file stay on the disk until they are used: what stands beside them is had at once. And what a run
keeps in its checkpoints beside fairseq's own state, to be compared when one is loaded.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils, tasks
from fairseq.distributed import utils as distributed_utils
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from fairseq_masking.compat.checkpoints import check_seal, loading_safely
from fairseq_masking.compat.errors import user_error_in
from fairseq_masking.compat.numbers import first_nonfinite
from fairseq_masking.compat.patching import loaded_program, replaces
from fairseq_masking.corpus.dictionary import identity, load_dictionary
from fairseq_masking.corpus.manifest import DICTIONARY_FILE, first_shard
from fairseq_masking.errors import UserError, first_line
from fairseq_masking.files import read_json
from fairseq_masking.tokenizers.hugging_face_files import EXTRA

__all__ = [
    "RUN_STATE", "Checkpoint", "check_finite", "digest_of_weights", "read_checkpoint", "read_weights",
]  # fmt: skip

logger = logging.getLogger(__name__)

RUN_STATE = "fairseq_masking"  # in a checkpoint's task_state: what a run of ours keeps there
_SAID = ("task", "criterion", "model", "optimizer")


@dataclass(frozen=True)
class Checkpoint:
    """What a PyTorch file of a training, ours or fairseq's, holds."""

    path: Path  # the file
    state: Mapping[str, Any]  # "cfg" (or "args", of an old one), "model", "optimizer_history" and more

    @cached_property
    def cfg(self) -> Any:
        """The training's configuration; a UserError where the file has none."""
        if not self.state.get("cfg"):
            raise UserError(f"checkpoint {self.path}: a PyTorch file, but not a checkpoint of fairseq_masking")
        return OmegaConf.create(self.state["cfg"], flags={"allow_objects": True})

    @property
    def options(self) -> dict[str, Any]:
        """The model's options, its task and data, from the cfg or from an old checkpoint's args."""
        cfg = self.state.get("cfg")
        if isinstance(cfg, Mapping):
            task = cfg.get("task") or {}
            options = {**(cfg.get("model") or {}), "data": task.get("data"), "task": task.get("_name")}
        else:
            options = dict(vars(self.state["args"])) if self.state.get("args") is not None else {}
        return {name: value for name, value in options.items() if value is not None}

    @property
    def data(self) -> Path | None:
        """The first folder of the data that it was trained on, as its training was told."""
        return first_shard(data) if (data := self.options.get("data")) else None

    @property
    def num_updates(self) -> int:
        """Of its training; 0 where nothing says how many."""
        history = self.state.get("optimizer_history") or [{}]
        return int(history[-1].get("num_updates", 0))

    @property
    def hours(self) -> float:
        """Of its training, without interruptions; 0 where nothing says how many."""
        return float((self.state.get("extra_state") or {}).get("previous_training_time", 0)) / 3600

    @property
    def run_state(self) -> dict[str, Any]:
        """What a run of ours has left in it beside fairseq's own state; {} in one of before."""
        return (self.state.get("task_state") or {}).get(RUN_STATE, {})

    def check_trained_on(self, symbols: Sequence[Any], folder: Path) -> None:
        """Compare the dictionary and tokeniser it was trained with with those of a data folder.

        Another dictionary is an error, another tokeniser a warning. A checkpoint of before does not keep them: its
        corpus is asked where that is still there.
        """
        kept, given, data = self.run_state.get("trained_on"), identity(symbols, folder), self.data
        if kept is None and (data is None or not (data / DICTIONARY_FILE).is_file()):
            logger.info("%s does not tell its dictionary, nor is its corpus there: only sizes are compared", self.path)
            return
        known = kept or identity(load_dictionary(data / DICTIONARY_FILE).symbols, data)  # type: ignore[operator,arg-type]
        if known["dictionary"] != given["dictionary"]:
            message = (
                f"checkpoint {self.path} was trained with another dictionary than that of {folder}: give the data"
                " that it was trained on, or start from its encoder with --init-from, which goes by symbols"
            )
            if kept is not None:
                raise UserError(message)
            logger.warning("%s (as its corpus %s is today)", message, data)
        elif known.get("tokenizer", given.get("tokenizer")) != given.get("tokenizer"):
            logger.warning(
                f"checkpoint {self.path} was trained with another tokeniser, or other steps before it, than those of"
                f" {folder}: its symbols are the same, but text was written differently in them"
            )

    def check_finite(self) -> None:
        """Read all weights; a UserError where some are NaN or infinite."""
        check_finite(self.state.get("model", self.state), f"checkpoint {self.path}")

    def check_task(self, task: Any) -> None:
        """``check_trained_on`` for a task that has a dictionary and data."""
        if (symbols := symbols_of(task)) is not None:
            self.check_trained_on(symbols, first_shard(task.cfg.data))

    def build(self, data: str | Path | None = None) -> tuple[Any, Any]:
        """Build the model, with its weights and what depends on the number of updates as it was, and its task.

        ``data`` is taken in place of those it was trained on; ``cfg`` names them from then on.
        """
        self.check_finite()
        if data is not None:
            self.cfg.task.data = str(data)
        task = tasks.setup_task(self.cfg.task)
        self.check_task(task)
        model = task.build_model(self.cfg.model, from_checkpoint=True)
        model.load_state_dict(self.state["model"], strict=True, model_cfg=self.cfg.model)
        model.set_num_updates(self.num_updates)
        return model, task


def check_finite(weights: Mapping[str, Any], title: str) -> None:
    """Raise a UserError where weights are NaN or infinite; the line names the first, after ``title``."""
    tensors = ((name, value) for name, value in weights.items() if isinstance(value, Tensor))
    if (name := first_nonfinite(tensors)) is not None:
        raise UserError(f"{title}: its {name} has values that are not finite: take a checkpoint of before")


def symbols_of(task: Any) -> list[str] | None:
    """Return the symbols of a task's dictionary; None for a task without one, or without prepared data."""
    has_data = getattr(getattr(task, "cfg", None), "data", None)
    return getattr(getattr(task, "source_dictionary", None), "symbols", None) if has_data else None


def read_checkpoint(path: str | Path, file: str = "checkpoint_best.pt", way_out: str = "get it again") -> Checkpoint:
    """Read a checkpoint, or that of the name ``file`` in a folder; ``way_out``: what to do about a damaged one."""
    path = Path(path) / file if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise UserError(f"no such checkpoint: {path}")
    state = load_tensors(path, way_out)
    if not isinstance(state, dict):
        raise UserError(f"{path} is a PyTorch file, but no checkpoint")
    return Checkpoint(path, state)


def load_tensors(path: Path, way_out: str = "get it again") -> Any:
    """Load a PyTorch file on the CPU; its tensors are read when they are used."""
    with loading_safely(str(path), way_out), path.open("rb") as file:
        check_seal(path, way_out)
        is_archive = file.read(4) == b"PK\x03\x04"  # PyTorch files of before 1.6 cannot be mapped
        return torch.load(path, map_location="cpu", mmap=is_archive, weights_only=True)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a Hugging Face folder: safetensors, or else PyTorch files."""
    for name, read in (("model.safetensors", _read_safetensors), ("pytorch_model.bin", _read_pytorch)):
        if (folder / name).is_file():
            return read(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            places = read_json(index).get("weight_map")
            shards = sorted(set(map(str, places.values()))) if isinstance(places, dict) else []
            if not shards or any(Path(shard).name != shard for shard in shards):
                raise UserError(f"{index} names no files of this folder")
            return {key: value for shard in shards for key, value in read(folder / shard).items()}
    raise UserError(f"{folder} holds neither model.safetensors nor pytorch_model.bin")


def digest_of_weights(weights: Mapping[str, Tensor], beside: str = "") -> str:
    """Return the SHA-256 of what stands ``beside`` the weights, and of names, types, shapes and values."""
    digest = hashlib.sha256(beside.encode())
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import safe_open
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(f"{path}: to read it: {EXTRA}") from None
    try:
        weights = load_file(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except Exception as error:  # its own SafetensorError is an Exception; a missing shard an OSError
        raise UserError(f"{path} is missing, cut short or no safetensors file ({first_line(error)})") from error
    if metadata.get("sha256", wanted := digest_of_weights(weights, metadata.get("files", ""))) != wanted:
        raise UserError(f"{path} is damaged (its SHA-256 is not that it was written with): export it again")
    return weights


def _read_pytorch(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path} is missing")
    state = load_tensors(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} is a PyTorch file, but no state dict (names of parameters to tensors)")
    return state


# fairseq forgets how long validation has not improved, and compares no dictionaries, only their sizes: checkpoints
# keep their dictionary's identity and the count of --patience, every command asks for them.


@replaces("fairseq.trainer:Trainer", "state_dict")
def _with_run_state(original: Callable[..., Any], self: Any) -> dict[str, Any]:
    state = original(self)
    patience = {name: value for name, value in _patience().items() if name in ("best", "num_runs")}
    kept: dict[str, Any] = {"patience": patience}
    if (symbols := symbols_of(self.task)) is not None:
        kept["trained_on"] = identity(symbols, first_shard(self.task.cfg.data))
    return {**state, "task_state": {**state["task_state"], RUN_STATE: kept}}


@replaces("fairseq.trainer:Trainer", "load_checkpoint")
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


@replaces(checkpoint_utils, "load_model_ensemble_and_task")
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
