"""Where documents end within a block, for attention that stays within them.

A prepared corpus has an empty line, a lone </s>, between documents of several lines, and none where every line is a
document (``corpus/documents.py``).
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fairseq_masking.corpus.manifest import read_manifest

__all__ = ["document_bounds", "document_numbers"]

logger = logging.getLogger(__name__)


def document_bounds(folder: Path, tokens: Any) -> str:
    """Return what stands between a corpus's documents: ``line`` or ``blank-line``, as ``prepare corpus`` has it.

    The folder's manifest says it; without one, empty lines are the bounds wherever there are any.
    """
    manifest = read_manifest(folder)
    settings = manifest.settings if manifest else {}
    if "documents" in settings:
        by_line = settings["documents"] == "line" and not settings["text"]["split_sentences"]
    else:
        by_line = not (np.asarray(tokens.sizes) == 1).any()
    bounds = "line" if by_line else "blank-line"
    logger.info("attention stays within documents: %s ends one", "a line" if by_line else "an empty line")
    return bounds


def document_numbers(tokens_T: npt.NDArray[np.int64], bounds: str, eos: int) -> npt.NDArray[np.int64]:
    """Return the number of each token's document in its block, int64 ``[T]`` from 0 on.

    The outer <s> and </s> belong to the first and the last document, an empty line's </s> to the one that it ends.
    """
    ends_T = tokens_T == eos
    if bounds == "blank-line":
        ends_T[1:] &= ends_T[:-1]
        ends_T[0] = False
    numbers_T = np.zeros(len(tokens_T), dtype=np.int64)
    np.cumsum(ends_T[:-2], out=numbers_T[1:-1])
    numbers_T[-1] = numbers_T[-2]
    return numbers_T
