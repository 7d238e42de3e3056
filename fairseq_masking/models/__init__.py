"""Models registered with fairseq: which networks a method trains and where the [MASK]s enter."""

from fairseq_masking.models import initialization
from fairseq_masking.models.amos import AmosModel
from fairseq_masking.models.map_net import MapNetModel
from fairseq_masking.models.mlm import MLMModel
from fairseq_masking.models.three_ml import ThreeMLModel

__all__ = ["AmosModel", "MLMModel", "MapNetModel", "ThreeMLModel", "initialization"]
