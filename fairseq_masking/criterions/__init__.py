"""Objectives registered with fairseq: they weigh, sum and log the losses that a model returns."""

from fairseq_masking.criterions.fully_explored_mlm import FullyExploredMLMCriterion
from fairseq_masking.criterions.map_net import MapNetCriterion
from fairseq_masking.criterions.mlm import MLMCriterion

__all__ = ["FullyExploredMLMCriterion", "MLMCriterion", "MapNetCriterion"]
