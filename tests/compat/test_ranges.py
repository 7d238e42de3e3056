"""Numbers that options cannot be: one table, whatever is built of them later."""

import pytest
from omegaconf import OmegaConf

from fairseq_masking.compat.ranges import check_ranges
from fairseq_masking.errors import UserError

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("field", "bad", "good", "says"),
    [
        ("model.layer_lr_decay", (0.0, -0.5, 1.01, NAN), (0.8, 1.0), "a number above 0 and up to 1 .*; such as 0.8"),
        ("model.gumbel_temperature", (0.0, INFINITY), (0.3,), "above 0 .*; the paper has 0.3"),
        ("criterion.discriminator_weight", (-1.0, INFINITY, NAN), (0.0, 50), "from 0 .*; the paper has 50"),
        ("criterion.importance_clip", (-0.1, NAN), (0.0, 0.2), "from 0 .*; weights are clipped"),
        ("criterion.encoder_loss_weight", (-1.0,), (0.01,), "from 0"),
        ("criterion.proposal_loss_weight", (INFINITY,), (-1.0, 1.0), "a finite number"),
        ("lr_scheduler.warmup_ratio", (-0.1, 1.5, NAN), (0, 1), "from 0 and up to 1 .*; such as 0.06"),
        ("lr_scheduler.warmup_updates", (-1,), (0,), "from 0"),
        ("lr_scheduler.decay_updates", (-1,), (0,), "from 0"),
        ("task.mask_prob_end", (0.0, 1.1), (None, 0.15), "above 0 and up to 1"),
        ("task.span_max_length", (0,), (1,), "from 1"),
        ("task.tokens_per_sample", (3,), (4,), "from 4"),
        ("task.mask_law_updates", (0,), (1,), "from 1"),
        ("optimizer.adam_eps", (0.0, -1e-6, NAN, INFINITY), (1e-6,), "above 0"),
        ("optimizer.weight_decay", (-0.1, NAN, INFINITY), (0, 0.01), "from 0"),
        ("optimizer.momentum", (1.0, -0.1), (0.0, 0.95), "from 0 and below 1"),
        ("optimizer.ns_steps", (0, 21), (1, 20), "from 1 and up to 20"),
        ("optimizer.adamw_lr", (0.0, INFINITY), (None, 3e-3), "above 0"),
        ("optimization.lr", ([], [0.1, -1.0]), ([0.0, 0.1],), "from 0"),
    ],
)
def test_each_end_of_a_range(field, bad, good, says):
    section, _, name = field.partition(".")
    for value in good:
        check_ranges(OmegaConf.create({section: {name: value}}))
    for value in bad:
        with pytest.raises(UserError, match=rf"^--{name.replace('_', '-')} .*: give .*{says}") as error:
            check_ranges(OmegaConf.create({section: {name: value}}))
        assert f"({field})" in str(error.value)
