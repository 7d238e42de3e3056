"""Tables and curves of a sweep from runs whose scores are written by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fairseq_masking.corpus.encoding import ArrayWriter
from fairseq_masking.finetuning import results
from fairseq_masking.finetuning.protocols import PROTOCOLS
from fairseq_masking.finetuning.results import Result, average, gains_table, plot_over, result_of, scores_table
from fairseq_masking.finetuning.runs import Run
from fairseq_masking.finetuning.tasks import FinetuningTask, Start


def runs_with(tmp_path, kind, scores, metric="accuracy"):
    """Finished runs: configuration -> one dictionary of scores a seed."""
    (tmp_path / "data" / "label").mkdir(parents=True)
    (tmp_path / "data" / "label" / "dict.txt").write_text("a 1\nb 1\nc 1\n")
    task = FinetuningTask(kind, kind, tmp_path / "data")
    found = []
    for configuration, by_seed in scores.items():
        for seed, splits in enumerate(by_seed, start=1):
            start, recipe = Start("MLM", 7, ()), Path("tiny.yaml")
            run = Run(start, task, (configuration,), seed, recipe, metric, (), tmp_path / "out")
            run.record(scores={split: {metric: value} for split, value in splits.items()})
            found.append(run)
    return found


def test_mnli_is_the_mean_of_both_sets(tmp_path):
    runs = runs_with(tmp_path, "MNLI", {"lr=1": [{"valid": 80.0, "valid1": 84.0}]})
    (result,) = result_of(runs, PROTOCOLS["amos"])
    assert result.values == (82.0,) and math.isnan(result.spread)
    assert "dataset.valid_subset='valid,valid1'" in runs[0].overrides
    assert "task.num_classes=3" in runs[0].overrides


def test_ablations_are_accuracies_mnlis_by_rows(tmp_path):
    """2211.04898, Section 3.1: QQP by accuracy alone, MNLI weighted."""
    protocol = PROTOCOLS["three_ml_ablation"]
    runs = runs_with(tmp_path, "MNLI", {"lr=1": [{"valid": 80.0, "valid1": 84.0}]})
    for split, rows in (("valid", 3), ("valid1", 1)):
        with ArrayWriter(tmp_path / "data" / "label" / split) as writer:
            for _ in range(rows):
                writer.add([4])
    (result,) = result_of(runs, protocol)
    assert result.score == 81.0 and protocol.metric_of("QQP") == "accuracy"
    assert average({"MNLI": 81.0, "QNLI": 84.0, "QQP": 90.0}, protocol) == 85.0
    assert protocol.recipe_of("QQP") == "three_ml_large_tasks"


def test_the_test_set_has_no_say_in_what_is_chosen(tmp_path):
    scores = {
        "lr=1": [{"valid": 60.0, "test": 90.0}, {"valid": 61.0, "test": 92.0}],
        "lr=2": [{"valid": 70.0, "test": 50.0}, {"valid": 72.0, "test": 54.0}],
    }
    valid, test = result_of(runs_with(tmp_path, "jsonl", scores), PROTOCOLS["map_net"])
    assert (valid.task, valid.values, valid.score) == ("jsonl", (70.0, 72.0), 71.0)
    assert (test.task, test.values, test.score) == ("jsonl test", (50.0, 54.0), 52.0)
    assert valid.configurations == ("lr_2", "lr_2")
    assert valid.spread == pytest.approx(math.sqrt(2))


def test_each_seeds_own_configuration(tmp_path):
    scores = {
        "lr=1": [{"valid": 1.0}, {"valid": 9.0}, {"valid": 5.0}],
        "lr=2": [{"valid": 2.0}, {"valid": 0.0}, {"valid": 6.0}],
    }
    (result,) = result_of(runs_with(tmp_path, "QNLI", scores), PROTOCOLS["three_ml"])
    assert result.configurations == ("lr_2", "lr_1", "lr_2")
    assert (result.values, result.score) == ((2.0, 9.0, 6.0), 6.0)


def result(name, updates, task, *values, score=None):
    return Result(name, updates, task, "accuracy", ("lr",) * len(values), values, score or values[0])


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_table_has_baselines_spreads_and_an_average_where_it_is_whole():
    tasks = sorted(set(PROTOCOLS["amos"].average))
    whole = [result("A", 5, task, 60.0, 62.0) for task in tasks]
    some = [result("B", 0, "CoLA", 50.0)]
    baselines = {"CoLA": {"majority": {"valid": {"accuracy": 70.0}, "valid1": {"accuracy": 74.0}}}}
    header, _, majority, tfidf, first, second = cells(scores_table(whole + some, baselines, PROTOCOLS["amos"]))
    column = header.index("CoLA (accuracy)")
    assert header[-1] == "GLUE average"
    assert majority[column] == "72.00" and tfidf[0] == "TF-IDF, logistic regression"
    assert first[0] == "A, 5 updates" and first[column] == "60.00 ± 1.41" and first[-1] == "60.00"
    assert second[0] == "B" and second[column] == "50.00" and second[-1] == ""


def test_a_table_without_averages_has_no_such_column():
    table = scores_table([result("A", 5, "x test", 60.0)], {"x": {"majority": {"test": {"accuracy": 1.0}}}},
                         PROTOCOLS["amos"])  # fmt: skip
    assert cells(table)[0] == ["", "x test (accuracy)"] and cells(table)[2][1] == "1.00"


def test_gains_have_the_standard_error_of_a_difference_of_means():
    results = [result("A", 5, "CoLA", 60.0, 62.0, 64.0), result("B", 5, "CoLA", 70.0, 71.0, 75.0)]
    header, _, line = cells(gains_table(results))
    assert header == ["mean gain over A, 5 updates", "CoLA"]
    # means 62 and 72; variances 4 and 7, of three values each
    assert line == ["B, 5 updates", f"+10.00 ± {math.sqrt(4 / 3 + 7 / 3):.2f}"]
    assert gains_table(results[:1]) == ""


def test_a_gain_of_single_runs_has_no_error():
    results = [result("A", 0, "CoLA", 60.0), result("B", 0, "CoLA", 55.5)]
    assert cells(gains_table(results))[2] == ["B", "-4.50"]


def test_scores_are_drawn_where_a_training_has_several_checkpoints(tmp_path):
    single = [result("A", 5, "CoLA", 60.0, 61.0), result("from scratch", 0, "CoLA", 50.0)]
    assert not plot_over("updates", single, tmp_path / "scores.png")
    assert not (tmp_path / "scores.png").exists()
    assert plot_over("updates", [*single, result("A", 9, "CoLA", 65.0, 66.0)], tmp_path / "scores.png")
    assert (tmp_path / "scores.png").stat().st_size > 1000


def test_domains_are_reported_as_mean_and_deviation(tmp_path):
    """2010.06040, Table 1; its other tasks by the median."""
    seeds = [{"valid": value, "test": value} for value in (1.0, 2.0, 6.0)]
    for kind, score in (("jsonl", 3.0), ("QNLI", 2.0)):
        for found in result_of(runs_with(tmp_path / kind, kind, {"lr=1": seeds}), PROTOCOLS["fully_explored"]):
            assert found.score == score and found.cell.endswith("± 2.65")


def test_scores_are_drawn_over_the_hours_that_a_checkpoint_has_counted(tmp_path, monkeypatch):
    path = Path(__file__).parents[1] / "golden/data/checkpoints/mlm.pt"
    first = Start.of_checkpoint("A", str(path))
    seconds = torch.load(path, weights_only=False)["extra_state"]["previous_training_time"]
    assert first.hours == seconds / 3600 > 0
    kept = []
    monkeypatch.setattr(results, "save_figure", lambda figure, _: kept.append(figure))
    own = [replace(result("A", 5 * hours, "CoLA", 60.0, 61.0), hours=hours) for hours in (2.0, 1.0)]
    assert plot_over("hours", own, tmp_path / "scores.png")
    axes = kept[0].axes[0]
    assert list(axes.lines[0].get_xdata()) == [1.0, 2.0] and axes.get_xlabel() == "hours of pre-training"
