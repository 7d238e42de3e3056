"""Documents: raw files to one normalised text file, and that to a validation split and shards.

Raw files are plain or compressed (.xz, .gz, .bz2) and read as streams of lines; a defect is a UserError.

The intermediate text has one line per item of the data set. Where documents can have several lines, an empty
line stands *between* two documents; fairseq binarises it to a lone </s>, at which ``--sample-break-mode
complete_doc`` cuts. Where every document is one line (``--documents line`` without sentence splitting) there
is no empty line: each line is a whole document, and ``--sample-break-mode eos`` keeps them apart.
"""

import bz2
import gzip
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO
from unicodedata import category

import numpy as np

from fairseq_masking.corpus.workers import map_in_order
from fairseq_masking.errors import UserError
from fairseq_masking.files import open_binary
from fairseq_masking.tokenizers.normalization import TextNormalizer

__all__ = [
    "DOCUMENT_BOUNDS", "Met", "TextFile", "distribute_documents", "draw_validation", "read_lines", "write_documents",
]  # fmt: skip

DOCUMENT_BOUNDS = ("line", "blank-line")
Met = Counter[tuple[str, str]]  # what is done to lines without being asked: (rule, an instance) -> how often
_BATCH_LINES = 512

# Suffix -> how such a file begins, and what reads it.
_COMPRESSIONS: dict[str, tuple[bytes, Callable[[BinaryIO], Any]]] = {
    ".xz": (b"\xfd7zXZ\x00", lzma.LZMAFile),
    ".gz": (b"\x1f\x8b", gzip.open),
    ".bz2": (b"BZh", bz2.BZ2File),
}
# fairseq reads its text in universal-newline mode, where a lone \r ends a line, and str.splitlines splits at
# the others; none of them is a line end here.
_LINE_BREAKS = str.maketrans(dict.fromkeys("\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", " "))
_UNSEEN = ("Cc", "Cf", "Zl", "Zp", "Zs")  # Unicode's controls, formats and white space
_ENTITY = re.compile(r"&(?:#\d+|#[xX][0-9a-fA-F]+|[a-zA-Z][a-zA-Z0-9]+);")


@dataclass
class TextFile:
    path: Path  # where it lies
    separated: bool  # whether empty lines stand between documents
    documents: int = 0  # how many were written
    lines: int = 0  # how many lines with text were written

    def read(self) -> Iterator[tuple[bool, str]]:
        """Yields (whether a document begins here, line)."""
        new_document = True
        with open(self.path, encoding="utf-8", newline="\n") as file:
            for raw in file:
                line = raw.removesuffix("\n")
                if line:
                    yield new_document, line
                new_document = not (self.separated and line)


def write_documents(
    inputs: Sequence[Path],
    output: Path,
    *,
    documents: str,
    normalizer: TextNormalizer,
    workers: int,
    progress: Callable[[int], object],
    met: Met,
) -> TextFile:
    """Normalises raw text files, whose ends end a document, into one file of the intermediate form.

    Args:
        documents: "line" (each line is a document) or "blank-line" (empty lines stand between documents).
        workers: number of processes; one works where the normaliser has little to do.
        progress, met: as of ``read_lines``.
    """
    by_line = documents == "line"
    lines = chain.from_iterable(chain(read_lines(path, progress, met), [""]) for path in inputs)
    batches = iter(lambda: list(islice(lines, _BATCH_LINES)), [])

    def normalize(batch: list[str]) -> list[list[str] | None]:
        return [normalizer.sentences(line) if line else None for line in batch]

    raw = chain.from_iterable(map_in_order(normalize, batches, workers=workers if normalizer.is_costly else 1))
    separated = not by_line or normalizer.split_sentences
    (text,) = distribute_documents(_begun(raw, by_line=by_line), [output], separated, lambda number: 0)
    if not text.documents:
        raise UserError(f"{', '.join(map(str, inputs))}: no text is left after normalisation")
    return text


def draw_validation(num_documents: int, fraction: float, seed: int) -> frozenset[int]:
    """Draws the documents of the validation split: an exact number, at least one, a function of ``seed``."""
    if fraction == 0:
        return frozenset()
    if num_documents < 2:
        raise UserError(
            f"the corpus has {num_documents} document, too few to split off a validation set; give --valid "
            "FILE, or --documents line if each line is a document"
        )
    count = min(max(1, round(num_documents * fraction)), num_documents - 1)
    chosen = np.random.default_rng(seed).choice(num_documents, count, replace=False, shuffle=False)
    return frozenset(chosen.tolist())


def distribute_documents(
    lines: Iterable[tuple[bool, str]], outputs: Sequence[Path], separated: bool, choose: Callable[[int], int]
) -> list[TextFile]:
    """Writes document number i of ``lines`` (whether one begins here, line) to ``outputs[choose(i)]``, in order."""
    texts = [TextFile(path, separated) for path in outputs]
    with ExitStack() as stack:
        files = [stack.enter_context(open(path, "w", encoding="utf-8", newline="\n")) for path in outputs]
        number = -1
        for new_document, line in lines:
            if new_document:
                number += 1
                text, file = texts[choose(number)], files[choose(number)]
                if separated and text.documents:
                    file.write("\n")
                text.documents += 1
            text.lines += 1
            file.write(line + "\n")
    return texts


def read_lines(
    path: str | Path, progress: Callable[[int], object] = lambda _: None, met: Met | None = None
) -> Iterator[str]:
    r"""Yields the lines of a UTF-8 text file, stripped; only "\n" ends a line, and one that shows nothing is empty.

    ``progress`` is called with the number of bytes read from disk since its last call; ``met`` counts what is done.
    """
    met = Met() if met is None else met
    holds_text, returns, number, offset, reported = False, 0, 0, 0, 0
    with open_binary(path) as raw_file, _decompress(raw_file, path) as file:
        try:
            for number, raw in enumerate(file, start=1):
                line = _decode(raw, path, number, offset)
                returns += line.count("\r")
                line = _clean(line, met)
                offset += len(raw)
                holds_text = holds_text or bool(line)
                if number % 1024 == 0:
                    progress(raw_file.tell() - reported)
                    reported = raw_file.tell()
                yield line
        except EOFError as error:
            raise UserError(
                f"{path} is cut short: its compressed data ends after {offset} bytes of text; fetch it again"
            ) from error
        except (lzma.LZMAError, zlib.error, OSError) as error:
            raise UserError(
                f"{path} cannot be read after {offset} bytes of text ({error}); fetch or compress it again"
            ) from error
        progress(raw_file.tell() - reported)
    if returns > number:
        raise UserError(
            f"{path} has {returns:,} carriage returns (\\r) inside of its {number:,} lines: it ends lines with them"
            " alone, as old Macs do; convert it with tr '\\r' '\\n'"
        )
    if not holds_text:
        raise UserError(f"{path} holds no text; remove it from the inputs")


def _begun(raw: Iterable[list[str] | None], *, by_line: bool) -> Iterator[tuple[bool, str]]:
    new_document = True
    for sentences in raw:
        for sentence in sentences or ():
            yield new_document, sentence
            new_document = False
        if by_line or sentences is None:  # an empty line or a file's end
            new_document = True


def _decompress(file: BinaryIO, path: str | Path) -> AbstractContextManager[BinaryIO]:
    """The first bytes, not the name, tell the compression."""
    head = file.read(6)
    file.seek(0)
    for magic, opened in _COMPRESSIONS.values():
        if head.startswith(magic):
            return opened(file)
    suffix = Path(path).suffix
    if suffix in _COMPRESSIONS:
        raise UserError(f"{path} is named {suffix} but is no {suffix} file; rename it or compress it again")
    return nullcontext(file)


def _decode(raw: bytes, path: str | Path, number: int, offset: int) -> str:
    try:
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: line {number} (byte {offset + error.start}) is not UTF-8 "
            f"(0x{error.object[error.start]:02x}); convert it, e.g. iconv -f latin1 -t utf-8"
        ) from error
    if "\0" in line:
        raise UserError(
            f"{path}: line {number} (byte {offset + raw.index(0)}) holds a NUL byte: UTF-16 or binary data, "
            "not UTF-8 text; convert it, e.g. iconv -f utf-16 -t utf-8"
        )
    return line.strip()


def _clean(line: str, met: Met) -> str:
    if all(category(character) in _UNSEEN for character in line):
        if line:
            met["invisible", ascii(line[:10])] += 1
        return ""
    if "&" in line:
        met.update(("entity", entity) for entity in _ENTITY.findall(line))
    if len(line.splitlines()) > 1:
        met.update(("break", ascii(character)) for character in line if ord(character) in _LINE_BREAKS)
        line = line.translate(_LINE_BREAKS)
    return line
