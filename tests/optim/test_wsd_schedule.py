"""``--lr-scheduler wsd``: the rates of all updates, what does not fit, both commands."""

import math

import pytest
from test_fused_adamw import from_command_line, from_hydra
from test_linear_schedule import Rate, an_optimizer_is_anything, rates  # noqa: F401 - a fixture

from fairseq_masking.errors import UserError
from fairseq_masking.optim.schedules import WSDSchedule, WSDScheduleConfig

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # fairseq still works in the way of Hydra 1.0


def schedule(**options):
    options = {
        "warmup_updates": 2,
        "decay_updates": 4,
        "decay_shape": "linear",
        "max_update": 8,
        "lr": [8.0],
        **options,
    }
    return WSDSchedule(WSDScheduleConfig(**options), Rate())


def test_it_rises_stays_and_falls_to_the_update_after_the_last():
    assert rates(schedule(), 10) == pytest.approx([4, 8, 8, 8, 8, 6, 4, 2, 0, 0])


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("1-sqrt", [8, 8 * (1 - 0.5), 8 * (1 - math.sqrt(0.5)), 8 * (1 - math.sqrt(0.75))]),
        ("cosine", [8, 4 * (1 + math.sqrt(0.5)), 4, 4 * (1 - math.sqrt(0.5))]),
    ],
)
def test_shapes_of_the_decay(shape, expected):
    assert rates(schedule(decay_shape=shape), 9)[4:] == pytest.approx([*expected, 0])


def test_without_decay_the_end_is_open():
    assert rates(schedule(decay_updates=0, max_update=0), 20) == [4, *[8] * 19]
    assert rates(schedule(decay_updates=0, warmup_updates=0), 9) == [8] * 9


def test_the_plateau_is_the_same_whatever_the_end():
    assert rates(schedule(max_update=8), 5) == rates(schedule(max_update=20), 5) == rates(schedule(decay_updates=0), 5)


def test_an_epoch_begins_with_the_rate_that_there_is():
    found = schedule()
    found.step_update(6)
    assert found.step_begin_epoch(2) == pytest.approx(4)


@pytest.mark.parametrize("options", [{"max_update": 5}, {"max_update": 0}])
def test_parts_that_do_not_fit_are_refused(options):
    with pytest.raises(UserError, match=r"--warmup-updates .*--decay-updates"):
        schedule(**options)


def test_both_commands_read_it_alike():
    flags = [
        "--warmup-updates",
        "3",
        "--decay-updates",
        "5",
        "--decay-shape",
        "cosine",
        "--max-update",
        "9",
        "--lr",
        "2",
    ]
    typed = from_command_line("--lr-scheduler", "wsd", *flags).lr_scheduler
    keys = ["warmup_updates=3", "decay_updates=5", "decay_shape=cosine"]
    overrides = ["lr_scheduler=wsd", *(f"lr_scheduler.{key}" for key in keys)]
    composed = from_hydra(*overrides, "optimization.max_update=9", "optimization.lr=[2]").lr_scheduler
    for key in ("warmup_updates", "decay_updates", "decay_shape", "max_update", "lr"):
        assert typed[key] == composed[key], key
    assert (typed.warmup_updates, typed.decay_updates, str(typed.decay_shape), typed.max_update) == (3, 5, "cosine", 9)
