"""What the measurements are made on: a checkpoint, some of its parameters, sequences of a prepared corpus."""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn
from tqdm import tqdm

from fairseq_masking.corpus.dictionary import masking_vocabulary
from fairseq_masking.errors import UserError
from fairseq_masking.masking import MaskedItem, MaskingConfig, MaskingVocabulary
from fairseq_masking.measure import CORRUPTIONS
from fairseq_masking.measure.gradient_variance.draws import FixedSequence
from fairseq_masking.measure.gradient_variance.gradients import LossScale, MaskGradient, select_parameters
from fairseq_masking.measure.sequences import choose_sequences, load_blocks, sequence_length
from fairseq_masking.methods.base.masked_tokens import MaskedTokenOutput
from fairseq_masking.models import MLMModel

__all__ = ["Measurement", "choose", "load", "shown"]

Tokens = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Measurement:
    """What all of them are made on."""

    model: nn.Module  # see ``MaskGradient``
    parameters: Sequence[nn.Parameter]  # see ``select_parameters``
    config: MaskingConfig  # rate, unit, K, corruption and seed of the masks
    vocabulary: MaskingVocabulary  # specials and replacements
    scale: LossScale = "mean"  # see ``MaskGradient``
    memory: int = 2 << 30  # bytes for gradients; less costs time (``gram_matrix``)

    def sequence(self, index: int, tokens_T: Tokens) -> FixedSequence:
        return FixedSequence(tokens_T, index, self.config, self.vocabulary)

    def gradients(self, tokens_T: Tokens, masks: MaskedItem) -> MaskGradient:
        return MaskGradient(self.model, tokens_T, masks, self.parameters, self.scale)

    def rows_in_memory(self, num_kept: int) -> int:
        """Return how many gradients fit beside ``num_kept`` others.

        Raises:
            UserError: not even one.
        """
        row = sum(parameter.numel() * parameter.element_size() for parameter in self.parameters)
        rows = self.memory // row - num_kept
        if rows < 1:
            raise UserError(
                f"--memory {self.memory / 2**30:.3g} GiB holds {max(0, self.memory // row)} gradients of"
                f" {row / 2**30:.3g} GiB, but {num_kept + 1} are needed: raise it, take fewer --sequences,"
                " or choose some --parameters"
            )
        return rows


def load(args: argparse.Namespace, path: Path, **masking: Any) -> tuple[Any, Measurement]:
    """Return a checkpoint, and how it is measured, by the options of ``cli/measure_variance.py``."""
    hub: Any = MLMModel.from_pretrained(path, data=args.data)
    if args.of != "laws" and not issubclass(type(hub.model).output_class, MaskedTokenOutput):
        raise UserError(f"{path} is a {type(hub.model).__name__}: masks of a fixed law need mlm or three_ml")
    leave, random = CORRUPTIONS[args.corruption]
    shares: dict[str, Any] = {"leave_unmasked_prob": leave, "random_token_prob": random}
    config = MaskingConfig(mask_prob=args.mask_prob, seed=args.seed, **shares, **masking)
    need_words = config.unit != "subword"
    return hub, Measurement(
        model=hub.model,
        parameters=select_parameters(hub.model, args.parameters),
        config=config,
        vocabulary=masking_vocabulary(hub.dictionary, folder=args.data, need_words=need_words),
        scale=args.loss,
        memory=int(args.memory * 2**30),
    )


def choose(
    args: argparse.Namespace, hub: Any, measurement: Measurement, *, more_than: int | None = None
) -> list[FixedSequence]:
    """Return sequences with more maskable tokens than that, or enough for their masks."""
    length = sequence_length(hub, args.tokens_per_sample)
    blocks = load_blocks(args.data, args.split, hub.dictionary, tokens_per_sample=length)

    def fits(tokens_T: Any) -> bool:
        sequence = measurement.sequence(0, tokens_T)
        return sequence.tau > 0 if more_than is None else len(sequence.columns_m) > more_than

    chosen = choose_sequences(blocks, args.sequences, fits, seed=args.seed, source=args.data / args.split)
    return [measurement.sequence(index, tokens_T) for index, tokens_T in chosen]


def shown(sequences: list[FixedSequence], name: str | None = None) -> Iterable[FixedSequence]:
    """Return the sequences, with a bar of progress in a terminal."""
    return tqdm(sequences, unit="sequence", desc=name, disable=None)
