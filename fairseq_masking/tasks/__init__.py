"""Tasks registered with fairseq."""

from fairseq_masking.tasks.masked_pretraining import MaskedPretrainingTask
from fairseq_masking.tasks.squad import SquadTask

__all__ = ["MaskedPretrainingTask", "SquadTask"]
