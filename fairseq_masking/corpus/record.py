"""What a manifest records of a preparation, and whether a folder holds what is asked for again."""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fairseq_masking.corpus.manifest import MANIFEST_FILE, Manifest
from fairseq_masking.corpus.progress import Reporter
from fairseq_masking.corpus.reading import hash_file
from fairseq_masking.errors import UserError
from fairseq_masking.tokenizers import Tokenizer

__all__ = [
    "check_same",
    "describe_inputs",
    "file_sizes",
    "library_versions",
    "tokenizer_record",
    "tokenizer_settings",
]

_LIBRARIES = ("fairseq-masking", "ve-fairseq", "torch", "numpy", "sentencepiece", "tokenizers", "sacremoses")


def check_same(
    present: Manifest, settings: dict[str, Any], inputs: dict[str, list[dict[str, Any]]], output: Path
) -> None:
    """Checks that ``output`` was made with these settings and inputs and is whole.

    Raises:
        UserError: it was not, or files are missing.
    """
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


def describe_inputs(paths: Iterable[Path], reporter: Reporter) -> list[dict[str, Any]]:
    """Returns name, SHA-256 and size in bytes of each file."""
    files = []
    for path in paths:
        size = path.stat().st_size if path.is_file() else 0
        with reporter.bar(f"hashing {path.name}", size) as progress:
            files.append({"name": str(path), "sha256": hash_file(path, progress), "size": size})
    return files


def tokenizer_settings(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns what decides how a tokeniser writes text: its kind, its options, its files' SHA-256."""
    return {"kind": tokenizer.kind, **tokenizer.options, **_hashes(tokenizer)}


def tokenizer_record(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns a manifest's ``tokenizer``."""
    return {"kind": tokenizer.kind, "symbols": len(tokenizer.symbols), "files": _hashes(tokenizer)}


def file_sizes(folder: Path) -> dict[str, int]:
    """Returns the size in bytes of every file in a folder beside its manifest and hidden ones."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST_FILE)
    return {
        str(path.relative_to(folder)): path.stat().st_size for path in paths if not path.name.startswith(".")
    }


def library_versions() -> dict[str, str]:
    """Returns the versions of the libraries that had a hand in a preparation."""
    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return versions


def _hashes(tokenizer: Tokenizer) -> dict[str, str]:
    return {name: hash_file(path) for name, path in tokenizer.files.items()}


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
