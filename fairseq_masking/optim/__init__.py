"""Optimizers and learning rate schedules, registered with fairseq."""

from fairseq_masking.optim.adamw import AdamW, clip_grad_norm
from fairseq_masking.optim.fused_adamw import FusedAdamWConfig, FusedAdamWOptimizer
from fairseq_masking.optim.muon import Muon, MuonConfig, MuonOptimizer
from fairseq_masking.optim.schedules import LinearSchedule, LinearScheduleConfig, WSDSchedule, WSDScheduleConfig

__all__ = [
    "AdamW", "FusedAdamWConfig", "FusedAdamWOptimizer", "LinearSchedule", "LinearScheduleConfig", "Muon",
    "MuonConfig", "MuonOptimizer", "WSDSchedule", "WSDScheduleConfig", "clip_grad_norm",
]  # fmt: skip
