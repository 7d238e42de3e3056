"""From a labelled task's own files to the data folder that fine-tuning takes.

It is made with the normalisation, the tokeniser and the dictionary of a prepared corpus, so that a checkpoint trained
on that corpus can read it. All but SQuAD's (squad/prepare.py) is laid out for fairseq's task ``sentence_prediction``:

    input0/SPLIT.bin, .idx, dict.txt    the first text, </s> at its end
    input1/...                          the second one where there are two
    label/SPLIT.bin, .idx, dict.txt     the class; dict.txt lists the names in the order of their numbers
    label/SPLIT.label                   or the score as text, of 0 to 1
    ids/SPLIT.txt                       of a test set without labels: what a submission calls each row
    manifest.json                       settings["finetuning"] says what was asked for, counts what was found
    dict.txt, tokenizer/                the corpus's
    skipped.log                         a line for each row that was not used

fairseq puts two texts together with ``--init-token 0 --separator-token 2``: <s> a </s></s> b </s>. They are
cut so that this fits ``max_length``, the longer one of two first.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from fairseq.data import Dictionary

from fairseq_masking.corpus.encoding import ArrayWriter, TextEncoder
from fairseq_masking.corpus.manifest import (
    DICTIONARY_FILE,
    Manifest,
    check_same,
    describe_inputs,
    finish_folder,
    read_manifest,
    settings_of,
    tokenizer_settings,
)
from fairseq_masking.corpus.workers import map_in_batches
from fairseq_masking.corpus.workspace import Reporter, check_output, workspace
from fairseq_masking.errors import UserError
from fairseq_masking.finetuning.glue import SCORE_SCALE, SQUAD
from fairseq_masking.finetuning.rows import FaultLog, Row, files_of_task, read_task, subsample
from fairseq_masking.finetuning.squad.prepare import write_squad

__all__ = ["finetuning_settings", "prepare_finetuning", "truncated_lengths"]

_KEY = "finetuning"
_BATCH_ROWS = 256


def finetuning_settings(data: str | Path) -> dict[str, Any]:
    """Return what ``prepare_finetuning`` made a folder for: ``task``, ``max_train_rows``, ``seed``, ..."""
    manifest = read_manifest(data)
    if manifest is None or _KEY not in manifest.settings:
        raise UserError(f"{data} holds no data to fine-tune on; make it with fairseq-masking prepare task")
    return manifest.settings[_KEY]


def prepare_finetuning(
    task: str,
    source: Path,
    output: Path,
    *,
    corpus: Path,
    max_length: int = 512,
    max_train_rows: int | None = None,
    seed: int = 1,
    workers: int = 1,
    force: bool = False,
    reporter: Reporter | None = None,
) -> tuple[Manifest, bool]:
    """Make the data folder, unless the same one is there; return its manifest, and whether this run made it.

    cli/prepare_task.py explains the options.

    Raises:
        UserError: bad input, or the folder was made with other settings or inputs and ``force`` is not set.
    """
    reporter = reporter or Reporter(bars=False)
    check_output(output)
    if (present := read_manifest(output)) is not None:
        finetuning_settings(output)  # never in the place of a corpus
    files = files_of_task(task, source)
    encoder = TextEncoder.of_corpus(corpus)
    asked: dict[str, Any] = {"task": task}
    if task != SQUAD:
        asked |= {"max_length": max_length, "max_train_rows": max_train_rows, "seed": seed}
    settings = {
        _KEY: asked,
        "text": settings_of(encoder.normalizer),
        "tokenizer": tokenizer_settings(encoder.tokenizer),
        "dictionary": len(encoder.dictionary),
    }
    inputs = {split: describe_inputs([path], reporter) for split, path in files.items()}
    if present is not None and not force:
        check_same(present, settings, inputs, output)
        return present, False
    with workspace(output) as folder:
        reporter.say(f"encoding {task} from {source}")
        write = write_squad if task == SQUAD else partial(_write_rows, asked=asked)
        counts, log = {}, []
        for split, found, faults in write(files, folder, encoder, workers=workers):
            counts[split] = {**found, **faults.counts()}
            log += [f"{line}\n" for line in faults.lines]
        (folder / "skipped.log").write_text("".join(log), encoding="utf-8")
        found = {"settings": settings, "inputs": inputs, "counts": counts}
        return finish_folder(folder, encoder.tokenizer, encoder.dictionary, **found), True


def truncated_lengths(lengths: tuple[int, ...], max_length: int) -> tuple[int, ...]:
    """Return how many tokens of each text to keep, so that all fit with their special tokens.

    The longest is cut until it is no longer than the next one, and so on.
    """
    room = max_length - 2 * len(lengths)  # <s> a </s>, or <s> a </s></s> b </s>
    if sum(lengths) <= room:
        return lengths
    if len(lengths) == 1:
        return (room,)
    first, second = lengths
    second = min(second, max(room // 2, room - first))
    return room - second, second


def _write_rows(
    files: dict[str, Path], folder: Path, encoder: TextEncoder, *, workers: int, asked: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, int], FaultLog]]:
    """Write all splits; yield the name, the counts and the faults of each."""
    splits, labels = read_task(asked["task"], files)
    train = splits["train"]
    met = Counter(row.label for row in train.rows)  # in all of them
    train.rows = subsample(train.rows, asked["max_train_rows"], asked["seed"])
    encode = partial(_encode, encoder, asked["max_length"])
    for split, read in splits.items():
        encoded = map_in_batches(encode, read.rows, size=_BATCH_ROWS, workers=workers)
        places = [folder / f"input{number}" / split for number in range(len(read.rows[0].texts))]
        counts = _write_texts(encoded, places, encoder.dictionary)
        texts = (text for row in read.rows for text in row.texts)
        encoder.check_unknown(counts["unknown"], counts["tokens"], texts, f"the {split} rows")
        _write_labels(read.rows, labels, folder, split, encoder.dictionary.eos())
        yield split, counts, read.faults
    for place in folder.glob("input?"):
        encoder.dictionary.save(str(place / DICTIONARY_FILE))
    if labels:
        classes = Dictionary()
        for label in labels:
            classes.add_symbol(label, n=met[label])
        classes.save(str(folder / "label" / DICTIONARY_FILE))


def _encode(encoder: TextEncoder, max_length: int, row: Row) -> tuple[list[list[int]], bool]:
    """Return the ids of each text, and whether any were cut off."""
    ids = [encoder(text) for text in row.texts]
    lengths = tuple(map(len, ids))
    kept = truncated_lengths(lengths, max_length)
    return [part[:length] for part, length in zip(ids, kept, strict=True)], kept != lengths


def _write_texts(
    encoded: Iterable[tuple[list[list[int]], bool]], places: list[Path], dictionary: Dictionary
) -> dict[str, int]:
    counts = dict.fromkeys(("rows", "tokens", "unknown", "truncated"), 0)
    with ExitStack() as stack:
        writers = [stack.enter_context(ArrayWriter(place)) for place in places]
        for ids, truncated in encoded:
            for writer, part in zip(writers, ids, strict=True):
                writer.add([*part, dictionary.eos()])
                counts["tokens"] += len(part) + 1
                counts["unknown"] += part.count(dictionary.unk())
            counts["rows"] += 1
            counts["truncated"] += truncated
    return counts


def _write_labels(rows: list[Row], labels: tuple[str, ...], folder: Path, split: str, eos: int) -> None:
    """Classes, or scores where there are no ``labels``; of rows without any their names in a submission."""
    given = all(row.label is not None for row in rows)
    if given and labels:
        first = Dictionary().nspecial
        with ArrayWriter(folder / "label" / split) as writer:
            for row in rows:
                writer.add([first + labels.index(str(row.label)), eos])
        return
    path = folder / "label" / f"{split}.label" if given else folder / "ids" / f"{split}.txt"
    path.parent.mkdir(exist_ok=True)
    lines = [repr(float(str(row.label)) / SCORE_SCALE) if given else row.id for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
