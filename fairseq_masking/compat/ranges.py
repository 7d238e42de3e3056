"""The numbers that options may be, fairseq's and ours, checked at one place before anything is built.

Options that hang on others, or whose message has a reason to give, are checked where that is known.
"""

import ast
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fairseq_masking.errors import UserError

__all__ = ["check_ranges", "parse_betas"]

# An interval, as mathematicians write it, -> fields of the configuration; neither NaN nor infinity is in one.
_RANGES = {
    "[0, 1)": """
        model.dropout model.attention_dropout model.activation_dropout model.pooler_dropout optimizer.momentum""",
    "[0, 1]": """
        lr_scheduler.warmup_ratio""",
    "(0, 1]": """
        model.layer_lr_decay task.valid_mask_prob task.mask_prob_end""",
    "(0, inf)": """
        model.layer_norm_eps model.rope_theta model.rope_local_theta model.gumbel_temperature
        common.fp16_init_scale optimizer.adam_eps optimizer.adamw_lr""",
    "[0, inf)": """
        criterion.discriminator_weight criterion.encoder_loss_weight criterion.importance_clip model.attention_window
        optimization.clip_norm optimization.max_update optimization.max_epoch optimization.lr
        optimization.stop_time_hours optimizer.weight_decay optimizer.lr
        lr_scheduler.warmup_updates lr_scheduler.decay_updates lr_scheduler.total_num_update
        lr_scheduler.end_learning_rate
        dataset.num_workers dataset.data_buffer_size dataset.validate_interval_updates dataset.validate_after_updates
        checkpoint.save_interval_updates task.skip_nonfinite""",
    "[-1, inf)": """
        lr_scheduler.warmup_init_lr
        checkpoint.keep_interval_updates checkpoint.keep_last_epochs checkpoint.keep_best_checkpoints
        checkpoint.patience""",
    "[1, 20]": "optimizer.ns_steps",
    "[4, 2147483647]": "task.tokens_per_sample",
    "[1, 1000000]": """
        model.encoder_layers model.encoder_embed_dim model.encoder_ffn_embed_dim model.encoder_attention_heads
        model.max_positions model.global_attention_every model.proposal_layers model.proposal_embed_dim
        model.proposal_ffn_embed_dim model.proposal_attention_heads model.decoder_layers model.decoder_embed_dim
        task.span_max_length distributed_training.distributed_world_size""",
    "[1, 2147483647]": """
        dataset.batch_size dataset.batch_size_valid dataset.max_tokens dataset.max_tokens_valid
        dataset.required_batch_size_multiple dataset.validate_interval
        optimization.update_freq checkpoint.save_interval common.log_interval
        task.global_batch task.question_tokens task.doc_stride task.mask_law_updates
        model.relative_position_max_distance criterion.n_best criterion.max_answer_tokens""",
    "(-inf, inf)": """
        model.adversarial_scale model.adversarial_mlm_scale criterion.proposal_loss_weight""",
    "[0, 2147483647]": "common.seed",  # epochs are added to it
}
_REASONS = {
    "criterion.discriminator_weight": "the paper has 50",
    "criterion.encoder_loss_weight": "the paper has 0.01",
    "criterion.importance_clip": "weights are clipped to [1 - eps, 1 + eps], 0 weighs all sentences the same",
    "lr_scheduler.warmup_ratio": "such as 0.06",
    "model.gumbel_temperature": "the paper has 0.3",
    "model.layer_lr_decay": "such as 0.8",
    "optimizer.ns_steps": "such as 5",
}
_NAMES = ("task.classification_head_name", "criterion.classification_head_name")


def check_ranges(cfg: DictConfig) -> None:
    """Compare the options with what they may be.

    Raises:
        UserError: one is outside of its interval; the line has its name, its value and the interval.
    """
    for interval, fields in _RANGES.items():
        for field in fields.split():
            given = OmegaConf.select(cfg, field)
            values = list(given) if OmegaConf.is_list(given) else [given]
            for value in values or [math.nan]:
                number = isinstance(value, (int, float)) and not isinstance(value, bool)
                if number and not _is_in(value, interval):
                    told = value if values else given
                    reason = f"; {_REASONS[field]}" if field in _REASONS else ""
                    raise UserError(f"{_option(field)} {told}: give {_in_words(interval)} ({field}){reason}")
    betas = OmegaConf.select(cfg, "optimizer.adam_betas", default=(0, 0))
    parse_betas(betas)
    for field in _NAMES:
        name = OmegaConf.select(cfg, field)
        if name is not None and not re.fullmatch(r"\w+", str(name)):
            raise UserError(f"{_option(field)} {name!r}: give letters, digits and _ alone ({field})")


def parse_betas(value: Any) -> tuple[float, float]:
    """Return Adam's betas from what the command line ('(0.9, 0.98)') or a recipe ([0.9, 0.98]) gives.

    Raises:
        UserError: these are not two numbers from 0 up to, not including, 1.
    """
    betas = value
    if isinstance(value, str):
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            betas = ast.literal_eval(value.strip())
    numbers = isinstance(betas, Sequence) and all(type(beta) in (int, float) for beta in betas)
    if not (numbers and len(betas) == 2 and all(0 <= beta < 1 for beta in betas)):
        told = "give two numbers, each at least 0 and below 1, such as '(0.9, 0.98)'"
        raise UserError(f"--adam-betas {value}: {told} (optimizer.adam_betas)")
    return float(betas[0]), float(betas[1])


def _option(field: str) -> str:
    return f"--{field.rpartition('.')[2].replace('_', '-')}"


def _is_in(value: float, interval: str) -> bool:
    low, high = map(float, interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


def _in_words(interval: str) -> str:
    low, high = interval[1:-1].split(", ")
    ends = [f"{'from' if interval[0] == '[' else 'above'} {low}"] if low != "-inf" else []
    ends += [f"{'up to' if interval[-1] == ']' else 'below'} {high}"] if high != "inf" else []
    return f"a number {' and '.join(ends)}" if ends else "a finite number"
