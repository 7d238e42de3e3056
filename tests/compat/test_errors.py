"""A UserError is one line and status 1, wherever it was raised."""

import sys
from pathlib import Path

import pytest
from commands import assert_one_line_error, run_command, run_fairseq_train

from fairseq_masking.compat import errors
from fairseq_masking.errors import UserError


def chained() -> Exception:
    """As fairseq's trainer hides the reason why a model does not load."""
    try:
        try:
            raise UserError("the reason")
        except Exception:
            raise Exception("Cannot load model parameters")  # noqa: B904
    except Exception as error:
        return error


def test_user_error_is_found_behind_other_errors() -> None:
    assert str(errors.user_error_in(chained())) == "the reason"
    assert errors.user_error_in(RuntimeError("a bug")) is None


def test_message_of_a_data_loader_worker_becomes_one_line() -> None:
    text = (
        "Caught UserError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "x.py", line 1, in f\nfairseq_masking.errors.UserError: the file is cut short\n'
    )
    assert errors.one_line(UserError(text)) == "the file is cut short"
    assert errors.one_line(ValueError("Value 'abc'\n    full_key: a.b")) == "Value 'abc' full_key: a.b"


def test_excepthook(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    others = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: others.append(error))
    errors.show_user_errors_outside_of_call_main()
    error = chained()
    sys.excepthook(type(error), error, None)
    assert capsys.readouterr().err == "fairseq_masking: error: the reason\n"
    sys.excepthook(RuntimeError, RuntimeError("a bug"), None)
    assert len(others) == 1


def test_single_process_training(tmp_path: Path) -> None:
    finished = run_fairseq_train(tmp_path / "nowhere", tmp_path / "save")
    assert_one_line_error(finished, "nowhere")
    assert not list((tmp_path / "save").glob("*.pt"))


def test_other_errors_keep_their_traceback(small_data: Path, tmp_path: Path) -> None:
    program = (
        "import fairseq_masking; from fairseq.distributed import utils; from omegaconf import OmegaConf;"
        "from fairseq.dataclass.configs import FairseqConfig;"
        "utils.call_main(OmegaConf.structured(FairseqConfig), lambda cfg: 1 / 0)"
    )
    finished = run_command(["python -c", program], server="plain")
    assert finished.returncode == 1
    assert "ZeroDivisionError" in finished.stderr and "fairseq_masking: error" not in finished.stderr


def test_a_mistake_found_by_the_first_batch_leaves_no_checkpoint(small_data, tmp_path, run_train):
    finished = run_train(small_data, tmp_path, "--ops-impl", "triton")
    assert_one_line_error(finished, "implementation triton of linear_cross_entropy", "choose --ops-impl auto or torch")
    assert list(tmp_path.glob("*.pt")) == []
