"""A small binarised corpus: 40 symbols, 60 sentences with empty lines and one-word lines among them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

from fairseq_masking.data import load_dictionary
from fairseq_masking.masking import MaskingVocabulary

BOS, PAD, EOS, UNK = 0, 1, 2, 3


@pytest.fixture(scope="session")
def write_corpus() -> Callable[..., str]:
    """Writes sentences as fairseq's binariser does; gives back the path without ending."""

    def write(prefix: Path, sentences: Sequence[Sequence[int]], dtype: type = np.uint16) -> str:
        builder = MMapIndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
        for sentence in sentences:
            builder.add_item(torch.tensor(list(sentence), dtype=torch.int64))
        builder.finalize(f"{prefix}.idx")
        return str(prefix)

    return write


@pytest.fixture(scope="session")
def sentences() -> list[list[int]]:
    """Each ends with </s>; lengths 1 (an empty line) to 12."""
    rng = np.random.default_rng(0)
    return [[*rng.integers(4, 39, size=size).tolist(), EOS] for size in rng.integers(0, 12, size=60)]


@pytest.fixture
def dictionary(tmp_path: Path) -> Dictionary:
    path = tmp_path / "dict.txt"
    path.write_text("".join(f"w{i} {100 - i}\n" for i in range(35)) + "<mask> 0\n")
    return load_dictionary(path)


@pytest.fixture(scope="session")
def vocabulary() -> MaskingVocabulary:
    return MaskingVocabulary.build(40, range(4), 39, starts_word=np.arange(40) % 3 == 0)
