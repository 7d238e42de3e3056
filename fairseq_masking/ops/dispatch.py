"""Which implementation of an operation runs: Triton where a GPU has it, else chunked PyTorch.

Every operation with kernels of its own takes ``impl: str = "auto"`` and asks ``choose_impl``.
"""

import functools
import importlib
import logging
import os
from types import ModuleType

import torch
from torch import Tensor

from fairseq_masking.errors import UserError

__all__ = ["IMPLEMENTATIONS", "choose_impl", "plan", "triton_obstacle"]

IMPLEMENTATIONS = ("auto", "torch", "triton")

# Volta and Turing are beyond what Triton supports.
_MIN_CAPABILITY = (8, 0)

logger = logging.getLogger(__name__)


def choose_impl(operation: str, impl: str, device: torch.device, dtype: torch.dtype = torch.float32) -> str:
    """Return ``torch`` or ``triton`` for tensors on ``device``.

    ``auto`` takes Triton on a CUDA GPU of compute capability 8.0 or more with Triton installed, else PyTorch,
    and logs the choice once. Triton's interpreter (``TRITON_INTERPRET=1``) runs on a CPU, but only where
    ``triton`` is asked for. Never waits for the device.

    Args:
        operation: its name, for the log and the error.
        dtype: of the tensors; the kernels compute in fp32, so fp64 is PyTorch's.
    """
    if impl not in IMPLEMENTATIONS:
        raise UserError(f"unknown implementation {impl!r}: choose {', '.join(IMPLEMENTATIONS)}")
    if impl == "torch":
        return "torch"
    obstacle = triton_obstacle(device, dtype)
    if impl == "auto":
        chosen = "torch" if obstacle or device.type != "cuda" else "triton"
        _log_choice(operation, chosen, device.type, obstacle)
        return chosen
    if obstacle:
        raise UserError(f"implementation triton of {operation}: {obstacle}; choose --ops-impl auto or torch")
    return "triton"


def plan(package: str, hidden: Tensor, chunk_elements: int | None, impl: str) -> tuple[ModuleType, int]:
    """Return an operation's module with the row-wise part, and how many logits may be in flight.

    Args:
        package: of the operation, with the modules ``torch_rows`` and ``triton_rows``.
    """
    chosen = choose_impl(package.rpartition(".")[2], impl, hidden.device, hidden.dtype)
    # late, since TRITON_INTERPRET counts when kernels are defined, and Triton may not be installed
    rows = importlib.import_module(f"{package}.{chosen}_rows")
    return rows, chunk_elements or rows.default_chunk_elements(hidden)


def triton_obstacle(device: torch.device, dtype: torch.dtype = torch.float32) -> str | None:
    """Return what keeps Triton from running there, or None."""
    if dtype == torch.float64:
        return "its kernels compute in float32, the tensors are float64"
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < _MIN_CAPABILITY:
            found, needed = (".".join(map(str, version)) for version in (capability, _MIN_CAPABILITY))
            name = torch.cuda.get_device_name(device)
            return f"{name} has compute capability {found}, Triton needs {needed} or more"
    elif device.type != "cpu" or os.environ.get("TRITON_INTERPRET") != "1":
        return f"the tensors are on the {device.type}, Triton needs a CUDA GPU"
    if not _triton_is_installed():
        return "the package triton is not installed"
    return None


@functools.cache
def _triton_is_installed() -> bool:
    try:
        importlib.import_module("triton")
    except ImportError:
        return False
    return True


@functools.cache
def _log_choice(operation: str, chosen: str, device_type: str, obstacle: str | None) -> None:
    reason = f" ({obstacle})" if obstacle and device_type == "cuda" else ""
    logger.info("%s runs in %s on %s%s", operation, chosen, device_type, reason)
