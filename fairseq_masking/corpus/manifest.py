"""The record of a preparation, DATA/manifest.json: inputs, settings, tokeniser, counts, hashes.

It is written last, so a folder with a manifest is complete.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_masking.corpus.reading import hash_file
from fairseq_masking.errors import UserError
from fairseq_masking.files import read_json, whole_file

__all__ = [
    "DICTIONARY_FILE",
    "MANIFEST_FILE",
    "TOKENIZER_FOLDER",
    "Manifest",
    "check_dictionary",
    "first_shard",
    "read_manifest",
]

MANIFEST_FILE = "manifest.json"
DICTIONARY_FILE = "dict.txt"
TOKENIZER_FOLDER = "tokenizer"
_FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """What made a data folder.

    Attributes:
        settings: everything beside the inputs that decides the result.
        inputs: split -> its files, each with ``name``, ``sha256`` and ``size`` in bytes.
        tokenizer: ``kind``, ``symbols`` (how many) and ``files`` (name -> SHA-256).
        dictionary_sha256: SHA-256 of dict.txt.
        counts: split -> ``documents``, ``lines``, ``tokens`` (with the </s> of each line), ``unknown``; a
            shard's own manifest counts that shard.
        outputs: name -> size in bytes of every file beside the manifest.
        versions: of the libraries that had a hand in it.
        shard: number of this shard, None for the whole.
        num_shards: in how many folders the training data lies.
    """

    settings: dict[str, Any]
    inputs: dict[str, list[dict[str, Any]]]
    tokenizer: dict[str, Any]
    dictionary_sha256: str
    counts: dict[str, dict[str, int]]
    outputs: dict[str, int]
    versions: dict[str, str]
    shard: int | None = None
    num_shards: int = 1
    format: int = _FORMAT

    def save(self, folder: Path) -> None:
        """Writes ``folder``/manifest.json in one step."""
        text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)
        with whole_file(folder / MANIFEST_FILE) as partial:
            partial.write_text(text + "\n", encoding="utf-8")

    def missing_outputs(self, folder: Path) -> list[str]:
        """Names the recorded files that ``folder`` lacks or holds with another size."""
        return [
            name
            for name, size in self.outputs.items()
            if not (folder / name).is_file() or (folder / name).stat().st_size != size
        ]


def first_shard(data_dir: str | Path) -> Path:
    """The first folder of a colon-separated list, as fairseq takes it."""
    return Path(str(data_dir).split(":")[0])


def read_manifest(data_dir: str | Path) -> Manifest | None:
    """Reads ``data_dir``/manifest.json; None if there is none. Of colon-separated shards, the first one's.

    Raises:
        UserError: the file is no manifest, or one of a newer format.
    """
    path = first_shard(data_dir) / MANIFEST_FILE
    if not path.exists():
        return None
    values = read_json(path, "prepare the data again")
    fields = {field.name for field in dataclasses.fields(Manifest)}
    if isinstance(values.get("format"), int) and values["format"] > _FORMAT:
        raise UserError(f"{path} has format {values['format']}, known is {_FORMAT}; update fairseq_masking")
    if set(values) != fields:
        raise UserError(f"{path} is no manifest of a preparation; prepare the data again")
    return Manifest(**values)


def check_dictionary(data_dir: str | Path) -> None:
    """Checks that dict.txt is the one that the data was binarised with; no manifest, no check.

    Raises:
        UserError: dict.txt is missing or another one.
    """
    for folder in map(Path, str(data_dir).split(":")):
        manifest = read_manifest(folder)
        if manifest is None:
            continue
        path = folder / DICTIONARY_FILE
        if hash_file(path) != manifest.dictionary_sha256:
            raise UserError(
                f"{path} is not the dictionary that this data was binarised with (its SHA-256 differs from "
                f"{MANIFEST_FILE}'s); put the right one back or prepare the data again"
            )
