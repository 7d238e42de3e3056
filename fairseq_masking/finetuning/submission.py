"""Predictions as files, as GLUE's leaderboard and SQuAD's evaluation script take them, and their scores."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_masking.errors import UserError
from fairseq_masking.finetuning.finetuned import Finetuned, RowPredictions
from fairseq_masking.finetuning.glue import GLUE_TASKS, SCORE_SCALE
from fairseq_masking.finetuning.metrics import classification_scores, regression_scores
from fairseq_masking.finetuning.prepare import finetuning_settings
from fairseq_masking.finetuning.squad.answers import Candidates
from fairseq_masking.finetuning.squad.scoring import ScoredAnswer, score, squad_scores

__all__ = ["predict", "row_scores", "scores_of"]


def predict(finetuned: Finetuned, output: Path, *, batch_size: int = 64) -> dict[str, dict[str, float]]:
    """Writes a fine-tuned checkpoint's predictions, and scores.json.

    Rows: OUTPUT/CoLA.tsv and so on, for test splits without labels. SQuAD, development and test split:
    OUTPUT/SPLIT/predictions.json (texts, "" for no answer, by the threshold that is best for the development
    set's F1), null_odds.json and nbest_predictions.json.

    Returns:
        split -> scores in percent, for the splits with labels: what scores.json holds.

    Raises:
        UserError: the data were not made by ``prepare_finetuning``.
    """
    settings = finetuning_settings(finetuned.data)
    output.mkdir(parents=True, exist_ok=True)
    if finetuned.is_squad:
        scores = _predict_squad(finetuned, output, batch_size)
    else:
        scores = _predict_rows(finetuned, str(settings["task"]), output, batch_size)
    _write_json(output / "scores.json", scores)
    return scores


def scores_of(finetuned: Finetuned, *, batch_size: int = 64) -> dict[str, dict[str, float]]:
    """Returns split -> scores in percent, for the splits with labels; writes nothing."""
    if finetuned.is_squad:
        return {"valid": _squad_scores(finetuned, finetuned.answer_questions("valid", batch_size=batch_size))}
    labelled = [
        split
        for split in _splits(finetuned.data, "input0/{}.idx")
        if any((finetuned.data / "label").glob(f"{split}.*"))
    ]
    return {split: row_scores(finetuned.predict_rows(split, batch_size=batch_size)) for split in labelled}


def row_scores(predictions: RowPredictions) -> dict[str, float]:
    """Returns the scores, in percent, of a split with labels."""
    assert predictions.targets_N is not None
    num_classes = predictions.logits_NC.shape[1]
    if num_classes == 1:
        return regression_scores(predictions.logits_NC[:, 0], predictions.targets_N)
    return classification_scores(
        predictions.logits_NC.argmax(1), predictions.targets_N.astype(np.int64), num_classes=num_classes
    )


def _predict_rows(
    finetuned: Finetuned, task: str, output: Path, batch_size: int
) -> dict[str, dict[str, float]]:
    scores = {}
    for split in _splits(finetuned.data, "input0/{}.idx"):
        predictions = finetuned.predict_rows(split, batch_size=batch_size)
        if predictions.targets_N is not None:
            scores[split] = row_scores(predictions)
        else:
            name = GLUE_TASKS[task].submission_file(split) if task in GLUE_TASKS else f"{split}.tsv"
            _write_submission(output / name, finetuned, split, predictions)
    return scores


def _write_submission(path: Path, finetuned: Finetuned, split: str, predictions: RowPredictions) -> None:
    ids = (finetuned.data / "ids" / f"{split}.txt").read_text(encoding="utf-8").split("\n")[:-1]
    if finetuned.is_regression:
        values = np.clip(predictions.logits_NC[:, 0] * SCORE_SCALE, 0, SCORE_SCALE)
        names = [f"{value:.3f}" for value in values]
    else:
        dictionary = finetuned.task.label_dictionary
        names = [dictionary[dictionary.nspecial + index] for index in predictions.logits_NC.argmax(1)]
    lines = [f"{row}\t{name}\n" for row, name in zip(ids, names, strict=True)]
    path.write_text("index\tprediction\n" + "".join(lines), encoding="utf-8")


def _predict_squad(finetuned: Finetuned, output: Path, batch_size: int) -> dict[str, dict[str, float]]:
    scores: dict[str, dict[str, float]] = {}
    splits = _splits(finetuned.data, "{}.questions.idx")
    for split in sorted(splits, key=lambda name: name != "valid"):  # the threshold comes first
        candidates = finetuned.answer_questions(split, batch_size=batch_size)
        _, questions = finetuned.task.dataset(split).examples.read_texts()
        if split == "valid":
            scores[split] = _squad_scores(finetuned, candidates)
        threshold = scores["valid"]["f1_threshold"]
        folder = output / split
        folder.mkdir(exist_ok=True)
        found_by_id = {str(questions[found.question]["id"]): found for found in candidates}
        _write_json(
            folder / "predictions.json",
            {
                name: _text(found) if _margin(found) <= threshold else ""
                for name, found in found_by_id.items()
            },
        )
        _write_json(folder / "null_odds.json", {name: _margin(found) for name, found in found_by_id.items()})
        _write_json(
            folder / "nbest_predictions.json",
            {
                name: [{"text": text, "score": value} for text, value in [*found.answers, ("", found.null)]]
                for name, found in found_by_id.items()
            },
        )
    return scores


def _squad_scores(finetuned: Finetuned, candidates: list[Candidates]) -> dict[str, float]:
    _, questions = finetuned.task.dataset("valid").examples.read_texts()
    return squad_scores([_scored(found, questions[found.question]["answers"]) for found in candidates])


def _scored(found: Candidates, answers: list[str]) -> ScoredAnswer:
    text = _text(found)
    return ScoredAnswer(*score(answers, text), _margin(found), bool(answers), bool(text))


def _text(found: Candidates) -> str:
    return found.answers[0][0] if found.answers else ""


def _margin(found: Candidates) -> float:
    return found.null - found.answers[0][1] if found.answers else sys.float_info.max  # JSON has no infinity


def _splits(data: Path, pattern: str) -> list[str]:
    """Returns the splits that are there, the training one left out."""
    before, after = pattern.split("{}")
    names = [
        str(path.relative_to(data))[len(before) : -len(after)] for path in data.glob(pattern.format("*"))
    ]
    splits = sorted(name for name in names if name != "train")
    if "valid" not in splits:
        raise UserError(f"{data} has no validation split; prepare it again with scripts/prepare_finetune.sh")
    return splits


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
