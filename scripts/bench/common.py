"""What every benchmark writes beside its numbers, and the one way to wait for a GPU."""

import platform
import subprocess
from pathlib import Path

import torch

__all__ = ["environment", "synchronize"]


def environment(device: str) -> dict[str, str]:
    """Return device, versions and commit, for a row of a CSV."""
    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        cpu = [
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
        ]
        name = f"{cpu[0].split(':')[1].strip()} ({torch.get_num_threads()} threads)"
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return {
        "device": name,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit.stdout.strip() or "unknown",
    }


def synchronize() -> None:
    """Wait until the GPU, where there is one, has done all it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
