"""Small fixes: NumPy 2, the wrong apex, a broken torchaudio, --bf16, what one run leaves for the next."""

import importlib
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from fairseq import checkpoint_utils, options
from fairseq.logging import progress_bar

import fairseq_masking
from fairseq_masking import compat


def test_applying_twice_changes_nothing() -> None:
    before = checkpoint_utils.load_checkpoint_to_cpu, options.parse_args_and_arch
    compat.apply()
    assert before == (checkpoint_utils.load_checkpoint_to_cpu, options.parse_args_and_arch)


def test_numpy_compat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(np, "compat")
    compat.restore_numpy_compat()
    assert np.zeros(2, dtype=np.compat.long).dtype == np.int64


@pytest.mark.parametrize(("wrong", "warnings"), [(True, 1), (False, 0)], ids=["PyPI's", "NVIDIA's"])
def test_wrong_apex(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wrong: bool, warnings: int
) -> None:
    package = tmp_path / "apex"
    package.mkdir()
    (package / "__init__.py").write_text("from pyramid_mailer.interfaces import IMailer\n")
    if not wrong:
        (package / "normalization").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    importlib.invalidate_caches()
    with caplog.at_level(logging.WARNING):
        compat.warn_about_wrong_apex()
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == warnings
    for message in messages:
        assert str(package) in message and "NVIDIA" in message and "\n" not in message


@pytest.mark.parametrize("broken", [True, False])
def test_torchaudio_is_hidden_where_its_library_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """As good as none: its importers catch ImportError, not OSError."""
    package = tmp_path / "torchaudio"
    (package / "lib").mkdir(parents=True)
    (package / "__init__.py").write_text("answer = 42\n", encoding="utf-8")
    if broken:
        (package / "lib" / "_torchaudio.abi3.so").write_bytes(b"no library")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "torchaudio", None)  # remembers what was there
    del sys.modules["torchaudio"]
    compat.hide_broken_torchaudio()
    if broken:
        assert compat.hides_torchaudio()
        with pytest.raises(ImportError):
            importlib.import_module("torchaudio")
    else:
        assert importlib.import_module("torchaudio").answer == 42 and not compat.hides_torchaudio()


@pytest.mark.parametrize(("given", "tpu"), [(["--bf16"], False), (["--bf16", "--tpu"], True), ([], False)])
def test_bf16_is_no_tpu(given: list[str], tpu: bool, small_data: Path) -> None:
    arguments = [str(small_data), "--task", "masked_pretraining", "--arch", "mlm_tiny", "--criterion", "mlm"]
    args = options.parse_args_and_arch(options.get_training_parser(), [*arguments, *given])
    assert args.tpu is tpu
    assert args.bf16 is ("--bf16" in given)


def test_help_has_the_options_of_task_model_and_criterion(
    small_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = "--task masked_pretraining --arch map_net_tiny --criterion map_net --optimizer fused_adamw"
    with pytest.raises(SystemExit) as stop:
        options.parse_args_and_arch(options.get_training_parser(), [str(small_data), *chosen.split(), "--help"])
    told = capsys.readouterr().out
    of_each = ("--mask-splits", "--proposal-layers", "--proposal-learn-from", "--adam-betas", "--max-update")
    assert stop.value.code == 0 and not [option for option in of_each if f"  {option} " not in told]


def test_next_run_of_a_process_starts_afresh() -> None:
    from fairseq_cli import train

    class Writer:
        closed = False

        def close(self) -> None:
            self.closed = True

    writer = Writer()
    checkpoint_utils.save_checkpoint.best = 1.0
    train.should_stop_early.best, train.should_stop_early.num_runs = 1.0, 3
    progress_bar._tensorboard_writers["train"] = writer
    compat.reset_process_state()
    assert not hasattr(checkpoint_utils.save_checkpoint, "best")
    assert not hasattr(train.should_stop_early, "best")
    assert not progress_bar._tensorboard_writers and writer.closed


def test_the_package_registers_itself() -> None:
    from fairseq.tasks import TASK_REGISTRY

    assert "masked_pretraining" in TASK_REGISTRY
    assert Path(fairseq_masking.__path__[0]).name == "fairseq_masking"
