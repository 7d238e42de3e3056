"""What a sweep fine-tunes on (a task's prepared data), and what it starts from (a checkpoint)."""

from dataclasses import dataclass
from pathlib import Path

from fairseq import checkpoint_utils
from omegaconf import OmegaConf

from fairseq_masking.errors import UserError
from fairseq_masking.preparation.finetuning import finetuning_settings
from fairseq_masking.preparation.finetuning_squad import SQUAD
from fairseq_masking.preparation.glue import GLUE_TASKS
from fairseq_masking.preparation.manifest import first_shard, read_manifest
from fairseq_masking.preparation.rows import JSONL

__all__ = ["FinetuningTask", "Start", "corpus_of", "read_start", "source_of"]


@dataclass(frozen=True)
class FinetuningTask:
    """Prepared data.

    Attributes:
        name: of the task; of the folder where the task is "jsonl".
        kind: a name of GLUE_TASKS, "jsonl" or "squad".
        data: made by ``prepare_finetuning``.
    """

    name: str
    kind: str
    data: Path

    @classmethod
    def of_folder(cls, data: Path, name: str | None = None) -> "FinetuningTask":
        """Return what a folder was prepared for.

        Raises:
            UserError: it holds no data to fine-tune on.
        """
        kind = str(finetuning_settings(data)["task"])
        return cls(name or (data.name if kind == JSONL else kind), kind, data)

    @property
    def is_regression(self) -> bool:
        """Whether scores are predicted."""
        return self.kind in GLUE_TASKS and GLUE_TASKS[self.kind].is_regression

    @property
    def splits(self) -> tuple[str, ...]:
        """The validation sets: MNLI has two."""
        return ("valid", "valid1") if self.kind == "MNLI" else ("valid",)

    @property
    def num_classes(self) -> int:
        """Outputs of the classification head."""
        if self.is_regression:
            return 1
        return len((self.data / "label" / "dict.txt").read_text(encoding="utf-8").splitlines())

    def overrides(self, metric: str) -> list[str]:
        """Return what a recipe of configs/finetune needs to know of the data."""
        splits = ",".join(self.splits)
        return [
            f"task.data='{self.data.absolute()}'",
            f"checkpoint.best_checkpoint_metric={metric}",
            *([] if len(self.splits) == 1 else [f"dataset.valid_subset='{splits}'"]),
            *([] if self.kind == SQUAD else [f"task.num_classes={self.num_classes}"]),
            *(["criterion.regression_target=true"] if self.is_regression else []),
        ]


@dataclass(frozen=True)
class Start:
    """What fine-tuning starts from.

    Attributes:
        name: of the line in the table; several checkpoints of one training may share it.
        updates: of pre-training; 0 where there was none or nothing says how many.
        overrides: what tells a recipe.
    """

    name: str
    updates: int
    overrides: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Of its runs, below the sweep's."""
        return Path(self.name.replace("/", "_")) / str(self.updates)


def read_start(name: str, path: str) -> Start:
    """Return what ``--checkpoint NAME=PATH`` means: a checkpoint, or a Hugging Face folder or name.

    Raises:
        UserError: the file is missing or no checkpoint.
    """
    updates = 0
    if path.endswith(".pt"):
        if not Path(path).is_file():
            raise UserError(f"no such checkpoint: {path}")
        history = checkpoint_utils.load_checkpoint_to_cpu(path).get("optimizer_history") or [{}]
        updates = int(history[-1].get("num_updates", 0))
        path = str(Path(path).absolute())
    return Start(name, updates, (f"model.init_from='{path}'",))


def corpus_of(checkpoint: Path) -> Path:
    """Return the corpus that a checkpoint was trained on.

    Raises:
        UserError: no such checkpoint, or its corpus is not there.
    """
    if not checkpoint.is_file():
        raise UserError(f"no such checkpoint: {checkpoint}")
    cfg = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))["cfg"]
    data = OmegaConf.select(cfg, "task.data")
    corpus = first_shard(data) if data else None
    if corpus is None or not corpus.is_dir():
        raise UserError(f"{checkpoint} was trained on {corpus}, which is not there; give --corpus DIR")
    return corpus


def source_of(task: str, folder: Path) -> tuple[str, Path]:
    """Return a task's name and its folder: prepared data, or the task's own files.

    Args:
        folder: of the task, or with a folder for each task.
    """
    kind, equals, own = task.partition("=")
    if kind not in (*GLUE_TASKS, JSONL, SQUAD):
        raise UserError(f"--task {kind}: choose of {', '.join((*GLUE_TASKS, JSONL, SQUAD))}")
    found = Path(own) if equals else folder
    if not equals and read_manifest(found) is None and (found / kind).is_dir():
        found = found / kind
    if not found.is_dir():
        raise UserError(f"--task {kind}: no such folder: {found}; give --data DIR or --task {kind}=DIR")
    return kind, found
