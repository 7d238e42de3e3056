"""An update has the rows that --global-batch says, on any number of devices, or one line says what would do."""

import re

import pytest
from commands import ROOT, assert_ok, assert_one_line_error, run_command, run_fairseq_train

from fairseq_masking.errors import UserError
from fairseq_masking.tasks.global_batch import divide


def test_rows_come_out_exactly_in_the_largest_batches() -> None:
    """Against all batch sizes there are."""
    for rows, ranks, batch_size, splits in [
        (r, n, b, k) for r in range(1, 50) for n in (1, 2, 3) for b in (1, 4, 7, 12) for k in (1, 2, 4)
    ]:
        fits = [
            (size, freq)
            for size in range(1, batch_size + 1)
            for freq in range(1, rows + 1)
            if size % splits == 0 and size * freq * ranks == rows
        ]
        if fits:
            assert divide(rows, ranks=ranks, batch_size=batch_size, num_splits=splits) == max(fits)
        else:
            with pytest.raises(UserError):
                divide(rows, ranks=ranks, batch_size=batch_size, num_splits=splits)


def test_what_cannot_be_met_is_one_line_with_what_can() -> None:
    with pytest.raises(
        UserError, match=r"48 is no multiple of 8 processes x 4 .* 32 or 64, or take 3, 4, 6 processes"
    ):
        divide(48, ranks=8, batch_size=24, num_splits=4)
    with pytest.raises(UserError, match=r"give 8$"):
        divide(0, ranks=8, batch_size=24, num_splits=1)
    with pytest.raises(UserError, match="--batch-size 3 is less than the 4 rows"):
        divide(48, ranks=1, batch_size=3, num_splits=4)


def update_line(finished) -> str:
    assert_ok(finished)
    return re.search(r"^  update +(.*)$", finished.stdout, re.MULTILINE)[1]


def test_update_freq_follows_on_two_ranks_too(small_data, tmp_path) -> None:
    two = ("--distributed-world-size", "2", "--disable-validation", "--no-save", "--max-update", "1")
    told = update_line(run_fairseq_train(small_data, tmp_path, "--batch-size", "8", "--global-batch", "24", *two))
    assert told == "24 rows, up to 768 tokens (2 batches x 2 processes)"  # of 6 rows
    both = run_fairseq_train(small_data, tmp_path, "--global-batch", "24", "--update-freq", "3")
    assert_one_line_error(both, "--global-batch and --update-freq exclude each other")


def test_update_freq_on_the_command_line_wins_over_a_recipe(small_data, tmp_path) -> None:
    recipe = ["fairseq-hydra-train", "--config-dir", ROOT / "configs/pretrain", "--config-name", "mlm_base"]
    tiny = ["model=mlm_tiny", "common.cpu=true", "common.bf16=false", "dataset.num_workers=0", "dataset.batch_size=4"]
    tiny += [f"task.data={small_data}", "task.tokens_per_sample=32", "optimization.max_update=1"]
    tiny += ["lr_scheduler.warmup_updates=0", "distributed_training.distributed_world_size=1"]
    typed = run_command([*recipe, *tiny, "optimization.update_freq=[3]"], cwd=tmp_path)
    assert update_line(typed) == "12 rows, up to 384 tokens (3 batches x 1 processes)"
    assert "the recipe's --global-batch 2048 does not hold" in typed.stdout
