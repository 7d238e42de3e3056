"""The way from raw text to a data folder: normalise, split, train or load a tokeniser, binarise, record.

What was done to the text without being asked is said. Data of stock fairseq-preprocess get what they lack to be
exported, fine-tuned and shown.
"""

import dataclasses
import shutil
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_masking.corpus import manifest
from fairseq_masking.corpus.binarization import binarize
from fairseq_masking.corpus.dictionary import dictionary_of, load_dictionary
from fairseq_masking.corpus.documents import Met, TextFile, distribute_documents, draw_validation, write_documents
from fairseq_masking.corpus.encoding import TextEncoder, most_frequent
from fairseq_masking.corpus.indexed import load_tokens
from fairseq_masking.corpus.manifest import Manifest, read_manifest, settings_of, tokenizer_settings
from fairseq_masking.corpus.workspace import Reporter, check_output, workspace
from fairseq_masking.errors import UserError
from fairseq_masking.files import hash_file
from fairseq_masking.tokenizers import Tokenizer, WhitespaceTokenizer
from fairseq_masking.tokenizers.hugging_face_files import find_source, import_tokenizer, text_steps
from fairseq_masking.tokenizers.normalization import TextNormalizer
from fairseq_masking.tokenizers.sentencepiece import BpeTraining, train_bpe
from fairseq_masking.tokenizers.vocabularies import SymbolCounting

__all__ = ["Preparation", "adopt", "prepare", "tokenizer_of"]

# Rule -> what was done, and how to have it otherwise.
_UNASKED = {
    "entity": ("HTML entities left as text", "--unescape-entities makes characters of them"),
    "break": ("line breaks inside of lines made spaces", "tr '\\r' '\\n' makes them end lines"),
    "invisible": ("lines without a visible character taken for empty ones", "delete them, or fill them"),
    "rewritten": ("characters rewritten by the tokeniser", "--normalization identity trains one that keeps them"),
}
_SHOWN = 3
_STOCK = "fairseq-preprocess"


@dataclass(frozen=True)
class Preparation:
    train: tuple[Path, ...]  # text files to train on
    output: Path  # folder to make
    tokenizer: Tokenizer | BpeTraining | SymbolCounting  # an existing tokeniser, or how to train one
    valid: tuple[Path, ...] = ()  # text files to validate on; empty: a part of ``train`` is split off
    documents: str = "line"  # what bounds a document, "line" or "blank-line"
    normalizer: TextNormalizer = field(default_factory=TextNormalizer)  # what to do with each line first
    dictionary: Path | None = None  # existing dict.txt to take instead of the tokeniser's own order
    valid_fraction: float = 0.01  # share of the documents to validate on where ``valid`` is empty; 0 for none
    num_shards: int = 1  # number of folders to spread the training documents over
    seed: int = 1  # of the validation split

    def settings(self) -> dict[str, Any]:
        """Everything beside the inputs that decides the result, as it stands in the manifest."""
        made = isinstance(self.tokenizer, Tokenizer)
        return {
            "documents": self.documents,
            "text": settings_of(self.normalizer),
            "tokenizer": tokenizer_settings(self.tokenizer) if made else {"trained": settings_of(self.tokenizer)},
            "dictionary": hash_file(self.dictionary) if self.dictionary else None,
            "valid_fraction": None if self.valid else self.valid_fraction,
            "shards": self.num_shards,
            "seed": self.seed,
        }


def prepare(
    preparation: Preparation, *, reporter: Reporter, workers: int = 1, force: bool = False
) -> tuple[Manifest, bool]:
    """Makes the data folder, unless the same one is there; returns its manifest, and whether this run made it.

    One made with other settings or inputs is an error, or with ``force`` replaced once the new one is complete.
    """
    output = preparation.output
    check_output(output)
    inputs = {split: manifest.describe_inputs(getattr(preparation, split), reporter) for split in ("train", "valid")}
    settings = preparation.settings()
    present = read_manifest(output)
    if present is not None and not force:
        manifest.check_same(present, settings, inputs, output)
        return present, False
    with workspace(output) as folder:
        shared = {"settings": settings, "inputs": inputs, "num_shards": preparation.num_shards}
        return _make(preparation, folder, workers, reporter, shared), True


def tokenizer_of(source: str, folder: Path) -> tuple[Tokenizer, Path | None, dict[str, Any]]:
    """Return the tokeniser of a Hugging Face model or of a prepared corpus, and the corpus's dict.txt.

    The third is what is done to a text before (``TextNormalizer.steps``): of a corpus, or of our export of one.
    ``source`` is a folder or a name on the hub; files that have to take another form are written into ``folder``.
    """
    place = find_source(source)
    if read_manifest(place) is not None:
        steps = manifest.load_normalizer(place).steps()
        return manifest.load_tokenizer(place), place / manifest.DICTIONARY_FILE, steps
    return import_tokenizer(place, folder), None, text_steps(place)


def adopt(folder: Path, tokenizer: Tokenizer | None = None) -> Manifest:
    """Writes manifest.json and tokenizer/ into a folder of stock fairseq-preprocess; what is there stays as it is.

    Its text went through ``tokenizer`` before; none: its symbols stood between white space.
    """
    present = read_manifest(folder)
    if present is not None and present.settings.get("origin") != _STOCK:
        raise UserError(f"{folder} has a manifest.json already: it needs none")
    path = folder / manifest.DICTIONARY_FILE
    dictionary = load_dictionary(path, way_out="give the --destdir of fairseq-preprocess --only-source")
    tokenizer = tokenizer or WhitespaceTokenizer(path)
    dictionary_of(tokenizer, path)  # it has symbols of this tokeniser
    counts = {}
    for split in ("train", "valid", "test"):
        if split == "train" or (folder / f"{split}.idx").exists():
            data = load_tokens(str(folder / split), dictionary)
            ids = np.memmap(folder / f"{split}.bin", data._index.dtype, "r")
            lines = {"documents": len(data), "lines": len(data)}
            counts[split] = {**lines, "tokens": int(data.sizes.sum()), "unknown": int((ids == dictionary.unk()).sum())}
    settings = {"origin": _STOCK, "text": settings_of(TextNormalizer()), "tokenizer": tokenizer_settings(tokenizer)}
    return manifest.finish_folder(folder, tokenizer, None, settings=settings, inputs={}, counts=counts)


def _make(
    preparation: Preparation, folder: Path, workers: int, reporter: Reporter, shared: dict[str, Any]
) -> Manifest:
    """Writes it all into ``folder``; the manifests of the shards and of the whole share ``shared``."""
    scratch = folder / ".text"  # hidden, so no part of what is recorded
    scratch.mkdir()
    met = Met()
    texts = _write_splits(preparation, scratch, workers, reporter, met)
    train, tokenizer = texts["train"], preparation.tokenizer
    lines = (line for _, line in train.read())
    if isinstance(tokenizer, BpeTraining):
        num_lines = min(train.lines, tokenizer.input_sentences or train.lines)
        reporter.say(f"training a SentencePiece BPE of {tokenizer.vocab_size:,} on {num_lines:,} lines")
        tokenizer = train_bpe(lines, train.lines, scratch / "sentencepiece.model", tokenizer)
    elif isinstance(tokenizer, SymbolCounting):
        tokenizer = tokenizer(lines, scratch)
    dictionary = dictionary_of(tokenizer, preparation.dictionary)
    encoder = TextEncoder(tokenizer, dictionary, TextNormalizer())  # the text is normalised
    placed = _place_shards(texts, folder, preparation.num_shards)
    reporter.say(f"binarising {sum(text.lines for text in texts.values()):,} lines with {len(dictionary):,} symbols")
    counts: dict[Path, dict[str, dict[str, int]]] = {}  # folder -> split -> what was counted
    trained_on = np.zeros(len(dictionary), dtype=np.int64)
    with reporter.bar("binarising", sum(text.path.stat().st_size for _, _, text in placed)) as bar:
        for home, split, text in placed:
            home.mkdir(exist_ok=True)
            written_V, seen = binarize(
                text.path, home / split, tokenizer, dictionary, workers=workers, progress=bar.update
            )
            unknown, tokens = int(written_V[dictionary.unk()]), int(written_V.sum())
            encoder.check_unknown(unknown, tokens, (line for _, line in text.read()), f"the {split} text")
            for character, count in seen.items():
                after = tokenizer.normalize(f"x{character}x").strip()[1:-1]
                if after.strip() != character.strip():
                    met["rewritten", f"{character!r} to {after!r}"] += count
            text.path.unlink()
            found = {"documents": text.documents, "lines": text.lines, "tokens": tokens, "unknown": unknown}
            counts.setdefault(home, {})[split] = found
            if split == "train":
                trained_on += written_V
    for rule, (done, otherwise) in _UNASKED.items():
        instances = Counter({instance: count for (name, instance), count in met.items() if name == rule})
        if instances and not (rule == "entity" and preparation.normalizer.unescape_entities):
            reporter.say(f"{instances.total():,} {done}, such as {most_frequent(instances, _SHOWN)}; {otherwise}")
    dictionary.count = trained_on.tolist()
    for number, (home, by_split) in enumerate(counts.items()):
        shard = None if home == folder else number
        made = manifest.finish_folder(home, tokenizer, dictionary, counts=by_split, shard=shard, **shared)
    if preparation.num_shards > 1:
        parts = {split: [found[split] for found in counts.values() if split in found] for split in texts}
        whole = {
            split: {name: sum(part[name] for part in found) for name in found[0]} for split, found in parts.items()
        }
        sizes = {name: path.stat().st_size for name, path in manifest.files_in(folder).items()}
        # Each shard has its own digests.
        made = dataclasses.replace(made, counts=whole, shard=None, outputs=sizes, digests={})
        made.save(folder)
    shutil.rmtree(scratch)
    return made


def _write_splits(
    preparation: Preparation, scratch: Path, workers: int, reporter: Reporter, met: Met
) -> dict[str, TextFile]:
    """Split -> its normalised text; of validation first, where there is some."""

    write_lines = partial(write_documents, documents=preparation.documents, workers=workers, met=met)

    def write(split: str, name: str) -> TextFile:
        paths = getattr(preparation, split)
        with reporter.bar(f"reading {split}", sum(path.stat().st_size for path in paths)) as bar:
            text = write_lines(paths, scratch / name, normalizer=preparation.normalizer, progress=bar.update)
        reporter.say(f"read {text.documents:,} documents, {text.lines:,} lines of {split} text")
        return text

    if preparation.valid:
        train = write("train", "train.txt")
        return {"valid": write("valid", "valid.txt"), "train": train}
    everything = write("train", "all.txt")
    chosen = draw_validation(everything.documents, preparation.valid_fraction, preparation.seed)
    if not chosen:
        return {"train": everything}
    paths = [scratch / "train.txt", scratch / "valid.txt"]
    train, valid = distribute_documents(everything.read(), paths, everything.separated, chosen.__contains__)
    everything.path.unlink()
    reporter.say(f"split off {valid.documents:,} documents, {valid.lines:,} lines for validation")
    return {"valid": valid, "train": train}


def _place_shards(texts: dict[str, TextFile], folder: Path, num_shards: int) -> list[tuple[Path, str, TextFile]]:
    """(data folder, split, text): training documents dealt out one by one, validation in the first."""
    if num_shards == 1:
        return [(folder, split, text) for split, text in texts.items()]
    train = texts["train"]
    if train.documents < num_shards:
        raise UserError(f"--shards {num_shards} is more than the {train.documents} training documents; give fewer")
    homes = [folder / f"shard{shard}" for shard in range(num_shards)]
    paths = [train.path.with_name(f"train{shard}.txt") for shard in range(num_shards)]
    shards = distribute_documents(train.read(), paths, train.separated, lambda number: number % num_shards)
    train.path.unlink()
    placed = [(home, "train", text) for home, text in zip(homes, shards, strict=True)]
    return [(homes[0], "valid", texts["valid"]), *placed] if "valid" in texts else placed
