"""The one command: ``fairseq-masking VERB``, also ``python -m fairseq_masking VERB``.

A verb is a module of this folder, named after it, or a class in one that it shares, with a docstring (its help, ending
in an example), ``add_options(parser)`` and ``run(args)``. It imports what it needs inside of ``run``: ``--help`` is at
once. It may have ``check(args)``, for options that do not go together: the user learns it before fairseq is imported.
"""

import argparse
import importlib
import io
import logging
import os
import sys
import time
from collections.abc import Sequence
from inspect import getdoc
from pathlib import Path
from typing import Any

from fairseq_masking import register
from fairseq_masking.cli.options import VerbParser
from fairseq_masking.errors import UserError

__all__ = ["VERBS", "main", "parser_of"]

VERBS = {
    "prepare corpus": "raw text to the data folder that pre-training takes",
    "prepare task": "a labelled task's own files to the data folder that fine-tuning takes",
    "plan": "what a pre-training is, and what it needs, before it runs",
    "finetune": "checkpoints' scores on labelled tasks, by a paper's protocol",
    "baselines": "what fine-tuned scores have to beat: the majority, and TF-IDF",
    "compare": "which objective a corpus and a budget should get: trained side by side",
    "score": "which of two sentences a model finds likelier: minimal pairs, as BLiMP's",
    "predict": "a fine-tuned checkpoint's predictions and scores",
    "continue": "an encoder of Hugging Face, continued on your text by any method, back to it",
    "inspect": "what a checkpoint is, and what it can be used for",
    "export": "a checkpoint as a folder for Hugging Face transformers",
    "show masks": "where a checkpoint masks text",
    "show replacements": "what AMOS puts in place of masked tokens",
    "measure pmi": "which words of a corpus are masked as a whole by --mask-unit pmi",
    "measure variance": "what masks and their laws do to the gradient's variance",
    "measure information": "what the states of [MASK]s say about the hidden tokens",
    "measure probing": "what each layer says about spans of words, by a linear classifier",
    "measure flops": "what pre-training with each method costs",
    "measure scale": "where a recipe stops gaining by more GPUs, on paper",
    "measure replacements": "how hard each depth's tokens are for AMOS's discriminator",
    "measure adversary": "whether AMOS's mixture learns what is hard for its discriminator",
    "curves": "training logs as a figure and a table",
    "table": "one table of all runs under a folder",
}
_SHARED = {  # verb -> where it is, if in no module of its own
    "baselines": "scores.Baselines",
    "score": "scores.Score",
    "predict": "scores.Predict",
    "show masks": "show.Masks",
    "show replacements": "show.Replacements",
    "measure replacements": "measure_amos.Replacements",
    "measure adversary": "measure_amos.Adversary",
}
_WITHOUT_FAIRSEQ = ("prepare corpus", "measure pmi", "curves")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; return the exit status: 0, 1 for bad input, 2 for wrong options, 130 interrupted."""
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # ``| head`` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _run(argv: list[str]) -> int:
    """Errors are one line; an ``ArgumentError`` says which options do not go together, as the parser would."""
    verb = next((verb for verb in VERBS if argv[: len(verb.split())] == verb.split()), None)
    if verb is None:
        return _help(argv)
    place, parser = parser_of(verb)
    args = parser.parse_args(argv[len(verb.split()) :])
    args.command, args.started = ["fairseq-masking", *argv], time.perf_counter()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # what it cannot encode becomes a question mark
    disabled, status = logging.root.manager.disable, 1
    logging.disable(logging.INFO)  # only warnings, whatever level fairseq, imported by then, gives the root logger
    try:
        if hasattr(place, "check"):
            place.check(args)
        if verb not in _WITHOUT_FAIRSEQ:
            register()
        place.run(args)
        return 0
    except argparse.ArgumentError as error:
        parser.error(str(error))
    except UserError as error:
        message = str(error)
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk, a folder that may not be written
        message = f"{error.filename or getattr(args, 'out', None) or parser.prog}: {error.strerror or error}"
    except KeyboardInterrupt:
        message, status = "interrupted", 130
    finally:
        logging.disable(disabled)
    as_module = Path(sys.argv[0]).parent.name == "fairseq_masking"  # python -m fairseq_masking, as a training's line
    print(f"{'fairseq_masking' if as_module else parser.prog}: error: {' '.join(message.split())}", file=sys.stderr)
    return status


def parser_of(verb: str) -> tuple[Any, VerbParser]:
    """Return the module or class of a verb, and its parser."""
    module, _, name = _SHARED.get(verb, verb.replace(" ", "_")).partition(".")
    place: Any = importlib.import_module(f"fairseq_masking.cli.{module}")
    place = getattr(place, name) if name else place
    parser = VerbParser(verb, str(getdoc(place)))
    place.add_options(parser)
    return place, parser


def _help(argv: Sequence[str]) -> int:
    given = [word for word in argv if word not in ("-h", "--help")]
    listed = {verb: does for verb, does in VERBS.items() if not given or given == verb.split()[:1]}
    if not listed:
        wrong = " ".join(given[:2])
        print(f"fairseq-masking: error: no verb '{wrong}'; there are: {', '.join(VERBS)}", file=sys.stderr)
        return 2
    print("usage: fairseq-masking VERB [options]     (VERB --help: its options and an example)\n")
    print("\n".join(f"  {verb:<22}{does}" for verb, does in listed.items()))
    return 0 if len(given) < len(argv) or not argv else 2
