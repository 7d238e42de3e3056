"""The verb end to end on a corpus in fairseq's format, with models that need no checkpoint."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import status_of
from omegaconf import OmegaConf
from tiny_problem import TinyMLM, rows_of
from torch import Tensor

from fairseq_masking.cli.main import main
from fairseq_masking.data import load_dictionary
from fairseq_masking.models import MLMModel

Run = Callable[..., int]


class TinyMapNet(TinyMLM):
    """Proposes: the higher a token's id, the likelier."""

    def propose(self, src_tokens: Tensor) -> Tensor:
        assert not self.training
        scores = 0.2 * src_tokens.float()
        special = (src_tokens < 4) | (src_tokens == 12)
        return scores.masked_fill(special, -torch.inf).log_softmax(1)


@pytest.fixture
def run(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: TinyMLM) -> Run:
    map_net = TinyMapNet().double()
    map_net.load_state_dict(tiny_model.state_dict())
    cfg = OmegaConf.create({"task": {"tokens_per_sample": 18}, "criterion": {}})
    small = {
        "splits": ["--draws", "6", "--replicates", "100"],
        "distances": ["--distances", "3", "--pairs", "5", "--reference-masks", "4"],
        "laws": ["--draws", "5", "--replicates", "100", "--oracle-rounds", "1", "--gradient-rounds", "1",
                 "--tokens-per-sample", "14"],
    }  # fmt: skip

    def run(of: str, *options: str, proposes: bool = False) -> int:
        model = map_net if proposes else tiny_model
        hub = SimpleNamespace(model=model, dictionary=load_dictionary(tiny_data / "dict.txt"), cfg=cfg)
        monkeypatch.setattr(MLMModel, "from_pretrained", lambda path, data: hub)
        given = ["--of", of, "--checkpoint", str(tmp_path / "model.pt"), "--data", str(tiny_data)]
        return main(["measure", "variance", *given, "--sequences", "3", *small[of], *options])

    return run


def test_splits(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, figure = tmp_path / "new" / "variance.csv", tmp_path / "figures" / "splits.png"
    options = ("--mask-splits", "3", "--note", "a note", "--figure", str(figure), "--out", str(out))
    assert run("splits", *options) == 0
    rows = rows_of(out)
    ratios = {row["sequence"]: float(row["estimate"]) for row in rows if row["quantity"] == "ratio"}
    assert len(ratios) == 4 and "mean of 3" in ratios
    (ratio,) = (row for row in rows if row["quantity"] == "ratio" and row["sequence"] == "mean of 3")
    assert float(ratio["low"]) < float(ratio["estimate"]) < float(ratio["high"])
    assert ratio["note"] == "a note" and "--mask-splits 3" in ratio["command"] and ratio["torch"]
    assert ratio["command"].startswith("fairseq-masking measure variance --of splits")
    values = {row["quantity"]: float(row["estimate"]) for row in rows if row["sequence"] == "mean of 3"}
    # The ratio of the means, not the mean of the ratios.
    disjoint, independent = values["disjoint: Var of K masks"], values["independent: Var of K masks"]
    assert values["ratio"] == pytest.approx(disjoint / independent)
    assert values["rows x mask term: disjoint"] == pytest.approx(3 * disjoint)
    assert values["rows x mask term: one_mask"] == pytest.approx(values["independent: Var(g(m1))"])
    total = values["rows x mask term: disjoint"] + values["rows x sentence term: disjoint"]
    assert values["rows x total: disjoint"] == pytest.approx(total)
    assert "mean of 3" in capsys.readouterr().out
    assert figure.read_bytes().startswith(b"\x89PNG")
    again = tmp_path / "again.csv"
    assert run("splits", *options[:-1], str(again)) == 0
    assert [row["estimate"] for row in rows_of(again)] == [row["estimate"] for row in rows]


def test_bert_corruption_and_less_memory(run: Run, tmp_path: Path) -> None:
    results = []
    for memory in ("2", "0.0001"):
        out = tmp_path / f"{memory}.csv"
        options = ("--corruption", "bert", "--mask-splits", "2", "--draws", "4")
        assert run("splits", *options, "--memory", memory, "--out", str(out)) == 0
        results.append([float(row["estimate"]) for row in rows_of(out)])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-9, atol=1e-12)


def test_distances(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, figure = tmp_path / "covariance.csv", tmp_path / "figures" / "covariance.png"
    assert run("distances", "--names", "first", "--figure", str(figure), "--out", str(out)) == 0
    rows = rows_of(out)
    assert [row["distance"] for row in rows] == ["0", "4", "8", "independent"]
    assert {row["checkpoint"] for row in rows} == {"first"} and rows[0]["tau"] == "4"
    assert float(rows[0]["relative"]) == 1.0 and rows[0]["pairs"] == "15"
    assert {(row["quantity"], row["equation"]) for row in rows} == {("covariance", "Eq. 8")}
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "Assumption 1" in capsys.readouterr().out


def test_all_laws_of_a_map_net(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, figure = tmp_path / "new" / "laws.csv", tmp_path / "figures" / "laws.png"
    options = ("--num-masks", "3", "1", "--note", "a note", "--figure", str(figure))
    assert run("laws", *options, "--out", str(out), proposes=True) == 0
    rows = rows_of(out)
    assert {row["law"] for row in rows} == {"uniform", "proposal", "loss oracle", "gradient oracle", "any"}
    assert {row["num_masked"] for row in rows} == {"1", "3"}
    assert rows[0]["note"] == "a note" and "--num-masks 3 1" in rows[0]["command"]
    values = {
        (row["num_masked"], row["law"], row["weight"]): float(row["estimate"])
        for row in rows
        if row["quantity"] == "mask variance" and row["sequence"] == "mean of 3"
    }
    # Of one position there is one order: both exact weights are the same.
    for law in ("proposal", "loss oracle", "gradient oracle"):
        assert values["1", law, "set"] == pytest.approx(values["1", law, "ordered"], rel=1e-6)
    assert values["3", "proposal", "set"] != pytest.approx(values["3", "proposal", "ordered"], rel=1e-6)
    assert figure.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "no proposal" not in printed and printed.count("any law (Thm. 2)") == 2
    assert "rank corr. with loss oracle" in printed
    again = tmp_path / "again.csv"
    assert run("laws", *options, "--out", str(again), proposes=True) == 0
    assert [row["estimate"] for row in rows_of(again)] == [row["estimate"] for row in rows]


def test_a_checkpoint_without_proposal_says_so(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "laws.csv"
    options = ("--gradient-rounds", "0", "--corruption", "bert", "--mask-prob", "0.3", "--out", str(out))
    assert run("laws", *options) == 0
    assert "has no proposal network: uniform masks and oracles only" in capsys.readouterr().out
    assert {row["law"] for row in rows_of(out)} == {"uniform", "loss oracle", "any"}
    assert {row["num_masked"] for row in rows_of(out)} == {"4"}  # 0.3 of 12


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("splits", "--mask-splits", "8"), 1, "--mask-splits 8 times --mask-prob 0.15"),
        (("splits", "--parameters", "nothing"), 1, "matches none"),
        (("splits", "--tokens-per-sample", "99"), 1, "64 positions"),
        (("splits", "--sequences", "500"), 1, "full blocks"),
        (("splits", "--memory", "0.000001"), 1, "raise it"),
        (("splits", "--split", "test"), 1, "does not exist"),
        (("splits", "--draws", "2"), 2, "--draws: 2 is below 3"),
        (("splits", "--pairs", "7"), 2, "--pairs belongs to distances: 64, not to --of splits"),
        (("splits", "--checkpoint", "a.pt", "b.pt"), 2, "--checkpoint takes one"),
        (("distances", "--names", "a", "b"), 2, "--names"),
        (("laws", "--tokens-per-sample", "99"), 1, "64 positions"),
        (("laws", "--sequences", "500"), 1, "full blocks"),
        (("laws", "--num-masks", "13"), 1, "full blocks"),
        (("laws", "--parameters", "nothing"), 1, "matches none"),
        (("laws", "--memory", "0.000001"), 1, "raise it"),
        (("laws", "--split", "test"), 1, "does not exist"),
        (("laws", "--mask-prob", "2"), 1, "--mask-prob 2.0"),
        (("laws", "--draws", "2"), 2, "--draws: 2 is below 3"),
        (("laws", "--num-masks", "0"), 2, "--num-masks: 0 is below 1"),
        (("laws", "--importance-clip", "-1"), 2, "--importance-clip: -1.0 is below 0"),
    ],
)
def test_bad_input_is_one_line(
    run: Run, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], status: int, message: str
) -> None:
    found = status_of(lambda: run(*options))
    printed = capsys.readouterr().err.strip()
    assert found == status and message in printed and "\n" not in printed
    assert printed.startswith("fairseq-masking measure variance: error: ")


def test_a_missing_checkpoint_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--checkpoint", str(tmp_path / "no.pt"), "--data", str(tmp_path)]
    assert main(["measure", "variance", *options]) == 1
    assert "no such checkpoint" in capsys.readouterr().err
