"""What tests of other families' models share."""

from pathlib import Path

import pytest
from foreign_models import prepare, write_wordpiece


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with the vocabulary of ``write_wordpiece``, whose special symbols stand elsewhere."""
    folder = tmp_path_factory.mktemp("corpus")
    write_wordpiece(folder)
    return prepare(folder, "--tokenizer-from", folder)
