"""The command end to end on a corpus in fairseq's format, with a model that needs no checkpoint."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from commands import status_of
from tiny_problem import TinyMLM, rows_of

from fairseq_masking.cli import gradient_variance
from fairseq_masking.data import load_dictionary


@pytest.fixture
def data(tiny_data: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: TinyMLM) -> Path:
    hub = SimpleNamespace(model=tiny_model, dictionary=load_dictionary(tiny_data / "dict.txt"))
    monkeypatch.setattr(gradient_variance.MLMModel, "from_pretrained", lambda path, data: hub)
    return tiny_data


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Callable[..., int]:
    def run(command: str, *options: str) -> int:
        given = [command, str(data), "--path", str(tmp_path / "model.pt"), "--tokens-per-sample", "18"]
        return gradient_variance.main([*given, "--sequences", "3", *options])

    return run


def test_variance(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "variance.csv"
    options = (
        "--draws",
        "6",
        "--replicates",
        "100",
        "--mask-splits",
        "3",
        "--note",
        "a note",
        "--out",
        str(out),
    )
    assert run("variance", *options) == 0
    rows = rows_of(out)
    ratios = {row["sequence"]: float(row["estimate"]) for row in rows if row["quantity"] == "ratio"}
    assert len(ratios) == 4 and "mean of 3" in ratios
    (ratio,) = (row for row in rows if row["quantity"] == "ratio" and row["sequence"] == "mean of 3")
    assert float(ratio["low"]) < float(ratio["estimate"]) < float(ratio["high"])
    assert ratio["note"] == "a note" and "--mask-splits 3" in ratio["command"] and ratio["torch"]
    values = {row["quantity"]: float(row["estimate"]) for row in rows if row["sequence"] == "mean of 3"}
    # The ratio of the means, not the mean of the ratios.
    disjoint, independent = values["disjoint: Var of K masks"], values["independent: Var of K masks"]
    assert values["ratio"] == pytest.approx(disjoint / independent)
    assert values["rows x mask term: disjoint"] == pytest.approx(3 * disjoint)
    assert values["rows x mask term: one_mask"] == pytest.approx(values["independent: Var(g(m1))"])
    total = values["rows x mask term: disjoint"] + values["rows x sentence term: disjoint"]
    assert values["rows x total: disjoint"] == pytest.approx(total)
    assert "mean of 3" in capsys.readouterr().out
    again = tmp_path / "again.csv"
    assert run("variance", *options[:-1], str(again)) == 0
    assert [row["estimate"] for row in rows_of(again)] == [row["estimate"] for row in rows]


def test_bert_corruption_and_less_memory(run: Callable[..., int], tmp_path: Path) -> None:
    results = []
    for memory in ("2", "0.0001"):
        out = tmp_path / f"{memory}.csv"
        options = ("--draws", "4", "--replicates", "100", "--corruption", "bert", "--mask-splits", "2")
        assert run("variance", *options, "--memory", memory, "--out", str(out)) == 0
        results.append([float(row["estimate"]) for row in rows_of(out)])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-9, atol=1e-12)


def test_covariance(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, figures = tmp_path / "covariance.csv", tmp_path / "figures"
    options = ("--distances", "3", "--pairs", "5", "--reference-masks", "4")
    assert run("covariance", *options, "--names", "first", "--figures", str(figures), "--out", str(out)) == 0
    rows = rows_of(out)
    assert [row["distance"] for row in rows] == ["0", "4", "8", "independent"]
    assert {row["checkpoint"] for row in rows} == {"first"} and rows[0]["tau"] == "4"
    assert float(rows[0]["relative"]) == 1.0 and rows[0]["pairs"] == "15"
    for name in ("gradient_covariance_distributions.png", "gradient_covariance_by_distance.png"):
        assert (figures / name).read_bytes().startswith(b"\x89PNG")
    assert "Assumption 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("variance", "--mask-splits", "8"), 1, "--mask-splits 8 times --mask-prob 0.15"),
        (("variance", "--parameters", "nothing"), 1, "matches none"),
        (("variance", "--tokens-per-sample", "99"), 1, "64 positions"),
        (("variance", "--sequences", "500"), 1, "full blocks"),
        (("variance", "--memory", "0.000001"), 1, "raise it"),
        (("variance", "--split", "test"), 1, "does not exist"),
        (("variance", "--draws", "2"), 2, "--draws 2 is below 3"),
        (("covariance", "--names", "a", "b"), 2, "--names"),
    ],
)
def test_bad_input_is_one_line(
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    status: int,
    message: str,
) -> None:
    found = status_of(lambda: run(*options))
    printed = capsys.readouterr().err.strip()
    assert found == status and message in printed and "\n" not in printed
