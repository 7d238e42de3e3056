"""A fine-tuned checkpoint: its predictions of whole splits, their scores, and the files made from them.

The files are as GLUE's leaderboard and SQuAD's evaluation script take them.

Shapes: N rows of the split in the order of the task's own file, C classes (1 for scores).
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from fairseq import utils
from torch import Tensor

from fairseq_masking.checkpoints.loading import read_checkpoint
from fairseq_masking.corpus.dictionary import class_names
from fairseq_masking.corpus.manifest import check_contents
from fairseq_masking.errors import UserError
from fairseq_masking.files import as_json, whole_file
from fairseq_masking.finetuning.glue import GLUE_TASKS, SCORE_SCALE
from fairseq_masking.finetuning.metrics import row_scores, squad_scores
from fairseq_masking.finetuning.prepare import finetuning_settings
from fairseq_masking.finetuning.squad.criterion import Candidates, merge, row_candidates, score_rows, scored_answers

__all__ = ["Finetuned", "RowPredictions", "predict", "scores_of"]

Scores = dict[str, dict[str, float]]  # split -> name -> percent


class RowPredictions(NamedTuple):
    """What a classifier says of a split."""

    logits_NC: npt.NDArray[np.float64]  # float64
    targets_N: npt.NDArray[np.float64] | None  # classes or scores; None where the split has no labels

    def scores(self) -> dict[str, float]:
        """Return the scores, in percent, of a split with labels."""
        assert self.targets_N is not None
        num_classes = self.logits_NC.shape[1]
        predictions_N = self.logits_NC[:, 0] if num_classes == 1 else self.logits_NC.argmax(1)
        return row_scores(predictions_N, self.targets_N, num_classes=num_classes)


class Finetuned:
    """A model that was trained by ``sentence_prediction`` or ``squad``, with its task."""

    def __init__(self, model: Any, task: Any, cfg: Any) -> None:
        self.model = model.eval()
        self.task = task
        self.cfg = cfg

    @classmethod
    def load(cls, checkpoint: Path, *, data: Path | None = None, device: str | torch.device = "cpu") -> "Finetuned":
        """Load a checkpoint, with prepared ``data`` in place of those it was trained on.

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
        return Path(self.cfg.task.data)

    @property
    def is_squad(self) -> bool:
        return self.cfg.task._name == "squad"

    def predict_rows(self, split: str, *, batch_size: int = 64) -> RowPredictions:
        """Return what the classifier says of every row of a split."""
        ids, logits, targets = [], [], []
        for batch, found in self._outputs(split, batch_size, self.cfg.criterion.classification_head_name):
            ids += batch["id"].tolist()
            logits += found.double().tolist()
            targets += batch["target"].view(-1).double().tolist() if "target" in batch else []
        order = np.argsort(ids)
        return RowPredictions(np.array(logits)[order], np.array(targets)[order] if targets else None)

    def answer_questions(self, split: str, *, batch_size: int = 64) -> list[Candidates]:
        """Return the likeliest answers to every question of a split."""
        search, rows = self.cfg.criterion, []
        for batch, logits in self._outputs(split, batch_size, self.task.span_head):
            rows += row_candidates(logits, batch, search)
        return merge(rows, search.n_best)

    def splits(self) -> list[str]:
        """Return the splits that are there, the validation set first, the training set left out."""
        paths = self.data.glob("*.questions.idx") if self.is_squad else self.data.glob("input0/*.idx")
        names = {path.name.partition(".")[0] for path in paths} - {"train"}
        if "valid" not in names:
            raise UserError(f"{self.data} has no validation split; prepare it with fairseq-masking prepare task")
        return sorted(names, key=lambda name: (name != "valid", name))

    @torch.no_grad()
    def _outputs(self, split: str, batch_size: int, head: str) -> Iterator[tuple[dict[str, Any], Tensor]]:
        self.task.load_dataset(split, combine=False)
        dataset = self.task.dataset(split)
        # By length, longest first: little padding, and what does not fit shows at once. Not fairseq's own
        # iterator, which leaves out what is no multiple of --required-batch-size-multiple.
        order = np.argsort([-dataset.num_tokens(index) for index in range(len(dataset))], kind="stable")
        device = next(self.model.parameters()).device
        for start in range(0, len(order), batch_size):
            batch = dataset.collater([dataset[int(index)] for index in order[start : start + batch_size]])
            batch = utils.apply_to_sample(lambda tensor: tensor.to(device), batch)
            yield batch, self.model(**batch["net_input"], features_only=True, classification_head_name=head)[0]


def predict(finetuned: Finetuned, output: Path, *, batch_size: int = 64) -> Scores:
    """Write a fine-tuned checkpoint's predictions, and scores.json.

    Rows: OUTPUT/CoLA.tsv and so on, for test splits without labels. SQuAD, development and test split:
    OUTPUT/SPLIT/predictions.json (texts, "" for no answer, by the threshold that is best for the development
    set's F1), null_odds.json and nbest_predictions.json. Returns what scores.json holds, of the splits with labels.
    """
    task = str(finetuning_settings(finetuned.data)["task"])
    scores: Scores = {}
    files: dict[Path, str] = {}  # written when all are made
    for split in finetuned.splits():
        if finetuned.is_squad:
            candidates = finetuned.answer_questions(split, batch_size=batch_size)
            if split == "valid":  # the threshold comes first
                scores[split] = _squad_scores(finetuned, candidates)
            answers = _answers(finetuned, split, candidates, scores["valid"]["f1_threshold"])
            files |= {output / split / f"{name}.json": as_json(value) for name, value in answers.items()}
            continue
        predictions = finetuned.predict_rows(split, batch_size=batch_size)
        if predictions.targets_N is not None:
            scores[split] = predictions.scores()
        else:
            names = GLUE_TASKS[task].submissions if task in GLUE_TASKS else {split: f"{split}.tsv"}
            files[output / names.get(split, f"{task}.tsv")] = _submission(finetuned, split, predictions)
    for path, text in {**files, output / "scores.json": as_json(scores)}.items():
        with whole_file(path) as partial:
            partial.write_text(text, encoding="utf-8")
    return scores


def scores_of(finetuned: Finetuned) -> Scores:
    """Return the scores of the splits with labels."""
    if finetuned.is_squad:
        return {"valid": _squad_scores(finetuned, finetuned.answer_questions("valid"))}
    labels = {path.name.partition(".")[0] for path in finetuned.data.glob("label/*")}
    return {name: finetuned.predict_rows(name).scores() for name in finetuned.splits() if name in labels}


def _submission(finetuned: Finetuned, split: str, predictions: RowPredictions) -> str:
    path = finetuned.data / "ids" / f"{split}.txt"
    check_contents(path)
    ids = path.read_text(encoding="utf-8").split("\n")[:-1]
    if finetuned.cfg.criterion.get("regression_target", False):
        scores_N = predictions.logits_NC[:, 0] * SCORE_SCALE
        names = [f"{score:.3f}" for score in scores_N.clip(0, SCORE_SCALE)]
    else:
        dictionary = finetuned.task.label_dictionary
        names = [dictionary[dictionary.nspecial + index] for index in predictions.logits_NC.argmax(1)]
    if len(ids) != len(names):
        raise UserError(f"{path} has {len(ids)} rows, the split {len(names)}: prepare the data again")
    return "index\tprediction\n" + "".join(f"{row}\t{name}\n" for row, name in zip(ids, names, strict=True))


def _answers(
    finetuned: Finetuned, split: str, candidates: list[Candidates], threshold: float
) -> dict[str, dict[str, Any]]:
    _, questions = finetuned.task.dataset(split).examples.read_texts()
    found = {str(questions[each.question]["id"]): each for each in candidates}
    # JSON has no infinity
    margins = {name: min(each.null - each.best[1], sys.float_info.max) for name, each in found.items()}
    chosen = {name: each.best[0] if margins[name] <= threshold else "" for name, each in found.items()}
    nbest = {
        name: [{"text": text, "score": value} for text, value in [*each.answers, ("", each.null)]]
        for name, each in found.items()
    }
    return {"predictions": chosen, "null_odds": margins, "nbest_predictions": nbest}


def _squad_scores(finetuned: Finetuned, candidates: list[Candidates]) -> dict[str, float]:
    _, questions = finetuned.task.dataset("valid").examples.read_texts()
    answers = [questions[found.question]["answers"] for found in candidates]
    return {
        name: min(value, sys.float_info.max)  # JSON has no infinity
        for name, value in squad_scores(scored_answers(score_rows(candidates, answers))).items()
    }


def _check_classes(cfg: Any, data: Path) -> None:
    """Compare names with the classes it was trained on; their number where those data are gone."""
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
