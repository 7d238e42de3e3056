"""Objectives registered with fairseq: they weigh, sum and log the losses that a model returns."""

from fairseq_masking.criterions.amos import AmosCriterion
from fairseq_masking.criterions.fully_explored_mlm import FullyExploredMLMCriterion
from fairseq_masking.criterions.map_net import MapNetCriterion
from fairseq_masking.criterions.mlm import MLMCriterion
from fairseq_masking.criterions.scored_sentence_prediction import ScoredSentencePredictionCriterion
from fairseq_masking.criterions.squad import SquadCriterion

__all__ = [
    "AmosCriterion",
    "FullyExploredMLMCriterion",
    "MLMCriterion",
    "MapNetCriterion",
    "ScoredSentencePredictionCriterion",
    "SquadCriterion",
]
