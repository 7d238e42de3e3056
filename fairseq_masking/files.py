"""Files that appear whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["whole_file"]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields where to write what becomes ``path`` when the block ends well; if it fails, nothing has changed.

    The folder is made. A device or a pipe is written to itself.

    Raises:
        OSError: of the block or of putting the file in place, with the name of ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        yield path
        return
    target = path.resolve()  # a link stays one
    partial = target.with_name(f".{target.name}")
    try:
        yield partial
        partial.replace(target)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)
