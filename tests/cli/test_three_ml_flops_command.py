"""The command three_ml_flops: its table, its file, its errors."""

import csv

import pytest

from fairseq_masking.cli.three_ml_flops import main


def test_the_papers_figures_are_in_the_table(capsys, tmp_path):
    out = tmp_path / "flops.csv"
    assert main(["--out", str(out)]) == 0
    table = capsys.readouterr().out
    for figure in ("1.220", "1.280", "1.255", "349 of 512", "|V| = 50,265"):
        assert figure in table
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    assert [(row["decoder_attention"], row["mask_prob"]) for row in rows] == [
        ("self", "0.4"), ("self", "0.5"), ("cross", "0.4"), ("cross", "0.5")
    ]  # fmt: skip
    assert float(rows[2]["updates_at_equal_cost"]) == pytest.approx(157_000, rel=2e-3)
    assert rows[0]["command"].startswith("three_ml_flops --out") and rows[0]["torch"]


def test_the_ablations_shapes(capsys):
    options = [
        "--size",
        "large",
        "--tokens-per-sample",
        "128",
        "--mask-prob",
        "0.4",
        "--decoder-attention",
        "self",
    ]
    assert main([*options, "--decoder-layers", "1", "8", "--decoder-embed-dim", "256", "1024"]) == 0
    table = capsys.readouterr().out
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| self")]
    assert rows == ["self, 1 x 256", "self, 1 x 1024", "self, 8 x 256", "self, 8 x 1024"]
    saved = [float(line.split("|")[7].strip().rstrip("%")) for line in table.splitlines() if "| self" in line]
    assert saved[0] == max(saved) and saved[3] == min(saved)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mask-prob", "1.4"], "--mask-prob 1.4"),
        (["--decoder-layers", "0"], "--decoder-layers 0: at least 1"),
        (["--leave-unmasked-prob", "0.9", "--random-token-prob", "0.2"], "exceed 1 together"),
        (["--out", "/proc/nowhere/flops.csv"], "/proc/nowhere"),
    ],
    ids=str,
)
def test_errors_are_one_line(options, message, capsys):
    assert main(options) == 1
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
