"""transformers, where it is installed."""

import pytest

import fairseq_masking  # noqa: F401 - it hides a torchaudio that transformers could not import


@pytest.fixture(scope="session")
def transformers():
    return pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[hf]'")
