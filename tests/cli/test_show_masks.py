"""``show masks`` and ``measure variance`` on checkpoints that fairseq-train wrote, as a user runs them."""

import csv
import io
import sys

import pytest
from commands import assert_ok, prepare_sentences, status_of

from fairseq_masking.cli.main import main
from fairseq_masking.measure.show.render import terminal

TEXT = "The old dog sat on a hat."


@pytest.fixture(scope="module")
def runs(tmp_path_factory, run_train):
    folder = tmp_path_factory.mktemp("show_masks")
    data = prepare_sentences(folder)
    for method in ("map_net", "mlm"):
        given = ["--arch", f"{method}_tiny", "--criterion", method, "--max-positions", "64", "--max-update", "1"]
        finished = run_train(data, folder / method, *given, "--disable-validation")
        assert_ok(finished)
    return folder


@pytest.fixture
def show(runs, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)

    def show(method, *options):
        checkpoint = runs / method / "checkpoint_last.pt"
        return main(["show", "masks", "--checkpoint", str(checkpoint), *map(str, options)])

    return show


def test_a_proposal_in_the_terminal(show, capsys):
    assert show("map_net", "--text", TEXT, "--num-masks", "3", "--width", "40", "--losses") == 0
    printed = capsys.readouterr().out
    assert "\033" not in printed, "standard output is no terminal"
    text = printed.split("\n\n")[0]
    assert text.count("[") == 3
    assert all(len(line) <= 40 for line in text.splitlines())
    letters = "".join(line for line in text.splitlines()[::2]).translate(str.maketrans("", "", "[]· "))
    assert letters == "theolddogsatonahat."
    assert "proposal: 3 of" in printed and "rank correlation" in printed
    assert show("map_net", "--text", TEXT, "--num-masks", "3", "--width", "40", "--losses") == 0
    assert capsys.readouterr().out == printed
    assert show("map_net", "--text", TEXT, "--num-masks", "3", "--width", "40", "--seed", "2") == 0
    assert capsys.readouterr().out.split("\n\n")[0] != text


def test_a_model_without_proposal_says_so_in_a_line(show, capsys, tmp_path):
    page = tmp_path / "new" / "page.html"
    assert show("mlm", "--text", TEXT, "--out", page) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if "no proposal network: uniform probabilities" in line]
    html = page.read_text(encoding="utf-8")
    assert "no proposal network" in html and "100% of uniform" in html and "<script" not in html
    assert [entry.name for entry in page.parent.iterdir()] == ["page.html"]
    assert show("mlm", "--text", TEXT, "--law", "oracle") == 0
    out = capsys.readouterr().out
    assert "no proposal" not in out and "oracle: " in out


def test_colour_follows_the_option_the_terminal_and_no_color(show, capsys, monkeypatch):
    assert show("map_net", "--text", TEXT, "--color", "always") == 0
    assert "\033[" in capsys.readouterr().out
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    systems = lambda: [terminal(choice).color_system for choice in ("auto", "always", "never")]  # noqa: E731
    monkeypatch.delenv("COLORTERM", raising=False)
    assert systems() == ["256", "256", None]
    monkeypatch.setenv("NO_COLOR", "1")
    assert systems() == [None, "256", None] and not terminal("always").no_color
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert systems() == [None, "256", None]


def test_what_standard_output_cannot_encode_becomes_a_question_mark(show, monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    assert show("mlm", "--text", "A dog sat.", "--width", "3") == 0
    output.flush()
    assert b"?" in output.buffer.getvalue(), "the points between a word's tokens"


def test_long_files_are_cut_into_blocks_of_the_training(show, capsys, tmp_path):
    path = tmp_path / "text"
    path.write_text("\n".join([TEXT, ""] * 40), encoding="utf-8")
    assert show("map_net", "--file", path, "--no-numbers") == 0
    printed = capsys.readouterr().out
    blocks = printed.rsplit("\n\n", 1)[0].split("\n\n")
    assert len(blocks) > 10 and f"in {len(blocks)} blocks" in printed
    assert show("map_net", "--file", path, "--lines", "1", "--tokens-per-sample", "64") == 0
    assert "in 1 block," in capsys.readouterr().out


def test_standard_input(show, capsys, monkeypatch, tmp_path):
    path = tmp_path / "text"
    path.write_text(TEXT, encoding="utf-8")
    with path.open(encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert show("map_net", "--file", "-") == 0
    assert "in 1 block" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "options", "status", "message"),
    [
        ("map_net", ["--text", " "], 1, "no words to mask"),
        ("map_net", ["--file", "absent"], 1, "no such file"),
        ("map_net", ["--file", __file__, "--mask-prob", "1.5"], 1, "--mask-prob 1.5"),
        ("map_net", ["--text", "a", "--tokens-per-sample", "65"], 1, "64 positions"),
        ("mlm", ["--text", "a", "--law", "proposal"], 1, "--law uniform or oracle"),
        ("nothing", ["--text", "a"], 1, "no such checkpoint"),
        ("map_net", ["--text", "a", "--data", "absent"], 1, "absent"),
        ("map_net", ["--text", "a", "--out", "/proc/page.html"], 1, "/proc"),
        ("map_net", [], 2, "--text --file is required"),
        ("map_net", ["--text", "a", "--num-masks", "0"], 2, "--num-masks: 0 is below 1"),
        ("map_net", ["--text", "a", "--lines", "3"], 2, "--lines belongs to --file"),
        ("map_net", ["--text", "a", "--num-masks", "2", "--mask-prob", "0.2"], 2, "not allowed with"),
    ],
)
def test_bad_input_is_one_line(show, capsys, method, options, status, message):
    found = status_of(lambda: show(method, *options))
    printed = capsys.readouterr().err.strip()
    assert (found, printed.count("\n")) == (status, 0) and message in printed


def test_text_that_is_not_utf8_is_one_line(show, capsys, tmp_path):
    (tmp_path / "text").write_bytes(b"caf\xe9")
    assert show("map_net", "--file", tmp_path / "text") == 1
    assert "not UTF-8 (byte 3)" in capsys.readouterr().err


def test_the_variance_of_a_real_checkpoint(runs, capsys, tmp_path):
    options = ["--of", "laws", "--checkpoint", runs / "map_net" / "checkpoint_last.pt", "--data", runs / "data"]
    options += ["--sequences", 3, "--draws", 3, "--replicates", 100, "--oracle-rounds", 1, "--num-masks", 2]
    options += ["--gradient-rounds", 1, "--out", tmp_path / "laws.csv"]
    assert main(["measure", "variance", *map(str, options)]) == 0
    assert "clip 0.2" in capsys.readouterr().out
    with (tmp_path / "laws.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert "proposal" in {row["law"] for row in rows}


def test_replacements_need_an_amos_checkpoint(runs, capsys):
    checkpoint = runs / "mlm" / "checkpoint_last.pt"
    assert main(["show", "replacements", "--checkpoint", str(checkpoint), "--text", TEXT]) == 1
    printed = capsys.readouterr().err.strip()
    assert "is a MLMModel, not one of --arch amos_*" in printed and "\n" not in printed
