"""Distributions of losses, figures of curves, and the table."""

import numpy as np
import pytest

from fairseq_masking.figures.figure import density, histogram_rows, plot_distributions
from fairseq_masking.figures.tables import format_table


def test_histograms_are_densities_of_all_losses():
    rng = np.random.default_rng(0)
    losses = {"a": rng.exponential(1.0, 4000), "b": rng.exponential(2.0, 3000)}
    rows = histogram_rows(losses, 25)
    assert len(rows) == 50 and {row["to"] for row in rows[:25]} == {row["to"] for row in rows[25:]}
    for name, values in losses.items():
        own = [row for row in rows if row["source"] == name]
        assert sum(row["count"] for row in own) == len(values), "the last bin is open"
        assert sum(row["density"] * (row["to"] - row["from"]) for row in own) == pytest.approx(1.0)
        inside = [row for row in own if 0.2 < row["from"] < 2.0]
        scale = 1.0 if name == "a" else 2.0
        for row in inside:
            middle = (row["from"] + row["to"]) / 2
            assert row["density"] == pytest.approx(np.exp(-middle / scale) / scale, abs=0.06)


def test_densities_integrate_to_one_from_0_on():
    values = np.random.default_rng(1).exponential(1.0, 20_000)
    points = np.linspace(0, 15, 1501)
    found = density(values, points)
    assert np.trapezoid(found, points) == pytest.approx(1.0, abs=0.01)
    np.testing.assert_allclose(
        found[(points > 0.5) & (points < 3)], np.exp(-points[(points > 0.5) & (points < 3)]), atol=0.05
    )
    assert np.isfinite(density(np.full(5, 0.3), points)).all(), "losses that are all the same"


def test_figure(tmp_path):
    losses = {"a": np.array([0.1, 0.5, 2.0]), "b": np.array([1.0])}
    plot_distributions(losses, tmp_path / "a.png", num_bins=5, title="")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_table_is_padded_markdown():
    assert format_table(["name", "n"], [["a", "1"], ["long name", "23"]]) == (
        "| name      |  n |\n| --------- | -: |\n| a         |  1 |\n| long name | 23 |"
    )
