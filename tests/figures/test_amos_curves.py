"""Curves of AMOS, from logs in the formats that fairseq-train writes."""

import csv
import json

import numpy as np
import pytest

from fairseq_masking.cli.amos_curves import main
from fairseq_masking.figures.amos_curves import amos_curves, panels_of, summary_cells
from fairseq_masking.figures.training_log import TrainingLog


def interval(update, depths=("4", "6", "10")):
    values = {"num_updates": update, "wps": 100.0, "disc_loss": 0.4, "disc_accuracy": 90.0}
    values |= {"disc_accuracy_original": 95.0, "replace_rate": 80.0 - update / 10}
    values["disc_auc"] = 50 + update / 5
    if update > 10:  # at first nothing was replaced
        values["disc_accuracy_replaced"] = 10.0 + update / 10
    for number, depth in enumerate(reversed(depths)):  # in no order
        values[f"mlm_loss_{depth}"] = 9.0 + number - update / 50
        values[f"mixture_{depth}"] = 0.25 * (number + 1) - update / 1000
    return values


LOG = TrainingLog(train={update: interval(update) for update in range(10, 101, 10)}, valid={})


def test_above_chance_is_what_both_accuracies_have_together():
    curves = amos_curves("run", LOG)
    updates, above = curves["above_chance"]
    assert updates.tolist() == list(range(20, 101, 10))
    np.testing.assert_allclose(above, 10 + updates / 10 + 95 - 100)


def test_a_line_for_each_depth_of_any_run_shallow_first():
    other = TrainingLog(train={10: interval(20, ("4_1", "4_2"))}, valid={})
    panels = panels_of({"run": amos_curves("run", LOG), "other": amos_curves("other", other)})
    expected = ["4", "4_1", "4_2", "6", "10"]
    assert [metric for metric, _, _ in panels[0].lines] == [f"mlm_loss_{depth}" for depth in expected]
    assert [metric for metric, _, _ in panels[1].lines] == [f"mixture_{depth}" for depth in expected]


def test_summary_is_of_the_last_tenth():
    header, (line,) = summary_cells({"run": amos_curves("run", LOG)})
    found = dict(zip(header, line, strict=True))
    assert found["loss by depth"] == "9.000 / 8.000 / 7.000"
    assert found["mixture weights (at first)"] == "0.65 / 0.40 / 0.15 (0.74 / 0.49 / 0.24)"
    assert (found["accuracy, all"], found["replaced"], found["original"]) == ("90.0%", "20.0%", "95.0%")
    assert found["above chance"] == "+15.0" and found["masked tokens replaced"] == "70.0%"
    assert found["area"] == "70.0%"


def test_a_log_of_before_the_area_was_logged():
    train = {10: {key: value for key, value in interval(20).items() if key != "disc_auc"}}
    header, (line,) = summary_cells({"run": amos_curves("run", TrainingLog(train=train, valid={}))})
    assert dict(zip(header, line, strict=True))["area"] == ""


def test_the_command(tmp_path, capsys):
    lines = [json.dumps({key: str(value) for key, value in values.items()}) for values in LOG.train.values()]
    (tmp_path / "a.log").write_text("\n".join(lines))
    figure, out = tmp_path / "curves.png", tmp_path / "curves.csv"
    given = ["--run", f"a={tmp_path / 'a.log'}", "--figure", str(figure)]
    assert main([*given, "--out", str(out)]) == 0
    assert "| a " in capsys.readouterr().out and figure.read_bytes().startswith(b"\x89PNG")
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10 and rows[0]["above_chance"] == "" and float(rows[1]["mlm_loss_4"]) == 10.6


@pytest.mark.parametrize("missing", ["mlm_loss_4", "disc_accuracy_original"])
def test_another_methods_log_is_refused(missing, tmp_path, capsys):
    kept = {key: str(value) for key, value in interval(20, ("4",)).items() if key != missing}
    (tmp_path / "a.log").write_text(json.dumps(kept))
    assert main(["--run", f"a={tmp_path / 'a.log'}", "--figure", str(tmp_path / "a.png")]) == 1
    printed = capsys.readouterr().err.strip()
    assert "give logs of --criterion amos" in printed and "\n" not in printed
    assert not (tmp_path / "a.png").exists()
