"""A command that cannot do what it was asked for says so in one line, before anything is built or started."""

import logging
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from commands import PACKAGE, assert_ok, run_fairseq_train, train_here
from fairseq import checkpoint_utils
from fairseq.data import data_utils
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from fairseq_masking.checkpoints import start
from fairseq_masking.checkpoints.hub import HubInterface
from fairseq_masking.checkpoints.loading import read_checkpoint
from fairseq_masking.compat import errors, runs
from fairseq_masking.errors import UserError
from fairseq_masking.files import held


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What is no checkpoint, by name."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "folder").mkdir()
    (folder / "cut.pt").write_bytes(b"PK\x03\x04 no more")
    torch.save({"weight": torch.ones(2)}, folder / "bare.pt")
    return folder


def refused(capsys, *expected):
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("fairseq_masking: error: ")
    for part in expected:
        assert part in line


@pytest.mark.parametrize("option", ["--restore-file", "--finetune-from-model", "--continue-once"])
@pytest.mark.parametrize("name", ["nowhere.pt", "folder", "cut.pt", "bare.pt"])
def test_a_path_that_is_no_checkpoint_names_the_way(option, name, files, small_data, tmp_path, capsys):
    assert train_here(small_data, tmp_path / "save", option, files / name) == 1
    refused(capsys, str(files / name), "--init-from")
    assert not list(tmp_path.rglob("*.pt"))


def test_what_lies_in_the_place_of_the_last_checkpoint_is_not_passed_over(small_data, tmp_path, capsys):
    (tmp_path / "checkpoint_last.pt").mkdir()
    assert train_here(small_data, tmp_path) == 1
    refused(capsys, "checkpoint_last.pt is no file", "--restore-file")


@pytest.mark.parametrize(
    "options,expected",
    [
        ("--seed -1", "--seed -1"),
        ("--fp16", "--fp16 needs a GPU"),
        ("--amp", "--amp needs a GPU"),
        ("--max-tokens 31", "--max-tokens 31 (training): a row has 32 tokens"),
        ("--max-tokens 100 --criterion fully_explored_mlm --mask-splits 4",
         "--max-tokens 100 (training): the 4 rows of a sequence have 128"),
        ("--max-tokens-valid 20", "--max-tokens 20 (validation)"),
        ("--adam-betas x", "--adam-betas x: give two numbers"),
        ("--adam-betas (0.9,2)", "--adam-betas (0.9,2): give two numbers"),
        ("--lr=", "--lr []: give a number from 0"),
        ("--optimizer adamax --adamax-betas x", "--adamax-betas cannot be used (NameError: name 'x'"),
        ("--lr-scheduler manual --update2lr x", "--update2lr cannot be used"),
        ("--lr-scheduler polynomial_decay --total-num-update 0", "--total-num-update cannot be used (AssertionError"),
        ("--lr-scheduler tri_stage", "please specify steps or phase_ratio"),  # an assert of several lines
        ("--optimizer-overrides x", "--optimizer-overrides cannot be used"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_named(options, expected, small_data, tmp_path, capsys):
    assert train_here(small_data, tmp_path / "save", *options.split()) == 1
    refused(capsys, expected)


def test_a_folder_that_cannot_be_written_to(small_data, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert train_here(small_data, tmp_path / "file" / "save") == 1
    refused(capsys, f"--save-dir {tmp_path / 'file' / 'save'}", "is no folder")


def test_a_validation_set_that_is_not_used(small_data, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(small_data, data)
    for ending in ("bin", "idx"):
        shutil.copy(data / f"valid.{ending}", data / f"valid1.{ending}")
    assert train_here(data, tmp_path / "save") == 1
    refused(capsys, "['valid1']", "--ignore-unused-valid-subsets")
    assert train_here(data, tmp_path / "save", "--combine-valid-subsets", "--max-update", "1") == 0


@pytest.mark.parametrize("missing", ["", "train.bin", "valid.idx"])
def test_data_are_looked_at_before_ranks_are_started(missing, small_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.multiprocessing, "start_processes", lambda **_: pytest.fail("ranks were started"))
    data = tmp_path / "data"
    if missing:
        shutil.copytree(small_data, data)
        (data / missing).unlink()
    assert train_here(data, tmp_path / "save", "--distributed-world-size", "2") == 1
    refused(capsys, str(data / missing))


def test_no_gpu_where_the_cpu_was_not_asked_for(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    names = ("cpu", "tpu", "amp", "fp16", "bf16", "memory_efficient_fp16")
    ranks = {"distributed_world_size": 1}
    cfg = OmegaConf.create({"common": dict.fromkeys(names, False), "distributed_training": ranks})
    start._check_device(cfg)
    for section, name, value in (("common", "bf16", True), ("distributed_training", "distributed_world_size", 2)):
        larger = OmegaConf.merge(cfg, {section: {name: value}})
        with pytest.raises(UserError, match=r"is for GPUs, and there is no GPU here; .* say --cpu"):
            start._check_device(larger)
        larger.common.cpu = True
        start._check_device(larger)
    assert ["there is no GPU here" in message for message in caplog.messages] == [True]
    cfg.common.cpu = True
    start._check_device(cfg)
    assert len(caplog.messages) == 1


def test_one_run_a_folder(small_data, tmp_path, capsys):
    with held(tmp_path / "save" / ".training"):
        assert train_here(small_data, tmp_path / "save", "--start-over") == 1
        refused(capsys, f"{tmp_path / 'save'} is being trained by another process", f"process {os.getpid()} on ")
        assert train_here(small_data, tmp_path / "save", "--no-save") == 0  # which may share a folder
    assert train_here(small_data, tmp_path / "save") == 0
    assert not (tmp_path / "save" / ".training").exists()


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--dropout 1.5", "--dropout 1.5: give a number from 0 and below 1"),
        ("--dropout nan", "--dropout nan"),
        ("--encoder-layers 0", "--encoder-layers 0"),
        ("--encoder-attention-heads 0", "--encoder-attention-heads 0"),
        ("--layer-norm-eps 0", "--layer-norm-eps 0.0: give a number above 0"),
        ("--clip-norm -1", "--clip-norm -1.0"),
        ("--batch-size 0", "--batch-size 0: give a number from 1"),
        ("--update-freq 0", "--update-freq 0"),
        ("--max-update -1", "--max-update -1"),
        ("--max-positions -1", "--max-positions -1"),
        ("--seed 9223372036854775808", "--seed 9223372036854775808: give a number from 0 and up to 2147483647"),
        ("--valid-mask-prob 0", "--valid-mask-prob 0.0"),
        ("--save-interval 0", "--save-interval 0"),
        ("--global-batch 3000000000", "--global-batch 3000000000: give a number from 1"),  # not the update-freq of it
        ("--arch three_ml_tiny --decoder-layers 0", "--decoder-layers 0: give a number from 1"),
        ("--arch amos_tiny --criterion amos --gumbel-temperature inf", "--gumbel-temperature inf"),
        ("--arch amos_tiny --criterion amos --adversarial-scale inf", "--adversarial-scale inf: give a finite number"),
    ],
)
def test_numbers_that_options_cannot_be(option, expected, tmp_path, capsys):
    """Before the data, which are not there."""
    assert train_here(tmp_path / "none", tmp_path / "save", *option.split()) == 1
    refused(capsys, expected)
    assert not (tmp_path / "save").exists()


def test_what_another_run_goes_on_with_is_said(small_data, tmp_path, caplog):
    assert train_here(small_data, tmp_path, "--max-update", "1") == 0
    assert train_here(small_data, tmp_path, "--max-update", "2", "--mask-prob", "0.3", "--seed", "7") == 0
    (told,) = [message for message in caplog.messages if "goes on with other settings" in message]
    assert "task.mask_prob 0.15 -> 0.3; task.seed 1 -> 7" in told and "max_update" not in told


def test_a_full_disk_keeps_the_last_whole_checkpoint(small_data, tmp_path, capsys, monkeypatch):
    save, saved = torch.save, []

    def fills_up(state, file):
        saved.append(state)
        if len(saved) > 1:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        save(state, file)

    monkeypatch.setattr(torch, "save", fills_up)
    options = ("--save-interval-updates", "2", "--max-update", "4", "--disable-validation")
    assert train_here(small_data, tmp_path, *options) == 1
    refused(capsys, "cannot be written (No space left on device)", "the last whole one is", "checkpoint_")
    assert len(saved) == 2 and not list(tmp_path.glob("*.tmp"))
    monkeypatch.undo()
    assert read_checkpoint(tmp_path / "checkpoint_last.pt").num_updates == 2
    assert train_here(small_data, tmp_path, *options) == 0


def test_room_is_looked_at_before_each_save(small_data, tmp_path, capsys, monkeypatch):
    asked = []

    def usage(_):
        asked.append(len(list(tmp_path.glob("checkpoint_1_*.pt"))))
        return SimpleNamespace(free=1e12 if len(asked) < 3 else 10.0)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    options = ("--save-interval-updates", "2", "--max-update", "6", "--disable-validation")
    assert train_here(small_data, tmp_path, *options) == 1
    refused(capsys, f"--save-dir {tmp_path} has room for 1e-08 GB")
    assert asked == [0, 0, 1]  # before training, and at updates 2 and 4
    assert read_checkpoint(tmp_path / "checkpoint_last.pt").num_updates == 2


def test_schedules_of_fairseq_that_leave_the_warm_up_open(small_data, tmp_path):
    assert train_here(small_data, tmp_path, "--lr-scheduler", "inverse_sqrt", "--max-update", "1") == 0


def test_the_parser_takes_no_whole_number_out_of_another(capsys):
    with pytest.raises(SystemExit):
        train_here("data", "save", "--update-freq", "1.5")
    assert "argument --update-freq: 1.5 is not of whole numbers" in capsys.readouterr().err


def test_a_metric_that_validation_does_not_have_loses_nothing(small_data, tmp_path, capsys):
    options = ("--max-update", "2", "--best-checkpoint-metric")
    assert train_here(small_data, tmp_path, *options, "nonsense") == 1
    refused(capsys, "--best-checkpoint-metric nonsense", "goes on")
    assert read_checkpoint(tmp_path / "checkpoint_last.pt").num_updates == 2
    assert train_here(small_data, tmp_path / "other", *options, "nonsense", "--no-save") == 1
    refused(capsys, "2 updates were made and not saved")
    assert train_here(small_data, tmp_path, *options, "ppl", "--max-update", "3") == 0
    assert read_checkpoint(tmp_path / "checkpoint_best.pt").num_updates == 3


@pytest.mark.parametrize("what", ["missing", "damaged"])
def test_without_a_whole_last_checkpoint_the_newest_other_one_goes_on(what, small_data, tmp_path, caplog):
    last, options = tmp_path / "checkpoint_last.pt", ("--save-interval-updates", "2", "--disable-validation")
    assert train_here(small_data, tmp_path, *options, "--max-update", "4") == 0
    last.unlink() if what == "missing" else last.write_bytes(last.read_bytes()[:-500])
    (tmp_path / "checkpoint_9_9.pt").write_bytes(b"cut")  # the newest, but not whole
    assert train_here(small_data, tmp_path, *options, "--max-update", "5") == 0
    (told,) = [message for message in caplog.messages if "Training goes on from" in message]
    assert "checkpoint_1_4.pt" in told and str(last) in told
    history = read_checkpoint(last).state["optimizer_history"]
    assert history[-1]["num_updates"] == 5 and "Loaded checkpoint" in caplog.text


def test_each_path_of_a_validation_is_looked_at(tmp_path):
    path = os.pathsep.join([str(tmp_path / "one.pt"), str(tmp_path / "other.pt")])
    with pytest.raises(UserError, match=r"--path \S*one\.pt does not exist"):
        start.check_start(OmegaConf.create({"model": None, "common_eval": {"path": path}}))


def test_the_first_rank_alone_puts_checkpoints_aside(tmp_path, monkeypatch):
    last = tmp_path / "checkpoint_last.pt"
    last.touch()
    for rank, stays in (("1", True), ("0", False)):
        monkeypatch.setenv("RANK", rank)
        start._put_aside(OmegaConf.create({"checkpoint": {"save_dir": str(tmp_path)}}))
        assert last.exists() == stays


def test_warnings_of_the_start_stand_at_the_end_as_well(caplog):
    runs.warn_at_both_ends("lm_head is random")
    runs.say_warnings_again()
    runs.say_warnings_again()
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told == ["lm_head is random", "as was said at the start: lm_head is random"]


def test_errors_of_fairseq_about_an_input_are_the_users(small_data, tmp_path):
    def caught(function):
        with pytest.raises(Exception) as error:
            function()
        return errors.users_error_in(error.value)

    dataset = {"ignore_unused_valid_subsets": False, "combine_valid_subsets": False, "disable_validation": False}
    (tmp_path / "valid1.bin").touch()
    cfg = OmegaConf.create({"dataset": {**dataset, "valid_subset": "valid"}, "task": {"data": str(tmp_path)}})
    shown = caught(lambda: data_utils.raise_if_valid_subsets_unintentionally_ignored(cfg))
    assert "valid1" in str(shown)
    assert caught((tmp_path / "none").read_text) is None  # nothing of fairseq in it: a traceback helps more
    assert caught(lambda: int("x")) is None
    assert caught(lambda: data_utils.collate_tokens([], pad_idx=1)) is None  # max() says it, not fairseq
    shown = caught(lambda: checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "none.pt")))
    assert str(shown) == f"{tmp_path / 'none.pt'}: No such file or directory"


def test_what_hydra_refuses_is_one_line(capsys):
    def refuse():
        cause = ValueError("Key 'dropuot' not in 'MLMConfig'\n  full_key: model.dropuot")
        raise ConfigCompositionException("Could not override 'model.dropuot'.\nTo append use +") from cause

    with pytest.raises(SystemExit):
        errors._report_in_one_line(lambda function: function(), refuse)
    refused(capsys, "Could not override 'model.dropuot'", "not in 'MLMConfig'", "--cfg job")


def test_fillings_are_counted_from_one():
    for topk in (0, -3):
        with pytest.raises(UserError, match=f"topk {topk} is below 1"):
            HubInterface.fill_mask(None, "a <mask>", topk=topk)


def test_user_dir_by_a_link_of_another_name(small_data, tmp_path):
    (tmp_path / "link").symlink_to(PACKAGE)
    assert_ok(run_fairseq_train(small_data, tmp_path / "save", "--max-update", "1", user_dir=tmp_path / "link"))
    (tmp_path / "another").mkdir()
    shutil.copy(PACKAGE / "__init__.py", tmp_path / "another")
    command = [sys.executable, "-c", "import another"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.count("\n") == 1 and "has to be called fairseq_masking" in done.stderr
