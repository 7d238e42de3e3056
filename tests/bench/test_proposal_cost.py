"""The cost benchmark of the proposal network runs through on a toy, and its rows belong together."""

import csv
import sys

import pytest
import torch
from commands import ROOT, write_corpus

BENCH = ROOT / "scripts/bench"


def test_proposal_cost(tmp_path, monkeypatch):
    write_corpus(tmp_path, {"train": 100, "valid": 20})
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.setattr(sys, "argv", sys.argv[:1])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    import proposal_cost

    out = tmp_path / "cost.csv"
    options = ["--data", str(tmp_path), "--tokens", "16", "--rows", "4", "--steps", "2", "--turns", "2"]
    proposal_cost.main([*options, "--out", str(out)])
    with out.open() as file:
        rows = {row["system"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["mlm", *proposal_cost.MAP_NETS, proposal_cost.SCHEDULE]
    share = rows["map_net, always run"]["flops_over_mlm"]
    assert rows["map_net, proposing update"]["flops_over_mlm"] == share
    assert rows["mlm"]["flops_over_mlm"] == rows["map_net, exploring update"]["flops_over_mlm"] == "+0.0%"
    schedule = rows[proposal_cost.SCHEDULE]
    assert float(schedule["flops_over_mlm"][:-1]) == pytest.approx(0.335 * float(share[:-1]), abs=0.06)
    exploring, proposing = (float(rows[f"map_net, {kind} update"]["step_ms"]) for kind in ("exploring", "proposing"))
    assert float(schedule["step_ms"]) == pytest.approx(0.665 * exploring + 0.335 * proposing, rel=1e-3)
    assert all(row["device"] and row["torch"] for row in rows.values())
