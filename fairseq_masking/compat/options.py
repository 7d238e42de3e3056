"""Command-line options that fairseq's parser turns into something else."""

import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from fairseq import options as fairseq_options

from fairseq_masking.compat.patching import replace

__all__ = ["keep_bf16_off_the_tpu"]


def keep_bf16_off_the_tpu() -> None:
    """Lets ``--bf16`` train on CPU and GPU.

    ``options.parse_args_and_arch`` takes bf16 as the sign of a TPU and sets ``args.tpu``, after which nothing
    but torch_xla works. An explicit ``--tpu`` stays. Hydra's ``common.bf16=true`` never had the problem.
    """
    replace(fairseq_options, "parse_args_and_arch", _parse_without_tpu)


def _parse_without_tpu(original: Callable[..., Any]) -> Callable[..., Any]:
    def parse_args_and_arch(
        parser: Any, input_args: list[str] | None = None, *rest: Any, **options: Any
    ) -> Any:
        parsed = original(parser, input_args, *rest, **options)
        args: Namespace = parsed[0] if isinstance(parsed, tuple) else parsed
        if getattr(args, "tpu", False) and "--tpu" not in (sys.argv if input_args is None else input_args):
            args.tpu = False
        return parsed

    return parse_args_and_arch
