"""A fine-tuned checkpoint's predictions of a whole split, in the split's order.

Shapes: N rows of the split, C classes (1 for scores).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from fairseq import utils

from fairseq_masking.checkpoints.loading import read_checkpoint
from fairseq_masking.errors import UserError
from fairseq_masking.finetuning.prepare import finetuning_settings
from fairseq_masking.finetuning.prepare_rows import class_names
from fairseq_masking.finetuning.squad.answers import Candidates, likeliest_spans, merge, row_candidates

__all__ = ["Finetuned", "RowPredictions"]


class RowPredictions(NamedTuple):
    """What a classifier says of a split.

    Attributes:
        logits_NC: float64, in the order of the file's rows.
        targets_N: classes or scores; None where the split has no labels.
    """

    logits_NC: npt.NDArray[np.float64]
    targets_N: npt.NDArray[np.float64] | None


class Finetuned:
    """A model that was trained by ``sentence_prediction`` or ``squad``, with its task."""

    def __init__(self, model: Any, task: Any, cfg: Any) -> None:
        self.model = model.eval()
        self.task = task
        self.cfg = cfg

    @classmethod
    def load(
        cls, checkpoint: Path, *, data: Path | None = None, device: str | torch.device = "cpu"
    ) -> "Finetuned":
        """Load a checkpoint.

        Args:
            data: prepared data; default: those it was trained on.

        Raises:
            UserError: no such checkpoint, one of another task, or data of other classes.
        """
        read = read_checkpoint(checkpoint)
        if read.cfg.task._name not in ("sentence_prediction", "squad"):
            raise UserError(f"{checkpoint} was trained with --task {read.cfg.task._name}: fine-tune it first")
        if data is not None:
            _check_classes(read.cfg, data)
        model, task = read.build(data)
        return cls(model.to(device), task, read.cfg)

    @property
    def data(self) -> Path:
        """The prepared data."""
        return Path(self.cfg.task.data)

    @property
    def is_squad(self) -> bool:
        """Whether it answers questions."""
        return self.cfg.task._name == "squad"

    @property
    def is_regression(self) -> bool:
        """Whether it predicts scores."""
        return bool(self.cfg.criterion.get("regression_target", False))

    @torch.no_grad()
    def predict_rows(self, split: str, *, batch_size: int = 64) -> RowPredictions:
        """Return what the classifier says of every row of a split."""
        head = self.cfg.criterion.classification_head_name
        logits: dict[int, list[float]] = {}
        targets: dict[int, float] = {}
        for batch in self._batches(split, batch_size):
            scores, _ = self.model(**batch["net_input"], features_only=True, classification_head_name=head)
            ids = batch["id"].tolist()
            logits.update(zip(ids, scores.double().tolist(), strict=True))
            if "target" in batch:
                targets.update(zip(ids, batch["target"].view(-1).double().tolist(), strict=True))
        return RowPredictions(
            np.array([logits[index] for index in sorted(logits)]),
            np.array([targets[index] for index in sorted(targets)]) if targets else None,
        )

    @torch.no_grad()
    def answer_questions(self, split: str, *, batch_size: int = 64) -> list[Candidates]:
        """Return the likeliest answers to every question of a split."""
        search, rows = self.cfg.criterion, []
        for batch in self._batches(split, batch_size):
            logits, _ = self.model(
                **batch["net_input"], features_only=True, classification_head_name=self.task.span_head
            )
            spans = likeliest_spans(
                logits, batch["window"], n_best=search.n_best, max_tokens=search.max_answer_tokens
            )
            rows += row_candidates(spans, batch["references"])
        return merge(rows, search.n_best)

    def _batches(self, split: str, batch_size: int) -> Iterator[dict[str, Any]]:
        self.task.load_dataset(split, combine=False)
        dataset = self.task.dataset(split)
        # By length, longest first: little padding, and what does not fit shows at once. Not fairseq's own
        # iterator, which leaves out what is no multiple of --required-batch-size-multiple.
        order = np.argsort([-dataset.num_tokens(index) for index in range(len(dataset))], kind="stable")
        device = next(self.model.parameters()).device
        for start in range(0, len(order), batch_size):
            batch = dataset.collater([dataset[int(index)] for index in order[start : start + batch_size]])
            yield utils.apply_to_sample(lambda tensor: tensor.to(device), batch)


def _check_classes(cfg: Any, data: Path) -> None:
    """Compares names with the classes it was trained on; their number where those data are gone."""
    finetuning_settings(data)
    has_none = cfg.task._name == "squad" or cfg.criterion.get("regression_target", False)
    count = 0 if has_none else cfg.task.num_classes
    trained, given = class_names(Path(cfg.task.data))[:count], class_names(data)
    if given != trained if trained else len(given) != count:
        ours, theirs = (", ".join(names)[:80] for names in (trained, given))
        raise UserError(
            f"{data} has {len(given)} classes ({theirs or 'no names'}), the checkpoint {count}"
            f" ({ours or 'of names unknown'}): give data of the task that it was trained on"
        )
