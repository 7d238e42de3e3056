"""Freezes today's behaviour: writes everything under data/ anew, which a change of behaviour must justify.

    .venv/bin/python tests/golden/make.py            (all of it, about a minute)
    .venv/bin/python tests/golden/make.py options    (a part)

A diff of data/ is what changed. Losses, weights and checkpoints are of this machine's arithmetic: make them
anew only where the numbers are meant to change.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts its threads

import shutil
import sys
import tempfile
from pathlib import Path

import frozen_corpus
import frozen_exports
import frozen_masks
import frozen_options
import frozen_training
from frozen_files import DATA, machine, write

CHECKPOINTS = DATA / "checkpoints"


def corpus(scratch: Path) -> None:
    """Raw texts; prepared data with it; digests of every way to prepare."""
    frozen_corpus.write_texts()
    kept = ("corpus", *frozen_corpus.FINETUNING)
    records = {}
    for name in (*frozen_corpus.PREPARED, *frozen_corpus.FINETUNING):
        output = (DATA if name in kept else scratch) / name
        shutil.rmtree(output, ignore_errors=True)
        records[name] = frozen_corpus.record(frozen_corpus.prepare(name, output))
    write("corpus", records)
    words = {name: frozen_masks.masks_of_words(scratch / name) for name in ("gpt2", "wordpiece")}
    write("masks_of_words", words)


def runs(scratch: Path) -> None:
    """Losses of 20 steps."""
    frozen = {
        name: frozen_training.steps(frozen_training.arguments(name, scratch / name, "--no-save")).frozen()
        for name in frozen_training.RUNS
    }
    write("runs", {"machine": machine(), "runs": frozen})


def checkpoints(scratch: Path) -> None:
    """A checkpoint a method, its validation loss, and what two more steps give."""
    shutil.rmtree(CHECKPOINTS, ignore_errors=True)
    CHECKPOINTS.mkdir()
    frozen = {}
    for name in (*frozen_training.CHECKPOINTS, *frozen_training.TUNED):
        folder = scratch / name
        first = frozen_training.first_steps(name, folder)
        path = Path(shutil.copyfile(folder / "checkpoint_last.pt", CHECKPOINTS / f"{name}.pt"))
        resumed = frozen_training.resumed_steps(name, folder)
        data = name if name in frozen_training.TUNED else "corpus"
        with frozen_training.loaded(path, data) as (model, cfg):
            loss = frozen_training.validation_loss(model, cfg)
        frozen[name] = {
            "first": first.frozen(),
            "resumed": resumed.frozen(),
            "validation": loss.hex(),
            "structure": frozen_training.structure(path),
        }
        if name in frozen_training.CHECKPOINTS:
            frozen[name]["fillings"] = frozen_training.fillings(name, path)
    write("checkpoints", {"machine": machine(), "checkpoints": frozen})


def masks(scratch: Path) -> None:
    """Digests of batches."""
    write("masks", frozen_masks.masks())


def exports(scratch: Path) -> None:
    """Hugging Face folders and logits."""
    shutil.rmtree(DATA / "exports", ignore_errors=True)
    (DATA / "exports").mkdir()
    folders = {name: frozen_exports.export(name, scratch / "exports" / name) for name in frozen_exports.EXPORTED}
    frozen_exports.keep(folders[frozen_exports.KEPT])
    records = {name: frozen_exports.record(folder) for name, folder in folders.items()}
    logits = {
        name: frozen_exports.logits(folders[name], trust_remote_code=trust)
        for name, trust in frozen_exports.WITH_LOGITS.items()
    }
    write("exports", {"folders": records, "logits": logits})


def options(scratch: Path) -> None:
    """Options, sizes, Hydra's nodes, operators."""
    write("options", frozen_options.snapshot())


if __name__ == "__main__":
    PARTS = {part.__name__: part for part in (corpus, runs, checkpoints, masks, exports, options)}
    for chosen in sys.argv[1:] or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[chosen](Path(folder))
