"""The table and the figure of the quickstart's report, scripts/quickstart/report.py."""

import importlib.util

from commands import ROOT
from unigram import Candidate, Score, format_fillings

from fairseq_masking.figures.training_log import TrainingLog

_SPEC = importlib.util.spec_from_file_location("quickstart_report", ROOT / "scripts/quickstart/report.py")
report = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(report)

LOG = TrainingLog(
    train={20: {"wall": 12.4}},
    valid={100: {"loss": 9.0, "ppl": 512.0, "accuracy": 8.0}, 200: {"loss": 8.0, "ppl": 256.0, "accuracy": 16.0}},
)


def test_scores_stand_beside_the_unigrams():
    lines = report.score_table({"mlm": LOG}, Score(9.5, 724.1, 6.0)).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[2] == ["unigram (no context)", "", "9.500", "724.1", "6.0%", ""]
    assert cells[3] == ["mlm", "200", "8.000", "256.0", "16.0%", "12"]


def test_it_is_said_who_is_ahead():
    behind = LOG._replace(valid={200: {"loss": 8.25}})
    ahead = LOG._replace(valid={200: {"loss": 7.5}})
    lines = report.verdict({"one": LOG, "two": behind, "three": ahead}, Score(9.5, 724.1, 6.0)).splitlines()
    assert lines[0].startswith("one is 1.50 bits better than the unigram")
    assert lines[1:3] == ["  two: 0.25 bits worse", "  three: 0.50 bits better"]


def test_figure_is_written_whole(tmp_path):
    path = tmp_path / "curves.png"
    report.plot_learning_curves({"mlm": LOG, "other": LOG}, path, unigram_ppl=724.1)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [entry.name for entry in tmp_path.iterdir()] == ["curves.png"]


def test_fillings_show_both_probabilities_and_the_words_beginning():
    shown = format_fillings("We <mask>.", [Candidate(" must", 0.5, 0.001), Candidate("ing", 0.25, 0.02)])
    assert [line.split() for line in shown.splitlines()] == [
        ["We", "____."],
        ["must", "50.0%", "unigram", "0.100%"],
        ["-ing", "25.0%", "unigram", "2.000%"],
    ]


def test_sentences_have_one_gap_each():
    assert len(report.SENTENCES) == 5
    assert all(sentence.count("<mask>") == 1 for sentence in report.SENTENCES)


def test_a_missing_run_is_one_line_and_a_non_zero_exit(tmp_path, capsys):
    arguments = ["--data", str(tmp_path), "--tokens-per-sample", "64", "--figure", str(tmp_path / "figure.png")]
    assert report.main([*arguments, "--run", f"mlm={tmp_path / 'absent'}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("report.py: error: --run") and error.count("\n") == 1
