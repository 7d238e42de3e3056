"""measure flops: its tables, its file, its errors."""

import csv

import pytest
from commands import status_of

from fairseq_masking.cli import main as command


def main(options):
    return command.main(["measure", "flops", *options])


def test_the_papers_figures_are_in_the_table(capsys, tmp_path):
    out = tmp_path / "flops.csv"
    assert main(["--out", str(out)]) == 0
    table = capsys.readouterr().out
    for figure in ("1.220", "1.280", "1.255", "349 of 512", "|V| = 50,265"):
        assert figure in table
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    assert [(row["decoder_attention"], row["mask_prob"]) for row in rows[:4]] == [
        ("self", "0.4"), ("self", "0.5"), ("cross", "0.4"), ("cross", "0.5")
    ]  # fmt: skip
    assert float(rows[2]["updates_at_equal_cost"]) == pytest.approx(157_000, rel=2e-3)
    assert rows[0]["command"].startswith("fairseq-masking measure flops --out") and rows[0]["torch"]


def test_what_map_net_and_amos_add(capsys, tmp_path):
    """The figures of their specs: 26.7% and a third of it, 1.76."""
    out = tmp_path / "flops.csv"
    assert main(["--vocab-size", "32768", "--out", str(out)]) == 0
    rows = list(csv.DictReader(out.open(encoding="utf-8")))[4:]
    over = [float(row["flops"]) / float(row["baseline_flops"]) for row in rows]
    assert [f"{value:.3f}" for value in over] == ["1.267", "1.089", "1.758"]
    assert [row["method"].partition(",")[0] for row in rows] == ["map_net", "map_net", "amos"]
    assert "amos, generator layers 4, 6, 8" in capsys.readouterr().out


def test_a_modern_encoder_counts_its_gated_layers(tmp_path):
    """22 layers of 512 tokens: 8 T D^2 for attention's projections, 4 T^2 D, 6 T D F; the head on 77 of them."""
    out = tmp_path / "flops.csv"
    assert main(["--size", "modern_base", "--vocab-size", "50368", "--out", str(out)]) == 0
    layer = 8 * 512 * 768**2 + 4 * 512**2 * 768 + 6 * 512 * 768 * 1152
    forward = 22 * layer + 2 * 77 * (768**2 + 768 * 50368)
    for row in csv.DictReader(out.open(encoding="utf-8")):
        assert float(row["baseline_flops"]) == pytest.approx(2 * forward, rel=1e-6)  # rounded in the file


def test_the_ablations_shapes(capsys):
    options = ["--size", "large", "--tokens-per-sample", "128", "--mask-prob", "0.4"]
    options += ["--decoder-attention", "self"]
    assert main([*options, "--decoder-layers", "1", "8", "--decoder-embed-dim", "256", "1024"]) == 0
    table = capsys.readouterr().out
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| self")]
    assert rows == ["self, 1 x 256", "self, 1 x 1024", "self, 8 x 256", "self, 8 x 1024"]
    saved = [float(line.split("|")[7].strip().rstrip("%")) for line in table.splitlines() if "| self" in line]
    assert saved[0] == max(saved) and saved[3] == min(saved)


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--mask-prob", "1.4"], 1, "--mask-prob 1.4"),
        (["--decoder-layers", "0"], 2, "--decoder-layers: 0 is below 1"),
        (["--leave-unmasked-prob", "0.9", "--random-token-prob", "0.2"], 1, "exceed 1 together"),
        (["--out", "/proc/nowhere/flops.csv"], 1, "/proc/nowhere"),
    ],
    ids=str,
)
def test_errors_are_one_line(options, status, message, capsys):
    assert status_of(lambda: main(options)) == status
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
