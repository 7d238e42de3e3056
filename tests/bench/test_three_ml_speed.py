"""The speed benchmark of 3ML runs through on a toy; computed ratios are the FLOPs'."""

import csv
import sys

import pytest
import torch
from commands import ROOT, write_corpus

from fairseq_masking.methods.three_ml.flops import ThreeMLShape, exact_counts, speedup


def test_three_ml_speed(tmp_path, monkeypatch, capsys):
    write_corpus(tmp_path, {"train": 100, "valid": 20})
    monkeypatch.syspath_prepend(str(ROOT / "scripts/bench"))
    monkeypatch.setattr(sys, "argv", sys.argv[:1])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    import three_ml_speed

    out = tmp_path / "speed.csv"
    options = ["--data", str(tmp_path), "--arch", "tiny", "--tokens", "16", "--rows", "4", "--steps", "2"]
    status = three_ml_speed.main([*options, "--turns", "2", "--mask-prob", "0.5", "--out", str(out)])
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["mask_prob"]) for row in rows] == [
        ("mlm", "0.15"), ("mlm", "0.5"), ("three_ml self", "0.5"), ("three_ml cross", "0.5")
    ]  # fmt: skip
    assert float(rows[0]["speedup_measured"]) == float(rows[0]["speedup_computed"]) == 1.0
    for row, attention in zip(rows[2:], ("self", "cross"), strict=True):
        shape = ThreeMLShape(attention, 2, 128, 2, 64, int(row["vocabulary"]))
        computed = speedup(shape, exact_counts(16, 0.5), exact_counts(16, 0.15))
        assert float(row["speedup_computed"]) == pytest.approx(computed, abs=1e-4)
        assert float(row["encoder_tokens"]) == 16 - 6
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    short = [row for row in rows[2:] if row["share_of_gain"] and float(row["share_of_gain"]) < 0.9]
    assert status == (1 if short else 0)
    assert "computed" in capsys.readouterr().out
