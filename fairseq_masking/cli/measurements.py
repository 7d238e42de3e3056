"""What measurements on a checkpoint have in common: sequences' length, model and corruption."""

import argparse
from typing import Any

from fairseq_masking.analysis.gradients import select_parameters
from fairseq_masking.analysis.mask_measurement import Measurement
from fairseq_masking.errors import UserError
from fairseq_masking.masking import MaskingConfig
from fairseq_masking.models.hub import HubInterface
from fairseq_masking.tasks.vocabulary import masking_vocabulary

__all__ = ["CORRUPTIONS", "measurement_of", "sequence_length"]

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
