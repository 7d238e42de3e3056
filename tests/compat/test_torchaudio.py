"""A torchaudio whose library does not load is as good as none: importers catch ImportError, not OSError."""

import sys

import pytest

from fairseq_masking.compat.environment import hide_broken_torchaudio


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A torchaudio in front of whatever is installed."""
    package = tmp_path / "torchaudio"
    (package / "lib").mkdir(parents=True)
    (package / "__init__.py").write_text("answer = 42\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "torchaudio", None)  # remembers what was there
    del sys.modules["torchaudio"]
    return package


def test_a_broken_one_is_hidden(fake):
    (fake / "lib" / "_torchaudio.abi3.so").write_bytes(b"no library")
    hide_broken_torchaudio()
    with pytest.raises(ImportError):
        import torchaudio  # noqa: F401


def test_a_working_one_stays(fake):
    hide_broken_torchaudio()
    import torchaudio

    assert torchaudio.answer == 42
