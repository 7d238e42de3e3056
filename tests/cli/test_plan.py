"""What a pre-training would be, and what of it cannot be, before it runs."""

import pytest
from commands import run_verb

RECIPE = ("plan", "--config", "fully_explored_tiny")
SMALL = (
    "task.tokens_per_sample=32",
    "dataset.batch_size=8",
    "optimization.update_freq=[2]",
    "optimization.max_update=90",
)


def test_a_plan_counts_what_the_run_would_do(small_data, capsys):
    assert run_verb(*RECIPE, f"task.data={small_data}", *SMALL, "task.mask_splits=4", "common.cpu=true") == 0
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert told["update"] == "16 rows (8 x 2 batches x 1 processes), 512 tokens"
    train = int(told["data"].split()[1])
    assert told["length"] == f"90 updates, {16 / 4 * 90 / train:.3g} epochs"
    assert "(measured here)" in told["hours"] and "GiB activations" in told["memory"] and told["device"] == "CPU"


def test_an_epoch_of_masks_that_take_turns_reads_a_sequence_once(small_data, capsys):
    turns = ("task.mask_splits=4", "task.mask_splits_over=epochs")
    assert run_verb(*RECIPE, f"task.data={small_data}", *SMALL, *turns, "common.cpu=true") == 0
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert told["length"] == f"90 updates, {16 * 90 / int(told['data'].split()[1]):.3g} epochs"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.data=/nowhere", "no such data folder: /nowhere"),
        ("optimization.update_freq=[999]", "an update takes 999"),
        ("model.dropuot=0", "Could not override 'model.dropuot'"),
        ("common.fp16=true", "--fp16 needs a GPU"),
    ],
)
def test_what_cannot_be_is_one_line(override, message, small_data, capsys):
    assert run_verb(*RECIPE, f"task.data={small_data}", *SMALL, "common.cpu=true", override) == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("fairseq-masking plan: error: ") and message in line
