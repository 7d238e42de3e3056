"""proposal_variance end to end on a corpus in fairseq's format, with models that need no checkpoint."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import status_of
from tiny_problem import TinyMLM, rows_of
from torch import Tensor

from fairseq_masking.cli import proposal_variance
from fairseq_masking.data import load_dictionary


class TinyMapNet(TinyMLM):
    """Proposes: the higher a token's id, the likelier."""

    def propose(self, src_tokens: Tensor) -> Tensor:
        assert not self.training
        scores = 0.2 * src_tokens.float()
        special = (src_tokens < 4) | (src_tokens == 12)
        return scores.masked_fill(special, -torch.inf).log_softmax(1)


@pytest.fixture
def run(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: TinyMLM
) -> Callable[..., int]:
    map_net = TinyMapNet().double()
    map_net.load_state_dict(tiny_model.state_dict())
    cfg = SimpleNamespace(task=SimpleNamespace(tokens_per_sample=14), criterion=SimpleNamespace())

    def run(*options: str, proposes: bool = True) -> int:
        hub = SimpleNamespace(
            model=map_net if proposes else tiny_model,
            dictionary=load_dictionary(tiny_data / "dict.txt"),
            cfg=cfg,
        )
        monkeypatch.setattr(proposal_variance.MLMModel, "from_pretrained", lambda path, data: hub)
        given = ["--checkpoint", str(tmp_path / "model.pt"), "--data", str(tiny_data)]
        small = ["--sequences", "3", "--draws", "5", "--replicates", "100", "--oracle-rounds", "1"]
        return proposal_variance.main([*given, *small, "--gradient-rounds", "1", *options])

    return run


def test_all_laws_of_a_map_net(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, figure = tmp_path / "new" / "laws.csv", tmp_path / "figures" / "laws.png"
    options = ("--num-masks", "3", "1", "--note", "a note", "--figure", str(figure))
    assert run(*options, "--out", str(out)) == 0
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
    assert run(*options, "--out", str(again)) == 0
    assert [row["estimate"] for row in rows_of(again)] == [row["estimate"] for row in rows]


def test_a_checkpoint_without_proposal_says_so(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "laws.csv"
    options = ("--gradient-rounds", "0", "--corruption", "bert", "--mask-prob", "0.3", "--out", str(out))
    assert run(*options, proposes=False) == 0
    assert "has no proposal network: uniform masks and oracles only" in capsys.readouterr().out
    assert {row["law"] for row in rows_of(out)} == {"uniform", "loss oracle", "any"}
    assert {row["num_masked"] for row in rows_of(out)} == {"4"}  # 0.3 of 12


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--tokens-per-sample", "99"), 1, "64 positions"),
        (("--sequences", "500"), 1, "full blocks"),
        (("--num-masks", "13"), 1, "full blocks"),
        (("--parameters", "nothing"), 1, "matches none"),
        (("--memory", "0.000001"), 1, "raise it"),
        (("--split", "test"), 1, "does not exist"),
        (("--mask-prob", "2"), 1, "--mask-prob 2.0"),
        (("--draws", "2"), 2, "--draws 2 is below 3"),
        (("--num-masks", "0"), 2, "--num-masks 0 is below 1"),
        (("--importance-clip", "-1"), 2, "--importance-clip -1.0 is below 0"),
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


def test_a_missing_checkpoint_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert proposal_variance.main(["--checkpoint", str(tmp_path / "no.pt"), "--data", str(tmp_path)]) == 1
    assert "no such checkpoint" in capsys.readouterr().err
