"""Curves of every method, from logs in the formats that fairseq-train writes."""

import csv
import json

import numpy as np
import pytest

from fairseq_masking.cli.main import main
from fairseq_masking.errors import UserError
from fairseq_masking.figures.figure import _smoothed, plot_panels
from fairseq_masking.figures.training_log import (
    PRESETS,
    TrainingLog,
    curve_rows,
    curves_of,
    find_preset,
    panels_of,
    read_training_log,
    summary_cells,
)


def map_net_interval(update):
    values = {"num_updates": update, "wps": 100.0, "loss": 9.0, "loss_uniform": 10.0 - update / 100}
    values |= {"proposal_entropy": 7.0 - update / 200, "share_proposed": update / 200}
    values |= {"rank_correlation_uniform": 0.5, "rank_correlation": 0.25}
    if update > 10:  # no sentence was proposed before
        values |= {"loss_proposed": 10.5, "clipped_low": 0.75, "clipped_high": 0.25, "importance_weight": 0.9}
    return values


def amos_interval(update, depths=("4", "6", "10")):
    values = {"num_updates": update, "wps": 100.0, "loss": 9.0, "disc_loss": 0.4, "disc_accuracy": 90.0}
    values |= {"disc_accuracy_original": 95.0, "replace_rate": 80.0 - update / 10}
    values["disc_auc"] = 50 + update / 5
    if update > 10:  # at first nothing was replaced
        values["disc_accuracy_replaced"] = 10.0 + update / 10
    for number, depth in enumerate(reversed(depths)):  # in no order
        values[f"mlm_loss_{depth}"] = 9.0 + number - update / 50
        values[f"mixture_{depth}"] = 0.25 * (number + 1) - update / 1000
    return values


def mlm_interval(update):
    return {"num_updates": update, "wps": 100.0 + update, "loss": 9.0 - update / 100}


def log_of(interval):
    return TrainingLog(train={update: interval(update) for update in range(10, 101, 10)}, valid={})


MAP_NET, AMOS = log_of(map_net_interval), log_of(amos_interval)
VALID = {50: {"loss": 8.9, "ppl": 480.0, "accuracy": 9.0}, 100: {"loss": 8.0, "ppl": 256.0, "accuracy": 16.0}}
MLM = log_of(mlm_interval)._replace(valid=VALID)
LOGS = {"map_net": MAP_NET, "amos": AMOS, "mlm": MLM}


def summary_of(preset, log):
    header, (line,) = summary_cells(PRESETS[preset], {"run": curves_of(log)})
    return dict(zip(header, line, strict=True))


def test_map_nets_curves_have_the_difference_and_what_explores():
    curves = curves_of(MAP_NET)
    updates, gaps = curves["gap"]
    assert updates.tolist() == list(range(20, 101, 10))
    np.testing.assert_allclose(gaps, 0.5 + updates / 100)
    np.testing.assert_allclose(curves["explored"][1], 1 - np.arange(10, 101, 10) / 200)


def test_amos_above_chance_is_what_both_accuracies_have_together():
    updates, above = curves_of(AMOS)["above_chance"]
    assert updates.tolist() == list(range(20, 101, 10))
    np.testing.assert_allclose(above, 10 + updates / 10 + 95 - 100)


def test_a_line_for_each_depth_of_any_run_shallow_first():
    other = TrainingLog(train={10: amos_interval(20, ("4_1", "4_2"))}, valid={})
    panels = panels_of(PRESETS["amos"], {"run": curves_of(AMOS), "other": curves_of(other)})
    expected = ["4", "4_1", "4_2", "6", "10"]
    assert [metric for metric, _, _ in panels[0].lines] == [f"mlm_loss_{depth}" for depth in expected]
    assert [metric for metric, _, _ in panels[1].lines] == [f"mixture_{depth}" for depth in expected]
    assert panels[0].lines[1] == ("mlm_loss_4_1", "--", "layer 4_1")


def test_map_nets_summary_is_of_the_last_tenth():
    found = summary_of("map_net", MAP_NET)
    assert found["loss, proposed"] == "10.500" and found["loss, uniform"] == "9.000"
    assert found["difference"] == "+1.500" and found["rank correlation"] == "0.500"
    assert found["entropy (at first)"] == "6.500 (6.950)"
    assert found["explored"] == "50.0%" and found["clipped low / high"] == "75.0% / 25.0%"
    rows = curve_rows({"run": curves_of(MAP_NET)})
    assert [row["updates"] for row in rows] == list(range(10, 101, 10))
    assert rows[0]["gap"] == "" and rows[1]["gap"] == pytest.approx(0.7)


def test_amos_summary_is_of_the_last_tenth():
    found = summary_of("amos", AMOS)
    assert found["loss by depth"] == "9.000 / 8.000 / 7.000"
    assert found["mixture weights (at first)"] == "0.65 / 0.40 / 0.15 (0.74 / 0.49 / 0.24)"
    assert (found["accuracy, all"], found["replaced"], found["original"]) == ("90.0%", "20.0%", "95.0%")
    assert found["above chance"] == "+15.0" and found["masked tokens replaced"] == "70.0%"
    assert found["area"] == "70.0%"


def test_summary_of_any_method_has_the_last_validation():
    found = summary_of("mlm", MLM)
    assert (found["updates"], found["training loss"], found["tokens/s"]) == ("100", "8.000", "155")
    assert (found["validation loss"], found["perplexity"], found["accuracy"]) == ("8.000", "256.0", "16.0%")
    assert summary_of("mlm", MLM._replace(valid={}))["perplexity"] == ""


def test_means_are_over_several_updates_of_the_last_tenth():
    values = {update: mlm_interval(update) for update in range(1, 101)}
    assert summary_of("mlm", TrainingLog(values, {}))["training loss"] == f"{9 - 95.5 / 100:.3f}"


def test_a_log_of_before_the_area_was_logged():
    train = {10: {key: value for key, value in amos_interval(20).items() if key != "disc_auc"}}
    assert summary_of("amos", TrainingLog(train=train, valid={}))["area"] == ""


def test_the_preset_is_the_first_that_all_logs_have_the_fields_for():
    curves = {name: curves_of(log) for name, log in LOGS.items()}
    for name in LOGS:
        assert find_preset({"a": curves[name], "b": curves[name]}) == name
        assert find_preset({"a": curves[name]}, "mlm") == "mlm"
    assert find_preset(curves) == "mlm"
    with pytest.raises(UserError, match=r"run b: .* give logs of --criterion map_net"):
        find_preset({"a": curves["map_net"], "b": curves["mlm"]}, "map_net")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("names", [("run",), ("plain", "flipped")])
def test_figure_of_runs(preset, names, tmp_path):
    runs = {name: curves_of(LOGS[preset]) for name in names}
    panels = panels_of(PRESETS[preset], runs)
    assert all(panel.lines for panel in panels)
    plot_panels(runs, panels, tmp_path / "new" / "curves.png", smooth=3)
    assert (tmp_path / "new" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["curves.png"]


def test_smoothing_keeps_a_straight_line():
    line = np.arange(10), 3.0 * np.arange(10)
    updates, values = _smoothed(line, 4)
    np.testing.assert_allclose(values, 3 * updates)
    assert updates[0] == 1.5 and len(updates) == 7
    assert _smoothed(line, 1) is line and _smoothed(line, 11) is line


def json_lines(log, prefix=""):
    return [
        prefix + json.dumps({"epoch": 1, **{key: str(value) for key, value in values.items()}})
        for values in log.train.values()
    ]


def simple_lines(log):
    return [
        f"epoch 001:     {update} / 100 " + ", ".join(f"{key}={value}" for key, value in values.items())
        for update, values in log.train.items()
    ]


FORMATS = {
    "json": json_lines(MAP_NET),
    "hydra": json_lines(MAP_NET, "[2026-11-21 10:00:00,000][train_inner][INFO] - "),
    "terminal": json_lines(MAP_NET, "2026-11-21 10:00:00 | INFO | train_inner | "),
    "simple": simple_lines(MAP_NET),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_values(name, tmp_path):
    path = tmp_path / "train.log"
    path.write_text("\n".join(["begin training", *FORMATS[name], "{cut", "null {}"]), encoding="utf-8")
    assert read_training_log(path, needs_validation=False).train.keys() == MAP_NET.train.keys()
    curves = curves_of(read_training_log(path, needs_validation=False))
    for key, (updates, values) in curves_of(MAP_NET).items():
        np.testing.assert_array_equal(curves[key][0], updates)
        np.testing.assert_allclose(curves[key][1], values)


def test_validations_of_the_simple_format(tmp_path):
    line = "epoch 001 | valid on 'valid' subset | loss 9.5 | ppl 724.08 | num_updates 300 | best_loss 9"
    path = tmp_path / "train.log"
    path.write_text("\n".join([*simple_lines(MAP_NET), line, "epoch 001 | loss 9.9 | num_updates 900"]))
    log = read_training_log(path)
    assert log.curve("ppl") == ([300], [724.08]) and max(log.train) == 100


@pytest.fixture
def logs(tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "train.log").write_text("\n".join(FORMATS["json"]))
    (tmp_path / "second.log").write_text("\n".join(FORMATS["simple"]))
    (tmp_path / "amos.log").write_text("\n".join(json_lines(AMOS)))
    return tmp_path


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_command(logs, capsys):
    figure, out = logs / "curves.png", logs / "curves.csv"
    runs = ["--run", f"first={logs / 'first'}", "--run", f"flipped={logs / 'second.log'}"]
    assert main(["curves", *runs, "--figure", str(figure), "--out", str(out), "--smooth", "2"]) == 0
    printed = capsys.readouterr().out
    assert "| flipped " in printed and "preset: map_net, by the logs' fields" in printed and figure.exists()
    rows = rows_of(out)
    assert len(rows) == 20 and rows[0]["gap"] == "" and {row["run"] for row in rows} == {"first", "flipped"}
    given = ["--run", f"a={logs / 'amos.log'}", "--figure", str(figure), "--out", str(out)]
    assert main(["curves", *given, "--preset", "amos"]) == 0
    printed = capsys.readouterr().out
    assert "| a " in printed and "above chance" in printed and "preset" not in printed
    rows = rows_of(out)
    assert len(rows) == 10 and rows[0]["above_chance"] == "" and float(rows[1]["mlm_loss_4"]) == 10.6


def test_bad_input_is_one_line(tmp_path, capsys):
    (tmp_path / "plain.log").write_text(json.dumps({"num_updates": "10", "wps": "1", "loss": "9"}))
    (tmp_path / "good.log").write_text("\n".join(FORMATS["json"]))
    for missing in ("mlm_loss_4", "disc_accuracy_original"):
        kept = {key: str(value) for key, value in amos_interval(20, ("4",)).items() if key != missing}
        (tmp_path / f"{missing}.log").write_text(json.dumps(kept))
    good = f"a={tmp_path / 'good.log'}"
    for preset, runs, message in (
        ("map_net", [f"a={tmp_path / 'plain.log'}"], "--criterion map_net"),
        ("amos", [f"a={tmp_path / 'mlm_loss_4.log'}"], "has no mlm_loss: give logs of --criterion amos"),
        ("amos", [f"a={tmp_path / 'disc_accuracy_original.log'}"], "give logs of --criterion amos"),
        ("map_net", [f"a={tmp_path / 'no.log'}"], "does not exist"),
        ("map_net", [str(tmp_path)], "give NAME=LOG"),
        ("map_net", [good, good], "two runs have this name"),
    ):
        given = ["--preset", preset, *(part for run in runs for part in ("--run", run))]
        assert main(["curves", *given, "--figure", str(tmp_path / "curves.png")]) == 1
        printed = capsys.readouterr().err.strip()
        assert printed.startswith("fairseq-masking curves: error: ")
        assert message in printed and "\n" not in printed
    assert not (tmp_path / "curves.png").exists()
