"""Networks in plain PyTorch: attention, relative positions, the encoder and its heads."""

from fairseq_masking.modules.encoder import EncoderConfig, TransformerEncoder
from fairseq_masking.modules.heads import ClassificationHead, MaskedLMHead

__all__ = ["ClassificationHead", "EncoderConfig", "MaskedLMHead", "TransformerEncoder"]
