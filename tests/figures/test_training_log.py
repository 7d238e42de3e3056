"""Reading fairseq's JSON log: duplicates, resumed runs, lines of text between, a line cut short by a kill."""

import json
from pathlib import Path

import pytest

from fairseq_masking.errors import UserError
from fairseq_masking.figures.training_log import named_log, read_training_log


def train_line(update, **values):
    return json.dumps({"epoch": 1, "update": 0.1, "num_updates": str(update), "wps": "1000", **values})


def valid_line(update, **values):
    return json.dumps({"epoch": 1, "valid_num_updates": str(update), **values})


def write(tmp_path, *lines):
    path = tmp_path / "train.log"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_intervals_and_validations_are_told_apart(tmp_path):
    path = write(
        tmp_path,
        "begin training epoch 1",
        train_line(20, loss="9.5", wps="100"),
        train_line(40, loss="9.1", wps="5"),
        train_line(60, loss="9.0", wps="120"),
        valid_line(60, valid_loss="8.9", valid_ppl="477.71", valid_accuracy="9.5"),
        json.dumps({"epoch": 1, "train_loss": "9.2", "train_num_updates": "60"}),
    )
    log = read_training_log(path)
    assert list(log.train) == [20, 40, 60]
    assert log.curve("ppl") == ([60], [477.71])
    assert log.final("accuracy") == 9.5
    assert log.tokens_per_second == 100  # the median: the slow interval does not count


def test_repeated_lines_count_once_and_later_ones_win(tmp_path):
    path = write(
        tmp_path,
        *[train_line(20, loss="9.5")] * 3,
        *[valid_line(200, valid_loss="8.0")] * 2,
        valid_line(100, valid_loss="9.0"),
        valid_line(200, valid_loss="7.5"),
    )
    log = read_training_log(path)
    assert log.curve("loss") == ([100, 200], [9.0, 7.5])
    assert list(log.train) == [20]


def test_lines_that_are_no_json_are_passed_over(tmp_path):
    path = write(tmp_path, "{cut sh", '{"num_updates": "1', train_line(1), valid_line(1, valid_loss="9", valid_x="no"))
    assert read_training_log(path).final("loss") == 9


@pytest.mark.parametrize(
    ("lines", "message"), [([train_line(20)], "no validation"), ([valid_line(20)], "no training interval")]
)
def test_a_log_without_values_is_one_clear_line(tmp_path, lines, message):
    with pytest.raises(UserError, match=message) as caught:
        read_training_log(write(tmp_path, *lines))
    assert "\n" not in str(caught.value)


def test_a_missing_log_names_the_options(tmp_path):
    with pytest.raises(UserError, match="--log-format json --log-file"):
        read_training_log(tmp_path / "absent.log")


@pytest.mark.parametrize(
    ("logs", "expected"),
    [
        (("train.log",), "train.log"),
        (("hydra_train.log",), "hydra_train.log"),
        (("hydra_train.log", "train.log"), "train.log"),
        ((), "train.log"),
    ],
)
def test_a_folder_stands_for_its_log(tmp_path, logs, expected):
    for log in logs:
        (tmp_path / log).touch()
    assert named_log(f"a run={tmp_path}") == ("a run", tmp_path / expected)


def test_a_file_is_the_log():
    assert named_log("run=folder=1/log.txt") == ("run", Path("folder=1/log.txt"))


@pytest.mark.parametrize("run", ["log.txt", "=log.txt"])
def test_a_run_without_name_is_refused(run):
    with pytest.raises(UserError, match="give NAME=LOG"):
        named_log(run)
