"""What a sweep fine-tunes on (a task's prepared data), and what it starts from (a checkpoint)."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fairseq.data.indexed_dataset import MMapIndexedDataset

from fairseq_masking.checkpoints.loading import read_checkpoint
from fairseq_masking.checkpoints.sources import dictionary_symbols, read_source
from fairseq_masking.corpus.dictionary import class_names
from fairseq_masking.corpus.manifest import MANIFEST_FILE, read_manifest
from fairseq_masking.errors import UserError
from fairseq_masking.files import hash_file
from fairseq_masking.finetuning.glue import GLUE_TASKS, JSONL, SQUAD, TASKS
from fairseq_masking.finetuning.prepare import finetuning_settings

__all__ = ["FinetuningTask", "Start", "corpus_of", "named_path", "quoted", "source_of"]


@dataclass(frozen=True)
class FinetuningTask:
    name: str  # of the task; of the folder where the task is "jsonl"
    kind: str  # a name of ``glue.TASKS``
    data: Path  # made by ``prepare_finetuning``
    stamp: str = ""  # SHA-256 of its manifest, which other data in the same folder would not have

    @classmethod
    def of_folder(cls, data: Path) -> "FinetuningTask":
        """Return what a folder was prepared for."""
        kind = str(finetuning_settings(data)["task"])
        return cls(data.name if kind == JSONL else kind, kind, data, hash_file(data / MANIFEST_FILE))

    @property
    def splits(self) -> tuple[str, ...]:
        """The validation sets: MNLI has two."""
        return ("valid", "valid1") if self.kind == "MNLI" else ("valid",)

    def num_rows(self, split: str) -> int:
        """Return how many a split of a classification has."""
        return len(MMapIndexedDataset(str(self.data / "label" / split)))

    def check_fits(self, start: "Start") -> None:
        """Refuse rows that a start's model has no positions for."""
        length = finetuning_settings(self.data).get("max_length", 0)  # SQuAD's task cuts windows
        if start.max_positions and length > start.max_positions:
            raise UserError(
                f"{self.data} has rows of up to {length} tokens, {start.name} reads {start.max_positions}:"
                f" prepare it with --max-length {start.max_positions}"
            )

    def overrides(self, metric: str) -> list[str]:
        """Return what a recipe of configs/finetune needs to know of the data."""
        is_regression = self.kind in GLUE_TASKS and not GLUE_TASKS[self.kind].labels
        num_classes = 1 if is_regression else len(class_names(self.data))
        return [
            f"task.data={quoted(self.data.absolute())}",
            f"checkpoint.best_checkpoint_metric={metric}",
            *([f"dataset.valid_subset='{','.join(self.splits)}'"] if len(self.splits) > 1 else []),
            *([f"task.num_classes={num_classes}"] if self.kind != SQUAD else []),
            *(["criterion.regression_target=true"] if is_regression else []),
        ]


@dataclass(frozen=True)
class Start:
    name: str  # of the line in the table; several checkpoints of one training may share it
    updates: int  # of pre-training; 0 where there was none or nothing says how many
    overrides: tuple[str, ...]  # what tells a recipe
    source: str = ""  # the checkpoint, or a Hugging Face folder or name; "" for random weights
    stamp: str = ""  # names, sizes and times of its files, which another checkpoint in their place would not have
    hours: float = 0.0  # of pre-training, without interruptions; 0 where nothing says how many

    @classmethod
    def of_checkpoint(cls, name: str, source: str, updates: int | None = None) -> "Start":
        """Return what ``--checkpoint NAME=SOURCE`` means: a checkpoint, or a Hugging Face folder or name.

        ``updates`` are by default those that the checkpoint names.
        """
        hours = 0.0
        if updates is None and source.endswith(".pt"):
            read, source = read_checkpoint(source), str(Path(source).absolute())
            updates, hours = read.num_updates, read.hours
        place = Path(source)
        files = [place] if place.is_file() else sorted(place.glob("*model*"))
        stamps = (f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)
        return cls(name, updates or 0, (f"model.init_from={quoted(source)}",), source, " ".join(stamps), hours)

    @cached_property
    def max_positions(self) -> int | None:
        """Of its encoder; None of random weights, which are made for the recipe's."""
        return read_source(self.source).config.max_positions if self.source else None

    @property
    def folder(self) -> Path:
        """Of its runs, below the sweep's."""
        return Path(self.name.replace("/", "_")) / str(self.updates)


def named_path(given: str) -> tuple[str, str]:
    """Return name and path of [NAME=]PATH; a path may have a "=" in it, and is called after its folder."""
    name, equals, path = given.partition("=")
    if equals and not Path(given).exists():
        return name, path
    place = Path(given).absolute()
    return (place.parent if place.suffix == ".pt" else place).name, given


def quoted(path: str | Path) -> str:
    """Return a path as the value of one of Hydra's overrides."""
    text = str(path).replace("'", r"\'")
    return f"'{text}'"


def corpus_of(checkpoint: Path) -> Path:
    """Return the corpus that a checkpoint was trained on, which must be there and the same."""
    read = read_checkpoint(checkpoint)
    corpus = read.data
    if corpus is None or not corpus.is_dir():
        raise UserError(f"{checkpoint} was trained on {corpus}, which is not there; give --corpus DIR")
    read.check_trained_on(dictionary_symbols(corpus) or [], corpus)
    return corpus


def source_of(task: str, folder: Path) -> tuple[str, Path]:
    """Return the name and the folder of TASK[=DIR]: prepared data, or the task's own files.

    Without DIR it is ``folder``, or the task's in it.
    """
    kind, equals, own = task.partition("=")
    if kind not in TASKS:
        raise UserError(f"--task {kind}: choose of {', '.join(TASKS)}")
    found = Path(own) if equals else folder
    if not equals and read_manifest(found) is None and (found / kind).is_dir():
        found = found / kind
    if not found.is_dir():
        raise UserError(f"--task {kind}: no such folder: {found}; give --data DIR or --task {kind}=DIR")
    return kind, found
