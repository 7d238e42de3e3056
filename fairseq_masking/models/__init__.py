"""The models, by method: the package's public face. Each is in its method's folder."""

from fairseq_masking.methods.amos.model import AmosModel
from fairseq_masking.methods.map_net.model import MapNetModel
from fairseq_masking.methods.mlm.model import MLMModel
from fairseq_masking.methods.three_ml.model import ThreeMLModel

__all__ = ["AmosModel", "MLMModel", "MapNetModel", "ThreeMLModel"]
