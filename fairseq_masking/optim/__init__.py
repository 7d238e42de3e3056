"""Optimizers and a learning rate schedule, registered with fairseq."""

from fairseq_masking.optim.adamw import AdamW, clip_grad_norm
from fairseq_masking.optim.fused_adamw import FusedAdamWConfig, FusedAdamWOptimizer
from fairseq_masking.optim.linear_schedule import LinearSchedule, LinearScheduleConfig

__all__ = [
    "AdamW",
    "FusedAdamWConfig",
    "FusedAdamWOptimizer",
    "LinearSchedule",
    "LinearScheduleConfig",
    "clip_grad_norm",
]
