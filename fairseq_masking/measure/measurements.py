"""What measurements on a checkpoint have in common: sequences' length, model and corruption."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fairseq_masking.checkpoints.hub import HubInterface
from fairseq_masking.corpus.dictionary import masking_vocabulary
from fairseq_masking.errors import UserError
from fairseq_masking.masking import MaskingConfig
from fairseq_masking.measure.gradient_variance.gradients import select_parameters
from fairseq_masking.measure.gradient_variance.mask_measurement import Measurement
from fairseq_masking.measure.sequences import masked_batches
from fairseq_masking.models import AmosModel

__all__ = [
    "CORRUPTIONS",
    "add_amos_options",
    "amos_batches",
    "load_amos",
    "measurement_of",
    "sequence_length",
]

# Of --corruption: shares of the predicted tokens that stay and that become random ones.
CORRUPTIONS = {"mask": (0.0, 0.0), "bert": (0.1, 0.1)}


def sequence_length(hub: HubInterface, wanted: int | None) -> int:
    """``wanted`` tokens, or as many as the checkpoint was trained with.

    Raises:
        UserError: the model has fewer positions.
    """
    length = wanted or hub.cfg.task.tokens_per_sample
    if length > hub.model.max_positions():
        raise UserError(
            f"--tokens-per-sample {length} is more than the checkpoint's {hub.model.max_positions()}"
            " positions: lower it"
        )
    return int(length)


def add_amos_options(parser: argparse.ArgumentParser) -> None:
    """Adds what ``load_amos`` and ``amos_batches`` need."""
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="FILE", help="of amos")
    add("--data", type=Path, required=True, metavar="DIR", help="prepared corpus that it was trained on")
    add("--tokens-per-sample", type=int, metavar="T", help="tokens of a sequence (default: the training's)")
    add("--mask-prob", type=float, default=0.15, metavar="P", help="masking rate; all become [MASK]")
    add("--batch-size", type=int, default=16, metavar="N", help="sequences at once")
    add("--seed", type=int, default=1, help="of sequences, masks and noise")


def load_amos(checkpoint: Path, data: Path | None) -> HubInterface:
    """The checkpoint of an AMOS model.

    Raises:
        UserError: it is one of another method.
    """
    hub = AmosModel.from_pretrained(checkpoint, data=data)
    if not isinstance(hub.model, AmosModel):
        raise UserError(f"{checkpoint} is a {type(hub.model).__name__}, not one of --arch amos_*: give one")
    return hub


def amos_batches(hub: HubInterface, args: argparse.Namespace, split: str) -> Iterator[dict[str, Any]]:
    """Batches of a split, all masked tokens as [MASK].

    Args:
        args: of ``add_amos_options``.
    """
    leave, random = CORRUPTIONS["mask"]
    return masked_batches(
        args.data,
        split,
        hub.dictionary,
        masking=MaskingConfig(
            mask_prob=args.mask_prob, leave_unmasked_prob=leave, random_token_prob=random, seed=args.seed
        ),
        tokens_per_sample=sequence_length(hub, args.tokens_per_sample),
        batch_size=args.batch_size,
    )


def measurement_of(hub: HubInterface, args: argparse.Namespace, **masking: Any) -> Measurement:
    """What a command's options make of a checkpoint.

    Args:
        args: --mask-prob, --corruption, --seed, --parameters, --data and --memory; --loss, if it has that.
        masking: further options of ``MaskingConfig``.
    """
    leave, random = CORRUPTIONS[args.corruption]
    config = MaskingConfig(
        mask_prob=args.mask_prob,
        leave_unmasked_prob=leave,
        random_token_prob=random,
        seed=args.seed,
        **masking,
    )
    need_words = config.unit != "subword"
    return Measurement(
        model=hub.model,
        parameters=select_parameters(hub.model, args.parameters),
        config=config,
        vocabulary=masking_vocabulary(hub.dictionary, folder=args.data, need_words=need_words),
        scale=getattr(args, "loss", "mean"),
        memory=int(args.memory * 2**30),
    )
