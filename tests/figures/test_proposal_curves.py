"""Curves of MAP-Net's proposal network, from logs in the formats that fairseq-train writes."""

import csv
import json

import numpy as np
import pytest

from fairseq_masking.cli.proposal_curves import main
from fairseq_masking.figures.panels import _smoothed, curve_rows, plot_panels
from fairseq_masking.figures.proposal_curves import PANELS, proposal_curves, summary_cells
from fairseq_masking.figures.training_log import TrainingLog, read_training_log


def interval(update: int) -> dict[str, float]:
    values = {"num_updates": update, "wps": 100.0, "loss_uniform": 10.0 - update / 100}
    values |= {"proposal_entropy": 7.0 - update / 200, "share_proposed": update / 200}
    values |= {"rank_correlation_uniform": 0.5, "rank_correlation": 0.25}
    if update > 10:  # no sentence was proposed before
        values |= {"loss_proposed": 10.5, "clipped_low": 0.75, "clipped_high": 0.25, "importance_weight": 0.9}
    return values


LOG = TrainingLog(train={update: interval(update) for update in range(10, 101, 10)}, valid={})


def test_curves_have_the_difference_and_what_explores():
    curves = proposal_curves("run", LOG)
    updates, gaps = curves["gap"]
    assert updates.tolist() == list(range(20, 101, 10))
    np.testing.assert_allclose(gaps, 0.5 + updates / 100)
    np.testing.assert_allclose(curves["explored"][1], 1 - np.arange(10, 101, 10) / 200)


def test_summary_is_of_the_last_tenth():
    runs = {"run": proposal_curves("run", LOG)}
    header, (line,) = summary_cells(runs)
    found = dict(zip(header, line, strict=True))
    assert found["loss, proposed"] == "10.500" and found["loss, uniform"] == "9.000"
    assert found["difference"] == "+1.500" and found["rank correlation"] == "0.500"
    assert found["entropy (at first)"] == "6.500 (6.950)"
    assert found["explored"] == "50.0%" and found["clipped low / high"] == "75.0% / 25.0%"
    rows = curve_rows(runs)
    assert [row["updates"] for row in rows] == list(range(10, 101, 10))
    assert rows[0]["gap"] == "" and rows[1]["gap"] == pytest.approx(0.7)


def test_figure_of_several_runs(tmp_path):
    runs = {name: proposal_curves(name, LOG) for name in ("plain", "flipped")}
    plot_panels(runs, PANELS, tmp_path / "new" / "curves.png", smooth=3)
    assert (tmp_path / "new" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["curves.png"]


def test_smoothing_keeps_a_straight_line():
    line = np.arange(10), 3.0 * np.arange(10)
    updates, values = _smoothed(line, 4)
    np.testing.assert_allclose(values, 3 * updates)
    assert updates[0] == 1.5 and len(updates) == 7
    assert _smoothed(line, 1) is line and _smoothed(line, 11) is line


def json_lines(prefix: str = "") -> list[str]:
    return [
        prefix + json.dumps({"epoch": 1, **{key: str(value) for key, value in values.items()}})
        for values in LOG.train.values()
    ]


def simple_lines() -> list[str]:
    return [
        f"epoch 001:     {update} / 100 " + ", ".join(f"{key}={value}" for key, value in values.items())
        for update, values in LOG.train.items()
    ]


FORMATS = {
    "json": json_lines(),
    "hydra": json_lines("[2026-11-21 10:00:00,000][train_inner][INFO] - "),
    "terminal": json_lines("2026-11-21 10:00:00 | INFO | train_inner | "),
    "simple": simple_lines(),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_values(name, tmp_path):
    path = tmp_path / "train.log"
    path.write_text("\n".join(["begin training", *FORMATS[name], "{cut", "null {}"]), encoding="utf-8")
    assert read_training_log(path, needs_validation=False).train.keys() == LOG.train.keys()
    curves = proposal_curves("run", read_training_log(path, needs_validation=False))
    for key, (updates, values) in proposal_curves("run", LOG).items():
        np.testing.assert_array_equal(curves[key][0], updates)
        np.testing.assert_allclose(curves[key][1], values)


def test_validations_of_the_simple_format(tmp_path):
    line = "epoch 001 | valid on 'valid' subset | loss 9.5 | ppl 724.08 | num_updates 300 | best_loss 9"
    path = tmp_path / "train.log"
    path.write_text("\n".join([*simple_lines(), line, "epoch 001 | loss 9.9 | num_updates 900"]))
    log = read_training_log(path)
    assert log.curve("ppl") == ([300], [724.08]) and max(log.train) == 100


def test_the_command(tmp_path, capsys):
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "train.log").write_text("\n".join(FORMATS["json"]))
    (tmp_path / "second.log").write_text("\n".join(FORMATS["simple"]))
    figure, out = tmp_path / "curves.png", tmp_path / "curves.csv"
    runs = ["--run", f"first={tmp_path / 'first'}", "--run", f"flipped={tmp_path / 'second.log'}"]
    assert main([*runs, "--figure", str(figure), "--out", str(out), "--smooth", "2"]) == 0
    assert "| flipped " in capsys.readouterr().out and figure.exists()
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20 and rows[0]["gap"] == "" and {row["run"] for row in rows} == {"first", "flipped"}


def test_bad_input_is_one_line(tmp_path, capsys):
    (tmp_path / "plain.log").write_text(json.dumps({"num_updates": "10", "wps": "1", "loss": "9"}))
    (tmp_path / "good.log").write_text("\n".join(FORMATS["json"]))
    good = f"a={tmp_path / 'good.log'}"
    for runs, message in (
        ([f"a={tmp_path / 'plain.log'}"], "--criterion map_net"),
        ([f"a={tmp_path / 'no.log'}"], "does not exist"),
        ([str(tmp_path)], "give NAME=LOG"),
        ([good, good], "two runs have this name"),
    ):
        given = [part for run in runs for part in ("--run", run)]
        assert main([*given, "--figure", str(tmp_path / "curves.png")]) == 1
        printed = capsys.readouterr().err.strip()
        assert message in printed and "\n" not in printed
    assert not (tmp_path / "curves.png").exists()
