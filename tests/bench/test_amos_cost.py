"""The cost benchmark of AMOS runs through on a toy, and its ratios are those of its rows and FLOPs."""

import csv
import sys

import pytest
import torch
from commands import ROOT, write_corpus

from fairseq_masking.measure.flops import EncoderShape, amos_flops, encoder_flops


@pytest.fixture
def amos_cost(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts/bench"))
    monkeypatch.setattr(sys, "argv", sys.argv[:1])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    import amos_cost

    return amos_cost


def test_amos_cost(tmp_path, amos_cost, capsys):
    write_corpus(tmp_path, {"train": 100, "valid": 20})
    out = tmp_path / "cost.csv"
    options = ["--data", str(tmp_path), "--tokens", "16", "--rows", "4", "--steps", "2", "--turns", "2"]
    amos_cost.main([*options, "--no-memory", "--out", str(out)])
    with out.open() as file:
        rows = list(csv.DictReader(file))
    heads = {"mlm": (), "mlm, no relative positions": ()}
    heads |= {"amos, heads at 1,2,3": (1, 2, 3), "amos, heads at 1": (1,), "amos, heads at 3": (3,)}
    assert [row["system"] for row in rows] == list(heads)
    shape, sizes = EncoderShape(2, 128, 512, int(rows[0]["vocabulary"])), {"num_tokens": 16, "num_masked": 2}
    for row in rows:
        assert row["device"] and row["torch"] and row["commit"]
        depths, plain = heads[row["system"]], encoder_flops(shape, **sizes)
        expected = amos_flops(shape, depths, **sizes) / plain if depths else 1.0
        assert float(row["flops_over_mlm"]) == pytest.approx(expected, abs=6e-4)
        measured = float(row["step_ms"]) / float(rows[0]["step_ms"])
        assert float(row["time_over_mlm"]) == pytest.approx(measured, abs=2e-3)
        gflop = float(row["gflop_per_step"]) / float(rows[0]["gflop_per_step"])
        assert gflop == pytest.approx(expected, rel=0.05)  # rounded to 1 MFLOP
    assert "FLOPs over mlm" in capsys.readouterr().out


def test_a_contender_trains_what_its_name_says(amos_cost):
    args = amos_cost.arguments(["--arch", "base", "--variants", "eager"])
    assert amos_cost.contenders("base")["amos, heads at 4,6,8"] == (4, 6, 8)
    base, variants, own = amos_cost.system_of(args, "mlm").split("+")
    assert (base, variants) == ("fairseq_masking", "eager")
    assert amos_cost.VARIANTS[own] == ("--relative-position", "t5")
    system = amos_cost.system_of(args, "amos, heads at 4")
    options = amos_cost.VARIANTS[system.split("+")[-1]]
    assert options[options.index("--generator-layers") + 1] == "4" and "amos_base" in options
