"""Tables of text, that read well in a terminal and as Markdown, and as CSV, with what reproduces them."""

import csv
import functools
import hashlib
import platform
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairseq_masking.files import whole_file

__all__ = ["environment", "format_rows", "format_table", "provenance_of", "write_csv"]


def format_rows(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Return a table of rows of named values; columns: heading -> template, such as ``{loss:.3f}``."""
    return format_table(list(columns), [[cell.format(**row) for cell in columns.values()] for row in rows])


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with padded columns: the first one left-aligned, the others right-aligned."""
    columns = list(zip(header, *rows, strict=True))
    first, *others = (max(map(len, column)) for column in columns)
    rule = ["-" * first, *("-" * (width - 1) + ":" for width in others)]
    padded = (
        [cells[0].ljust(first), *(cell.rjust(width) for cell, width in zip(cells[1:], others, strict=True))]
        for cells in (header, rule, *rows)
    )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in padded)


def provenance_of(
    command: Sequence[str], checkpoints: Sequence[Path] = (), *, since: float | None = None, **more: str
) -> dict[str, str]:
    """Return what reproduces numbers: command line, checkpoints' hashes, ``environment``, ``more``, seconds."""
    seconds = {} if since is None else {"seconds": f"{time.perf_counter() - since:.0f}"}
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in checkpoints]
    return {"command": shlex.join(command), "checkpoint_sha256": " ".join(hashes), **environment(), **more, **seconds}


def environment(device: str = "cpu") -> dict[str, str]:
    """Return device, versions and commit."""
    import torch  # late: most of what writes a table needs none

    name = torch.cuda.get_device_name() if device == "cuda" else f"{_cpu_name()} ({torch.get_num_threads()} threads)"
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {"device": name, **versions, "commit": _commit()}


@functools.cache
def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    return done.stdout.strip() or "unknown"


def write_csv(path: Path, rows: Sequence[dict[str, Any]], provenance: dict[str, str]) -> None:
    """Write the rows, all or none; what holds for all of them stands in the first one alone."""
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=[*rows[0], *provenance])
        writer.writeheader()
        for number, row in enumerate(rows):
            cells = {key: f"{value:.9g}" if isinstance(value, float) else value for key, value in row.items()}
            writer.writerow({**cells, **(provenance if number == 0 else {})})


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
