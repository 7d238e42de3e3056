"""``--lr-scheduler linear``: the rates of all updates, whatever says when training ends, in both commands."""

import json

import pytest
from commands import assert_one_line_error, run_fairseq_train
from fairseq import options
from fairseq.dataclass.initialize import add_defaults, hydra_init
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from fairseq_masking.optim.schedules import LinearSchedule, LinearScheduleConfig

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # fairseq still works in the way of Hydra 1.0


class Rate:
    def __init__(self):
        self.lr = 0.0

    def get_lr(self):
        return self.lr

    def set_lr(self, lr):
        self.lr = lr


@pytest.fixture(autouse=True)
def an_optimizer_is_anything(monkeypatch):
    monkeypatch.setattr("fairseq.optim.lr_scheduler.fairseq_lr_scheduler.FairseqOptimizer", Rate)


def schedule(**options):
    options = {"warmup_ratio": 0.25, "max_epoch": 0, "max_update": 0, "lr": [8.0], **options}
    return LinearSchedule(LinearScheduleConfig(**options), Rate())


def rates(found, num_updates):
    return [found.step_update(done) for done in range(num_updates)]


def test_it_rises_for_its_share_and_then_falls_to_the_update_after_the_last():
    # U = 8, W = 2: (n + 1) / 2, then (8 - n) / 6
    expected = [4, 8, 8, 8 * 5 / 6, 8 * 4 / 6, 8 * 3 / 6, 8 * 2 / 6, 8 / 6, 0, 0]
    assert rates(schedule(max_update=8), 10) == pytest.approx(expected)


def test_a_share_of_an_update_is_a_whole_one():
    assert rates(schedule(max_update=5), 5) == pytest.approx([4, 8, 8, 8 * 2 / 3, 8 / 3])  # W = ceil(1.25)


def test_without_warm_up_the_first_rate_is_the_highest():
    assert rates(schedule(max_update=4, warmup_ratio=0), 4) == pytest.approx([8, 6, 4, 2])


def test_it_may_rise_to_the_end():
    assert rates(schedule(max_update=4, warmup_ratio=1), 5) == pytest.approx([2, 4, 6, 8, 0])


def test_epochs_have_as_many_updates_as_it_is_told():
    found = schedule(max_epoch=2)
    found.set_epoch_length(4)
    assert rates(found, 10) == rates(schedule(max_update=8), 10)


@pytest.mark.parametrize(("epochs", "updates"), [(2, 8), (5, 8), (2, 20)])
def test_the_first_limit_counts(epochs, updates):
    found = schedule(max_epoch=epochs, max_update=updates)
    found.set_epoch_length(4)
    assert rates(found, 10) == rates(schedule(max_update=8), 10)


def test_an_epoch_begins_with_the_rate_that_there_is():
    found = schedule(max_update=8)
    found.step_update(3)
    assert found.step_begin_epoch(2) == pytest.approx(8 * 5 / 6)


def test_it_has_to_know_the_end(small_data, tmp_path):
    finished = run_fairseq_train(
        small_data, tmp_path, "--lr-scheduler", "linear", "--max-update", "0", "--max-epoch", "0"
    )
    assert_one_line_error(finished, "--lr-scheduler linear", "--max-epoch or --max-update")


def test_training_counts_its_own_epochs_and_goes_on_where_it_stopped(small_data, tmp_path):
    """Ten batches in groups of up to four: three updates an epoch."""
    given = ["--lr-scheduler", "linear", "--warmup-ratio", "0.5", "--lr", "6.0e-4", "--max-update", "0"]
    given += ["--max-epoch", "2", "--update-freq", "4", "--log-format", "json", "--save-interval", "1"]
    stopped = run_fairseq_train(small_data, tmp_path, *given, "--stop-min-lr", "5.5e-4")
    log = stopped.stdout + stopped.stderr
    resumed = run_fairseq_train(small_data, tmp_path, *given)
    log += resumed.stdout + resumed.stderr
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    found = {}
    for line in log.splitlines():
        values = json.loads(line[line.index("{") :]) if '"num_updates"' in line and '"lr"' in line else {}
        if "lr" in values:
            found[int(values["num_updates"])] = float(values["lr"])
    per_epoch = max(found) // 2
    # logged is the rate after an update, i.e. the next one's
    expected = schedule(max_update=2 * per_epoch, warmup_ratio=0.5, lr=[6.0e-4])
    assert per_epoch > 1
    assert found == pytest.approx({n: expected.step_update(n) for n in found}, rel=1e-3, abs=1e-9)


def test_both_commands_read_it_alike():
    fixed = ["DATA", "--task", "masked_pretraining", "--arch", "mlm_tiny", "--lr-scheduler", "linear"]
    more = ["--warmup-ratio", "0.1", "--max-epoch", "3", "--max-update", "7", "--lr", "0.5"]
    args = options.parse_args_and_arch(options.get_training_parser(), [*fixed, *more])
    typed = convert_namespace_to_omegaconf(args).lr_scheduler
    hydra_init("config")
    GlobalHydra.instance().clear()
    overrides = ["task=masked_pretraining", "lr_scheduler=linear", "lr_scheduler.warmup_ratio=0.1"]
    overrides += ["optimization.max_epoch=3", "optimization.max_update=7", "optimization.lr=[0.5]"]
    with initialize_config_module("fairseq.config", version_base="1.1"):
        cfg = compose("config", overrides=overrides)
    add_defaults(cfg)
    composed = OmegaConf.to_container(cfg, resolve=True)["lr_scheduler"]
    assert {key: typed[key] for key in composed} == composed
    assert composed["warmup_ratio"] == 0.1 and composed["max_epoch"] == 3 and composed["max_update"] == 7
