"""Optimizers registered with fairseq."""

from fairseq_masking.optim.adamw import AdamW
from fairseq_masking.optim.clipping import clip_grad_norm
from fairseq_masking.optim.fused_adamw import FusedAdamWConfig, FusedAdamWOptimizer

__all__ = ["AdamW", "FusedAdamWConfig", "FusedAdamWOptimizer", "clip_grad_norm"]
