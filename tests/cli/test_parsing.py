"""What the commands' parsers share."""

from pathlib import Path

import pytest

from fairseq_masking.cli.parsing import name_and_log
from fairseq_masking.errors import UserError


@pytest.mark.parametrize(
    ("logs", "expected"),
    [
        (("train.log",), "train.log"),
        (("hydra_train.log",), "hydra_train.log"),
        (("hydra_train.log", "train.log"), "train.log"),
        ((), "train.log"),
    ],
)
def test_a_folder_stands_for_its_log(tmp_path: Path, logs: tuple[str, ...], expected: str) -> None:
    for log in logs:
        (tmp_path / log).touch()
    assert name_and_log(f"a run={tmp_path}") == ("a run", tmp_path / expected)


def test_a_file_is_the_log() -> None:
    assert name_and_log("run=folder=1/log.txt") == ("run", Path("folder=1/log.txt"))


@pytest.mark.parametrize("run", ["log.txt", "=log.txt"])
def test_a_run_without_name_is_refused(run: str) -> None:
    with pytest.raises(UserError, match="give NAME=LOG"):
        name_and_log(run)
