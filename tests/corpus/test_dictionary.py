"""dict.txt: what loads, and one line for each way in which it does not."""

import logging
from pathlib import Path

import pytest

from fairseq_masking.data import load_dictionary
from fairseq_masking.errors import UserError


def test_mask_is_kept_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "dict.txt"
    path.write_text("a 3\n<mask> 0\nb 2\n")
    dictionary = load_dictionary(path)
    assert dictionary.symbols == ["<s>", "<pad>", "</s>", "<unk>", "a", "<mask>", "b"]


def test_missing_mask_is_appended_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "dict.txt"
    path.write_text("a 3\nb 2\n")
    with caplog.at_level(logging.INFO):
        dictionary = load_dictionary(str(path))
    assert dictionary.index("<mask>") == len(dictionary) - 1 == 6
    assert "<mask>: appended as symbol 6" in caplog.text


def test_unusual_symbols(tmp_path: Path) -> None:
    """Symbols may look like counts, hold other spaces, or overwrite a line as in CamemBERT's file."""
    path = tmp_path / "dict.txt"
    path.write_text("▁the 9\n262 7\n\u3000 5\nno\u00a0break 4\n<unk> 1 #fairseq:overwrite\n", encoding="utf-8")
    dictionary = load_dictionary(path)
    assert [dictionary.indices[s] for s in ("▁the", "262", "\u3000", "no\u00a0break")] == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"\n", "line 1"),
        (b"a 3\nno-count-here\n", "line 2"),
        (b"a 3\nb three\n", "line 2"),
        (b"a 3\n\nb 2\n", "line 2"),
        (b"a 3\n 4\n", "line 2"),
        (b"a 3\nb 2\na 1\n", "'a' stands there twice"),
        (b"<pad> 3\n", "<pad>"),
        (b"\xff\xfe\x00\x01garbage", "byte 0 is not UTF-8"),
        (bytes(range(128)), "line 1"),
        (b"MMIDIDX\x00\x00" + bytes(40), "line 1"),
    ],
)
def test_bad_files(content: bytes | None, named: str, tmp_path: Path) -> None:
    path = tmp_path / "dict.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_dictionary(path)
    message = str(error.value)
    assert named in message and str(path) in message and "fairseq-masking prepare corpus" in message
    assert "\n" not in message


def test_a_folder_is_no_dictionary(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_dictionary(tmp_path)
