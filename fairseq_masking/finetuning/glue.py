"""The tasks by name, and GLUE's files: which one is which split, which columns hold what, how to submit.

Source: Wang et al. 2018 (GLUE) and the files that gluebenchmark.com gives out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["GLUE_TASKS", "JSONL", "SCORE_SCALE", "SQUAD", "TASKS", "GlueTask"]

JSONL, SQUAD = "jsonl", "squad"
SCORE_SCALE = 5.0  # STS-B's scores are 0 to 5; trained on as 0 to 1, as in RoBERTa's fairseq recipe

_FILES = {"train": "train.tsv", "valid": "dev.tsv", "test": "test.tsv"}
_PAIR = ("sentence1", "sentence2")
_BINARY = ("0", "1")
_NLI = ("entailment", "not_entailment")


@dataclass(frozen=True)
class GlueTask:
    name: str  # as GLUE's folders and papers write it
    sentences: tuple[str, ...]  # the columns of one sentence or two
    label: str  # the column of the label; test files lack it
    # classes in the order of their numbers, the last of two being F1's positive one; empty for scores
    labels: tuple[str, ...]
    # of GLUE's leaderboard on the development set, as metrics.py names them. Where there are two, the task's score is
    # their mean.
    metrics: tuple[str, ...]
    columns: tuple[str, ...] = ()  # names of the columns where labelled files have no header
    row_id: str = "index"  # the column of test files that a submission repeats
    files: Mapping[str, str] = field(default_factory=lambda: _FILES)  # split -> file
    submissions: Mapping[str, str] = field(default_factory=dict)  # test split -> the file to hand in


_COLA_COLUMNS = ("source", "label", "mark", "sentence")
_MNLI_CLASSES = ("contradiction", "entailment", "neutral")
_MNLI_FILES = {
    "train": "train.tsv",
    "valid": "dev_matched.tsv",
    "valid1": "dev_mismatched.tsv",
    "test": "test_matched.tsv",
    "test1": "test_mismatched.tsv",
}
_MNLI_SUBMISSIONS = {"test": "MNLI-m.tsv", "test1": "MNLI-mm.tsv", "test2": "AX.tsv"}
_QUESTIONS, _STRINGS = ("question1", "question2"), ("#1 String", "#2 String")

_ALL = (
    GlueTask("CoLA", ("sentence",), "label", _BINARY, ("mcc",), columns=_COLA_COLUMNS),
    GlueTask("SST-2", ("sentence",), "label", _BINARY, ("accuracy",)),
    GlueTask("MRPC", _STRINGS, "Quality", _BINARY, ("f1", "accuracy")),
    GlueTask("STS-B", _PAIR, "score", (), ("pearson", "spearman")),
    GlueTask("QQP", _QUESTIONS, "is_duplicate", _BINARY, ("f1", "accuracy"), row_id="id"),
    GlueTask("MNLI", _PAIR, "gold_label", _MNLI_CLASSES, ("accuracy",), (), "index", _MNLI_FILES,
             _MNLI_SUBMISSIONS),
    GlueTask("QNLI", ("question", "sentence"), "label", _NLI, ("accuracy",)),
    GlueTask("RTE", _PAIR, "label", _NLI, ("accuracy",)),
    GlueTask("WNLI", _PAIR, "label", _BINARY, ("accuracy",)),
)  # fmt: skip
GLUE_TASKS: dict[str, GlueTask] = {task.name: task for task in _ALL}
TASKS = (*GLUE_TASKS, JSONL, SQUAD)
