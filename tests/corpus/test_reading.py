import bz2
import gzip
import hashlib
import lzma
from pathlib import Path

import pytest

from fairseq_masking.corpus.documents import read_lines
from fairseq_masking.errors import UserError
from fairseq_masking.files import hash_file

TEXT = "first line\r\n\n  naïve\x0bline \u2028 three \nlast"
LINES = ["first line", "", "naïve line   three", "last"]
LONG = "".join(f"{i} {i * i} some text\n" for i in range(20000)).encode()


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("t.txt", bytes),
        ("t.xz", lzma.compress),
        ("t.gz", gzip.compress),
        ("t.bz2", bz2.compress),
        ("odd", lzma.compress),
    ],
)
def test_lines_are_the_same_however_packed(tmp_path: Path, name: str, pack) -> None:
    path = tmp_path / name
    path.write_bytes(pack(TEXT.encode()))
    assert list(read_lines(path)) == LINES
    assert hash_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("pack", [bytes, lzma.compress, gzip.compress, bz2.compress])
def test_progress_sums_to_the_size_on_disk(tmp_path: Path, pack) -> None:
    path = tmp_path / "text"
    path.write_bytes(pack(LONG))
    steps: list[int] = []
    assert sum(1 for _ in read_lines(path, steps.append)) == 20000
    assert sum(steps) == path.stat().st_size
    assert min(steps) >= 0


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"\xef\xbb\xbfabc\n")
    assert list(read_lines(tmp_path / "t")) == ["abc"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\n \t\n", "holds no text"),
        (b"abc\nd\xe9f\n", "line 2 (byte 5) is not UTF-8 (0xe9)"),
        (b"\xef\xbb\xbfabc\nd\xe9f\n", "line 2 (byte 8) is not UTF-8"),
        ("hello\n".encode("utf-16"), "line 1 (byte 0) is not UTF-8"),
        ("hello\n".encode("utf-16-le"), "line 1 (byte 1) holds a NUL byte"),
        (lzma.compress(LONG)[:-200], "is cut short"),
        (gzip.compress(LONG)[:-200], "is cut short"),
        (bz2.compress(LONG)[:-200], "is cut short"),
        (lzma.compress(LONG)[:3000] + b"\0" * 500 + lzma.compress(LONG)[3500:], "cannot be read"),
        (gzip.compress(LONG)[:3000] + b"\0" * 500 + gzip.compress(LONG)[3500:], "cannot be read"),
    ],
)
def test_a_defect_is_one_line_with_its_place(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "text"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        list(read_lines(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_a_folder_and_a_wrong_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        list(read_lines(tmp_path / "none"))
    with pytest.raises(UserError, match="directory"):
        list(read_lines(tmp_path))
    (tmp_path / "plain.xz").write_bytes(b"just text\n")
    with pytest.raises(UserError, match=r"named \.xz but is no \.xz file"):
        list(read_lines(tmp_path / "plain.xz"))
