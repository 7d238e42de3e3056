"""From a labelled task's own files to the data folder that fine-tuning takes.

It is made with the normalisation, the tokeniser and the dictionary of a prepared corpus, so that a
checkpoint trained on that corpus can read it. finetuning_rows.py and finetuning_squad.py say how the data
lie; beside them

    manifest.json           settings["finetuning"] says what was asked for, counts what was found
    dict.txt, tokenizer/    the corpus's
    skipped.log             a line for each row that was not used
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_masking.corpus.encoding import TextEncoder
from fairseq_masking.corpus.manifest import (
    Manifest,
    check_same,
    describe_inputs,
    finish_folder,
    read_manifest,
    tokenizer_settings,
)
from fairseq_masking.corpus.workspace import Reporter, check_output, workspace
from fairseq_masking.errors import UserError
from fairseq_masking.finetuning.prepare_rows import write_rows
from fairseq_masking.finetuning.rows import files_of_task
from fairseq_masking.finetuning.squad.prepare import SQUAD, files_of_squad, write_squad

__all__ = ["FinetunePreparation", "finetuning_settings", "prepare_finetuning"]

_KEY = "finetuning"
_SKIPPED_LOG = "skipped.log"


@dataclass(frozen=True)
class FinetunePreparation:
    """What to prepare.

    Attributes:
        task: a name of ``glue.GLUE_TASKS``, "jsonl" or "squad".
        source: folder of the task's own files.
        corpus: prepared corpus that the checkpoint was trained on.
        output: folder to make.
        max_length: tokens of a row, special ones included; longer rows are cut (not SQuAD's, whose task cuts
            paragraphs into windows).
        max_train_rows: keep so many training rows; None for all.
        seed: of the draw of these.
    """

    task: str
    source: Path
    corpus: Path
    output: Path
    max_length: int = 512
    max_train_rows: int | None = None
    seed: int = 1


def finetuning_settings(data: str | Path) -> dict[str, Any]:
    """Returns what a folder was prepared for: ``task``, ``max_train_rows``, ``seed``, ...

    Raises:
        UserError: it was not made by ``prepare_finetuning``.
    """
    manifest = read_manifest(data)
    if manifest is None or _KEY not in manifest.settings:
        raise UserError(f"{data} holds no data to fine-tune on; make it with scripts/prepare_finetune.sh")
    return manifest.settings[_KEY]


def prepare_finetuning(
    preparation: FinetunePreparation,
    *,
    workers: int = 1,
    force: bool = False,
    reporter: Reporter | None = None,
) -> tuple[Manifest, bool]:
    """Makes the data folder, unless the same one is there.

    Args:
        preparation: what to prepare.
        workers: number of processes; the result does not depend on it.
        force: replace a folder made with other settings or inputs, once the new one is complete.
        reporter: says what is being done.

    Returns:
        the manifest, and whether this run made the folder.

    Raises:
        UserError: bad input, or the folder was made with other settings or inputs and ``force`` is not set.
    """
    reporter = reporter or Reporter(bars=False)
    output, task = preparation.output, preparation.task
    check_output(output)
    present = read_manifest(output)
    if present is not None:
        finetuning_settings(output)  # never in the place of a corpus
    files = files_of_squad(preparation.source) if task == SQUAD else files_of_task(task, preparation.source)
    encoder = TextEncoder.of_corpus(preparation.corpus)
    settings = _settings(preparation, encoder)
    inputs = {split: describe_inputs([path], reporter) for split, path in files.items()}
    if present is not None and not force:
        check_same(present, settings, inputs, output)
        return present, False
    with workspace(output) as folder:
        reporter.say(f"encoding {task} from {preparation.source}")
        if task == SQUAD:
            counts, log = write_squad(files, folder, encoder, workers=workers)
        else:
            counts, log = write_rows(
                task,
                files,
                folder,
                encoder,
                max_length=preparation.max_length,
                max_train_rows=preparation.max_train_rows,
                seed=preparation.seed,
                workers=workers,
            )
        (folder / _SKIPPED_LOG).write_text("".join(f"{line}\n" for line in log), encoding="utf-8")
        manifest = _record(folder, encoder, settings, inputs, counts)
    return manifest, True


def _settings(preparation: FinetunePreparation, encoder: TextEncoder) -> dict[str, Any]:
    """Everything beside the inputs that decides the result."""
    of_rows = () if preparation.task == SQUAD else ("max_length", "max_train_rows", "seed")
    return {
        _KEY: {name: getattr(preparation, name) for name in ("task", *of_rows)},
        "text": dataclasses.asdict(encoder.normalizer),
        "tokenizer": tokenizer_settings(encoder.tokenizer),
        "dictionary": len(encoder.dictionary),
    }


def _record(
    folder: Path,
    encoder: TextEncoder,
    settings: dict[str, Any],
    inputs: dict[str, list[dict[str, Any]]],
    counts: dict[str, dict[str, int]],
) -> Manifest:
    return finish_folder(
        folder, encoder.tokenizer, encoder.dictionary, settings=settings, inputs=inputs, counts=counts
    )
