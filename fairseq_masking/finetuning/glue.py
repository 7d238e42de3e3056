"""GLUE's own file layout: which file is which split, which columns hold sentences and label, how to submit.

Source: Wang et al. 2018 (GLUE) and the files that gluebenchmark.com gives out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["GLUE_TASKS", "SCORE_SCALE", "GlueTask"]

SCORE_SCALE = 5.0  # STS-B's scores are 0 to 5; trained on as 0 to 1, as in RoBERTa's fairseq recipe

_FILES = {"train": "train.tsv", "valid": "dev.tsv", "test": "test.tsv"}
_NLI = ("entailment", "not_entailment")


@dataclass(frozen=True)
class GlueTask:
    """A task of GLUE.

    Attributes:
        name: as GLUE's folders and papers write it.
        sentences: the columns of one sentence or two.
        label: the column of the label; test files lack it.
        labels: classes in the order of their numbers, the last of two being F1's positive one; empty for
            scores.
        metrics: of GLUE's leaderboard on the development set, as evaluation/metrics.py names them. Where
            there are two, the task's score is their mean.
        columns: names of the columns where labelled files have no header.
        row_id: the column of test files that a submission repeats.
        files: split -> file.
        submissions: test split -> the file to hand in.
    """

    name: str
    sentences: tuple[str, ...]
    label: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    columns: tuple[str, ...] = ()
    row_id: str = "index"
    files: Mapping[str, str] = field(default_factory=lambda: _FILES)
    submissions: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_regression(self) -> bool:
        """Whether the label is a number."""
        return not self.labels

    def submission_file(self, split: str) -> str:
        """Name of the file that a test split's predictions go into."""
        return self.submissions.get(split, f"{self.name}.tsv")


GLUE_TASKS: dict[str, GlueTask] = {
    task.name: task
    for task in (
        GlueTask(
            "CoLA",
            ("sentence",),
            "label",
            ("0", "1"),
            ("mcc",),
            columns=("source", "label", "mark", "sentence"),
        ),
        GlueTask("SST-2", ("sentence",), "label", ("0", "1"), ("accuracy",)),
        GlueTask("MRPC", ("#1 String", "#2 String"), "Quality", ("0", "1"), ("f1", "accuracy")),
        GlueTask("STS-B", ("sentence1", "sentence2"), "score", (), ("pearson", "spearman")),
        GlueTask(
            "QQP",
            ("question1", "question2"),
            "is_duplicate",
            ("0", "1"),
            ("f1", "accuracy"),
            row_id="id",
        ),
        GlueTask(
            "MNLI",
            ("sentence1", "sentence2"),
            "gold_label",
            ("contradiction", "entailment", "neutral"),
            ("accuracy",),
            files={
                "train": "train.tsv",
                "valid": "dev_matched.tsv",
                "valid1": "dev_mismatched.tsv",
                "test": "test_matched.tsv",
                "test1": "test_mismatched.tsv",
            },
            submissions={"test": "MNLI-m.tsv", "test1": "MNLI-mm.tsv"},
        ),
        GlueTask("QNLI", ("question", "sentence"), "label", _NLI, ("accuracy",)),
        GlueTask("RTE", ("sentence1", "sentence2"), "label", _NLI, ("accuracy",)),
        GlueTask("WNLI", ("sentence1", "sentence2"), "label", ("0", "1"), ("accuracy",)),
    )
}
