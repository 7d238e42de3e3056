"""The record of a preparation, DATA/manifest.json: inputs, settings, tokeniser, counts, digests.

It is written last, so a folder with a manifest is complete. By it a later run sees whether the folder holds
what is asked for again, training and use find the tokeniser and the normalisation again, and every file is read as it
was written: its SHA-256 is compared when a process first reads it. Of large files a user's cache remembers which were
whole, by size and time of change. Folders of before have no digests: they are read as they are, which is logged.
"""

import dataclasses
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_masking.errors import UserError
from fairseq_masking.files import hash_file, hash_json, read_json, write_json
from fairseq_masking.tokenizers import KINDS, Tokenizer
from fairseq_masking.tokenizers.normalization import TextNormalizer
from fairseq_masking.tokenizers.vocabularies import symbols_apart

if TYPE_CHECKING:
    from fairseq.data import Dictionary

    from fairseq_masking.corpus.workspace import Reporter

__all__ = [
    "DICTIONARY_FILE", "MANIFEST_FILE", "Manifest", "check_contents", "check_dictionary", "check_same",
    "describe_inputs", "files_in", "finish_folder", "first_shard", "load_normalizer", "load_tokenizer",
    "read_manifest", "settings_of", "tokenizer_settings",
]  # fmt: skip

logger = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.json"
DICTIONARY_FILE = "dict.txt"
_TOKENIZER_FOLDER = "tokenizer"
_FORMAT = 1
_LATER = {"normalization": "nmt_nfkc", "unescape_entities": False}
_LIBRARIES = ("fairseq-masking", "ve-fairseq", "torch", "numpy", "sentencepiece", "tokenizers", "sacremoses")
_REMEMBERED_BYTES = 1 << 26


@dataclass(frozen=True)
class Manifest:
    settings: dict[str, Any]  # everything beside the inputs that decides the result
    inputs: dict[str, list[dict[str, Any]]]  # split -> its files, each with ``name``, ``sha256`` and ``size`` in bytes
    tokenizer: dict[str, Any]  # ``kind``, ``symbols`` (how many) and ``files`` (name -> SHA-256)
    dictionary_sha256: str
    # split -> ``documents``, ``lines``, ``tokens`` (with the </s> of each line), ``unknown``; a shard's: of that shard
    counts: dict[str, dict[str, int]]
    outputs: dict[str, int]  # name -> size in bytes of every file beside the manifest
    versions: dict[str, str]  # of the libraries that had a hand in it
    shard: int | None = None  # number of this shard, None for the whole
    num_shards: int = 1  # in how many folders the training data lies
    format: int = _FORMAT
    digests: dict[str, str] = field(default_factory=dict)  # SHA-256 of outputs and manifest; empty in one of before

    def save(self, folder: Path) -> None:
        """Writes ``folder``/manifest.json in one step."""
        values = dataclasses.asdict(self)
        values["digests"] = {**values["digests"], MANIFEST_FILE: _digest_of(values)}
        write_json(folder / MANIFEST_FILE, values, indent=2)

    def data(self, folder: Path) -> str:
        """What fairseq-train takes: ``folder``, or its shards separated by colons."""
        if self.num_shards == 1:
            return str(folder)
        return ":".join(str(folder / f"shard{shard}") for shard in range(self.num_shards))

    def missing_outputs(self, folder: Path) -> list[str]:
        """Names the recorded files that ``folder`` lacks or holds with another size."""
        present = {name: path.stat().st_size for name in self.outputs if (path := folder / name).is_file()}
        return [name for name, size in self.outputs.items() if present.get(name) != size]


def first_shard(data_dir: str | Path) -> Path:
    """The first folder of a colon-separated list, as fairseq takes it."""
    return Path(str(data_dir).split(":")[0])


def read_manifest(data_dir: str | Path) -> Manifest | None:
    """Reads ``data_dir``/manifest.json; None if there is none. Of colon-separated shards, the first one's."""
    path = first_shard(data_dir) / MANIFEST_FILE
    if not path.exists():
        return None
    values = read_json(path, "prepare the data again")
    if isinstance(values.get("format"), int) and values["format"] > _FORMAT:
        raise UserError(f"{path} has format {values['format']}, known is {_FORMAT}; update fairseq_masking")
    objects = ("settings", "inputs", "tokenizer", "counts", "outputs", "digests")
    whole = values.keys() | {"digests"} == Manifest.__dataclass_fields__.keys()  # which those of before lack
    if not whole or not all(isinstance(values.get(name, {}), dict) for name in objects):
        raise UserError(f"{path} is no manifest of a preparation; prepare the data again")
    if values.get("digests") and values["digests"].get(MANIFEST_FILE) != _digest_of(values):
        raise UserError(f"{path} is not as it was written (its SHA-256 differs): get it, or prepare the data, again")
    return Manifest(**values)


def check_contents(path: str | Path) -> None:
    """Compare a file with the manifest of its folder, or of one of the two above it: is it as it was written?"""
    path = Path(path)
    if path.is_file():
        stat = path.stat()
        _check(path.absolute(), stat.st_size, stat.st_mtime_ns)


@cache
def _check(path: Path, size: int, mtime: int) -> None:
    found = next((folder / MANIFEST_FILE for folder in path.parents[:3] if (folder / MANIFEST_FILE).is_file()), None)
    wanted = found and _digests_in(found, found.stat().st_mtime_ns).get(path.relative_to(found.parent).as_posix())
    if found is None or wanted is None:
        return
    known, stamp = dict[str, Any](), [size, mtime, wanted]
    with suppress(OSError, RuntimeError, UserError):
        known = read_json(_memory(), optional=True)
    if known.get(str(path)) == stamp:
        return
    if hash_file(path) != wanted:
        raise UserError(
            f"{path} is not as it was written (its SHA-256 differs from {found.name}'s): get it, or make it, again"
        )
    if size >= _REMEMBERED_BYTES:
        with suppress(OSError, RuntimeError):
            write_json(_memory(), {**known, str(path): stamp})


@cache
def _digests_in(manifest: Path, mtime: int) -> dict[str, str]:
    with suppress(UserError):
        if isinstance(digests := read_json(manifest).get("digests"), dict):
            return digests
    logger.info("%s is of before and tells no digests: its files are read as they are", manifest)
    return {}


def _memory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fairseq_masking" / "whole.json"


def _digest_of(values: dict[str, Any]) -> str:
    others = {name: digest for name, digest in values["digests"].items() if name != MANIFEST_FILE}
    return hash_json({**values, "digests": others})


def check_dictionary(data_dir: str | Path) -> None:
    """Checks that dict.txt is the one that the data was binarised with; no manifest, no check."""
    for folder in map(Path, str(data_dir).split(":")):
        manifest = read_manifest(folder)
        path = folder / DICTIONARY_FILE
        if manifest is not None and hash_file(path) != manifest.dictionary_sha256:
            raise UserError(
                f"{path} is not the dictionary that this data was binarised with (its SHA-256 differs from "
                f"{MANIFEST_FILE}'s); put the right one back or prepare the data again"
            )


def load_tokenizer(data_dir: str | Path, kind: str | None = None) -> Tokenizer:
    """Loads the tokeniser that a data folder was prepared with, or of a ``kind``; of shards, the first one counts."""
    folder = first_shard(data_dir)
    home = folder / _TOKENIZER_FOLDER
    if kind is None and (manifest := read_manifest(folder)) is not None:
        kind = manifest.tokenizer["kind"]
    elif kind is None and (folder / DICTIONARY_FILE).is_file():
        tokenizer = symbols_apart(folder / DICTIONARY_FILE)
        logger.warning(
            "%s has no manifest.json: taken for data of fairseq-preprocess, its text for symbols with white space"
            " between them (fairseq-masking prepare corpus --from-fairseq %s says so once)", folder, folder,
        )  # fmt: skip
        return tokenizer
    elif kind is None:
        raise UserError(
            f"{folder} has no manifest.json that names its tokeniser; prepare the data with fairseq-masking prepare"
            f" corpus, or give --bpe ({', '.join(KINDS)}) and put its files into {home}"
        )
    if kind not in KINDS:
        raise UserError(f"unknown tokeniser kind {kind!r}; known are {', '.join(KINDS)}")
    for path in home.glob("*"):
        check_contents(path)
    return KINDS[kind].load(home)


def load_normalizer(data_dir: str | Path) -> TextNormalizer:
    """Returns the normaliser that a data folder was prepared with; fairseq-preprocess's text is as it was."""
    if (manifest := read_manifest(data_dir)) is not None:
        return TextNormalizer(**manifest.settings["text"])
    if (first_shard(data_dir) / DICTIONARY_FILE).is_file():
        return TextNormalizer()
    raise UserError(f"{data_dir} has no manifest.json; prepare it with fairseq-masking prepare corpus")


def check_same(
    present: Manifest, settings: dict[str, Any], inputs: dict[str, list[dict[str, Any]]], output: Path
) -> None:
    """Checks that ``output`` was made with these settings and inputs and is whole; a UserError says what is not."""
    changes = _changes(present.settings, settings)
    for split, files in inputs.items():
        before = [file["sha256"] for file in present.inputs.get(split, [])]
        if before != [file["sha256"] for file in files]:
            changes.append(f"the contents of the --{split} files")
    if changes:
        raise UserError(
            f"{output} was prepared with other settings or inputs, changed: {'; '.join(changes)}; give "
            "another --out, or --force to replace it"
        )
    if missing := present.missing_outputs(output):
        raise UserError(
            f"{output} is damaged: {', '.join(missing)} missing or of another size; --force prepares it again"
        )


def describe_inputs(paths: Iterable[Path], reporter: "Reporter") -> list[dict[str, Any]]:
    """Returns name, SHA-256 and size in bytes of each file."""
    files = []
    for path in paths:
        size = path.stat().st_size if path.is_file() else 0
        with reporter.bar(f"hashing {path.name}", size) as bar:
            files.append({"name": str(path), "sha256": hash_file(path, bar.update), "size": size})
    return files


def finish_folder(folder: Path, tokenizer: Tokenizer, dictionary: "Dictionary | None", **found: Any) -> Manifest:
    """Writes a data folder's dictionary and tokeniser, then its manifest, with what is not read off the folder."""
    if dictionary is not None:
        dictionary.save(str(folder / DICTIONARY_FILE))
    tokenizer.save(folder / _TOKENIZER_FOLDER)
    sizes = {name: path.stat().st_size for name, path in files_in(folder).items()}
    versions = {}
    for library in _LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[library] = version(library)
    manifest = Manifest(
        tokenizer={"kind": tokenizer.kind, "symbols": len(tokenizer.symbols), "files": tokenizer.digests()},
        dictionary_sha256=hash_file(folder / DICTIONARY_FILE),
        outputs=sizes,
        digests={name: hash_file(folder / name) for name, size in sizes.items() if size},
        versions=versions,
        **found,
    )
    manifest.save(folder)
    return manifest


def files_in(folder: Path) -> dict[str, Path]:
    """Returns every file of a folder by its path there, beside its manifest and what is hidden."""
    paths = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name.as_posix(): path
        for name, path in paths.items()
        if name != Path(MANIFEST_FILE) and not any(part.startswith(".") for part in name.parts)
    }


def settings_of(options: Any) -> dict[str, Any]:
    """Returns a dataclass's fields; those that older manifests lack only where they are not what it was then."""
    return {name: value for name, value in dataclasses.asdict(options).items() if _LATER.get(name, ...) != value}


def tokenizer_settings(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns what decides how a tokeniser writes text: its kind, its options, its files' SHA-256."""
    return {"kind": tokenizer.kind, **tokenizer.options, **tokenizer.digests()}


def _changes(before: Any, now: Any, name: str = "") -> list[str]:
    """Names each setting that differs, as "name before -> now"."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            change
            for key in dict.fromkeys([*before, *now])
            for change in _changes(before.get(key), now.get(key), f"{name}.{key}" if name else key)
        ]
    if before == now:
        return []
    if isinstance(before, dict) or isinstance(now, dict) or len(f"{before}{now}") > 80:
        return [name]  # too long to print: a hash, or another kind of tokeniser
    return [f"{name} {before} -> {now}"]
