"""AMOS's commands on a checkpoint that fairseq-train wrote, as a user runs them."""

import csv

import pytest
from commands import assert_ok, prepare_sentences, status_of

from fairseq_masking.cli.main import main

TEXT = "The old dog sat on a hat."


@pytest.fixture(scope="module")
def trained(tmp_path_factory, run_train):
    folder = tmp_path_factory.mktemp("amos_commands")
    data = prepare_sentences(folder, "--valid", folder / "text")
    (folder / "amos").mkdir()
    options = ["--arch", "amos_tiny", "--criterion", "amos", "--max-positions", "64", "--max-update", "3"]
    options += ["--log-format", "json", "--log-file", folder / "amos" / "train.log"]
    options += ["--leave-unmasked-prob", "0", "--random-token-prob", "0"]
    finished = run_train(data, folder / "amos", *options)
    assert_ok(finished)
    return folder


@pytest.fixture
def show(trained):
    def show(*options):
        checkpoint = trained / "amos" / "checkpoint_last.pt"
        return main(["show", "replacements", "--checkpoint", str(checkpoint), *map(str, options)])

    return show


def measuring(trained, verb, *options):
    checkpoint = trained / "amos" / "checkpoint_last.pt"
    given = ["--checkpoint", checkpoint, "--data", trained / "data", "--batch-size", "4", *options]
    return main(["measure", verb, *map(str, given)])


def rows_of(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_replacements_in_the_terminal(show, capsys):
    assert show("--text", TEXT, "--num-masks", "3", "--width", "60") == 0
    printed = capsys.readouterr().out
    assert "\033" not in printed, "standard output is no terminal"
    text, table, *_ = printed.split("\n\n")
    assert text.count("](") == 3 and len(table.splitlines()) == 2 + 3 * 4
    assert "[masked](layer 1/layer 2/layer 3/mixture)" in printed and "3 tokens masked in 1 block" in printed
    assert show("--text", TEXT, "--num-masks", "3", "--width", "60") == 0
    assert capsys.readouterr().out == printed
    assert show("--text", "The <mask> dog sat.", "--top", "2", "--put", "likeliest") == 0
    assert "[<mask>](" in capsys.readouterr().out


def test_replacements_as_a_page(show, capsys, tmp_path):
    page = tmp_path / "new" / "page.html"
    assert show("--text", TEXT, "--text", TEXT, "--out", page) == 0
    printed = capsys.readouterr().out
    assert "in 2 blocks" in printed and f"page: {page}" in printed and "| masked" not in printed
    html = page.read_text(encoding="utf-8")
    assert html.count("<section>") == 2 and "<script" not in html
    assert [entry.name for entry in page.parent.iterdir()] == ["page.html"]


def test_replacement_losses(trained, capsys, tmp_path):
    out, figure = tmp_path / "a.csv", tmp_path / "a.png"
    options = ["--batches", "2", "--bins", "10", "--out", out, "--figure", figure]
    assert measuring(trained, "replacements", *options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["layer 1", "layer 2", "layer 3", "mixture"]
    rows = rows_of(out)
    assert len(rows) == 4 * 10 and rows[0]["checkpoint_sha256"] and rows[0]["from"] == "0"
    replaced = sum(int(row["count"]) for row in rows if row["source"] == "layer 1")
    masked = int(lines[2].split("|")[2].replace(",", ""))
    assert f"{replaced / masked:.1%}" == lines[2].split("|")[3].strip()
    assert figure.read_bytes().startswith(b"\x89PNG")
    both = [figure.parent / name / "last.pt" for name in ("four", "six")]
    for place in both:
        place.parent.mkdir()
        place.symlink_to(trained / "amos" / "checkpoint_last.pt")
    assert measuring(trained, "replacements", *options, "--checkpoint", *both) == 0
    again = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in again[2:]] == [
        f"{name}/last {line.split('|')[1].strip()}" for name in ("four", "six") for line in lines[2:]
    ]
    assert [line.split("|")[2:] for line in again[2:6]] == [line.split("|")[2:] for line in again[6:]]


def test_adversary(trained, capsys, tmp_path):
    out = tmp_path / "a.csv"
    options = ["--steps", "2", "--every", "1", "--held-out", "2", "--out", out]
    assert measuring(trained, "adversary", *options) == 0
    rows = rows_of(out)
    assert [(row["scale"], row["step"]) for row in rows] == [(scale, step) for scale in ("-1", "1") for step in "012"]
    assert float(rows[0]["difference"]) == float(rows[3]["difference"]) == 0
    assert rows[0]["disc_loss"] == rows[3]["disc_loss"], "both signs start from the checkpoint"
    weights = [sum(float(row[f"mixture_{depth}"]) for depth in "123") for row in rows]
    assert weights == pytest.approx([1.0] * 6)
    assert "reversed (AMOS)" in capsys.readouterr().out


def test_curves_and_table_of_a_real_log(trained, capsys, tmp_path):
    figure = tmp_path / "curves.png"
    assert main(["curves", "--run", f"amos={trained / 'amos'}", "--figure", str(figure)]) == 0
    assert "above chance" in capsys.readouterr().out and figure.exists()
    out = tmp_path / "table.csv"
    assert main(["table", str(trained / "amos"), "--out", str(out)]) == 0
    (row,) = rows_of(out)
    assert (row["mixture"], row["generator"], row["separate"]) == ("adversarial", "1,2,3", "")
    assert row["no stop-grad"] == "False" and float(row["scale"]) == -1
    by_depth = [row[f"{name} by depth"].split(" / ") for name in ("mlm_loss", "mixture")]
    assert [[len(value.partition(".")[2]) for value in values] for values in by_depth] == [[3, 3, 3]] * 2
    assert 0 <= float(row["disc_accuracy_replaced"]) <= 100 and 0 < float(row["disc_auc"]) < 100


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--text", " "], 1, "no words to mask"),
        (["--text", "a", "--mask-prob", "1.5"], 1, "--mask-prob 1.5"),
        (["--text", "a", "--tokens-per-sample", "65"], 1, "64 positions"),
        (["--text", "a", "--top", "0"], 2, "--top: 0 is below 1"),
        (["--text", "a", "--lines", "2"], 2, "--lines belongs to --file"),
        (["--text", "a", "--put", "best"], 2, "--put"),
    ],
)
def test_bad_input_is_one_line(show, capsys, options, status, message):
    found = status_of(lambda: show(*options))
    printed = capsys.readouterr().err.strip()
    assert (found, printed.count("\n")) == (status, 0) and message in printed


@pytest.mark.parametrize(
    ("verb", "options", "status", "message"),
    [
        ("adversary", ["--held-out", "1"], 2, "--held-out: 1 is below 2"),
        ("adversary", ["--batch-size", "4000"], 1, "lower it"),
        ("adversary", ["--held-out-split", "absent"], 1, "absent"),
        ("replacements", ["--bins", "0"], 2, "--bins: 0 is below 1"),
        ("replacements", ["--mask-prob", "0"], 1, "--mask-prob 0"),
    ],
)
def test_bad_measurements_are_one_line(trained, capsys, verb, options, status, message):
    found = status_of(lambda: measuring(trained, verb, *options))
    printed = capsys.readouterr().err.strip()
    assert (found, printed.count("\n")) == (status, 0) and message in printed
