"""A trained model with its dictionary and tokeniser, for use from Python.

Shapes: T tokens, D width.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fairseq.data import Dictionary
from torch import Tensor, nn

from fairseq_masking.checkpoints.loading import read_checkpoint
from fairseq_masking.corpus.encoding import TextEncoder
from fairseq_masking.corpus.manifest import load_normalizer, load_tokenizer
from fairseq_masking.errors import UserError
from fairseq_masking.tokenizers import Tokenizer
from fairseq_masking.tokenizers.normalization import TextNormalizer
from fairseq_masking.tokenizers.symbols import MASK_SYMBOL

__all__ = ["Filling", "HubInterface"]


class Filling(NamedTuple):
    """A way to fill a mask: the whole text, the probability of the token, and the token's own text."""

    text: str
    probability: float
    token: str


class HubInterface(nn.Module):
    """Encode text, extract features and fill masks; made by ``Model.from_pretrained``."""

    def __init__(
        self, model: Any, dictionary: Dictionary, tokenizer: Tokenizer, normalizer: TextNormalizer, cfg: Any = None
    ) -> None:
        super().__init__()
        self.cfg = cfg  # of the whole training: its task's tokens_per_sample, for one
        self.model = model.eval()
        self.dictionary = dictionary
        self.tokenizer = tokenizer
        self.normalizer = normalizer

    @classmethod
    def from_pretrained(
        cls, path: str | Path, checkpoint_file: str = "checkpoint_best.pt", data: str | Path | None = None
    ) -> "HubInterface":
        """Load a checkpoint, or a folder's, by ``Checkpoint.build``, and the tokeniser of the corpus of its training.

        ``data`` is that corpus where it does not lie any more where the checkpoint says.
        """
        checkpoint = read_checkpoint(path, checkpoint_file)
        model, task = checkpoint.build(data)
        corpus = checkpoint.cfg.task.data
        return cls(model, task.source_dictionary, load_tokenizer(corpus), load_normalizer(corpus), checkpoint.cfg)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def encode(self, text: str) -> Tensor:
        """Return the int64 ids ``[T]`` of ``<s> text </s>``; ``<mask>`` in the text becomes the mask token.

        The text is normalised, and around a ``<mask>`` written, as the training text was.
        """
        symbols = self.tokenizer.encode_around(self.normalizer.around(text, MASK_SYMBOL))
        ids = [self.dictionary.bos(), *map(self.dictionary.index, symbols), self.dictionary.eos()]
        return torch.tensor(ids)

    def check_known(self, tokens: Tensor, texts: Iterable[str]) -> None:
        """Warn where the ids ``[T]`` of texts hold <unk>, and name for what it stands; half of them are an error."""
        encoder = TextEncoder(self.tokenizer, self.dictionary, self.normalizer)
        encoder.check_unknown(int((tokens == self.dictionary.unk()).sum()), len(tokens), texts, "the text")

    def decode(self, tokens: Tensor) -> str:
        """Return the text of int64 ids ``[T]``, special symbols left out."""
        special = {self.dictionary.bos(), self.dictionary.eos(), self.dictionary.pad()}
        return self.tokenizer.decode([self.dictionary[index] for index in tokens.tolist() if index not in special])

    @torch.no_grad()
    def extract_features(self, tokens: Tensor, return_all_hiddens: bool = False) -> Tensor | list[Tensor]:
        """Return the encoder's states ``[1, T, D]`` for ids ``[T]`` or ``[1, T]``, or those of every layer."""
        tokens = tokens.unsqueeze(0) if tokens.dim() == 1 else tokens
        features, extra = self.model(tokens.to(self.device), features_only=True, return_all_hiddens=return_all_hiddens)
        return extra["inner_states"] if return_all_hiddens else features

    @torch.no_grad()
    def fill_mask(self, text: str, topk: int = 5) -> list[Filling]:
        """Return the ``topk`` likeliest fillings of the one ``<mask>`` in ``text``, best first."""
        if topk < 1:
            raise UserError(f"fill_mask: topk {topk} is below 1, the likeliest filling alone")
        if text.count(MASK_SYMBOL) != 1:
            raise UserError(f"fill_mask needs one {MASK_SYMBOL} in the text, not {text.count(MASK_SYMBOL)}: {text!r}")
        tokens = self.encode(text)
        self.check_known(tokens, [text])
        logits, _ = self.model(tokens[None].to(self.device))
        is_mask = tokens == self.dictionary.index(MASK_SYMBOL)
        found = logits[0, int(is_mask.nonzero()[0, 0])].float().softmax(-1).topk(min(topk, logits.shape[-1]))
        return [
            Filling(self.decode(tokens.where(~is_mask, index)), share, self.tokenizer.surface(self.dictionary[index]))
            for share, index in zip(found.values.tolist(), found.indices.tolist(), strict=True)
        ]
