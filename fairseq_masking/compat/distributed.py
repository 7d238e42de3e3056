"""Several processes, also without a GPU: gloo, a launch that starts every rank, DDP on CPU.

Stock fairseq counts GPUs: a plain launch of two CPU processes fails an assertion; with an init method it
starts no process at all and exits 0; under torchrun every rank trains alone, in the same save directory.
"""

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from fairseq.distributed import utils as distributed_utils
from fairseq.models import distributed_fairseq_model
from omegaconf import DictConfig
from torch.nn.parallel import DistributedDataParallel

from fairseq_masking.compat.patching import replaces
from fairseq_masking.errors import UserError

__all__ = ["complete_launch_settings", "runs_on_cpu", "spawns_cpu_ranks", "wrap_cpu_models_without_device_ids"]

_SLURM = {"SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"}


def runs_on_cpu(cfg: DictConfig) -> bool:
    """Whether fairseq's trainer will use the CPU: as asked, or because there is no GPU."""
    return bool(cfg.common.cpu) or not (torch.cuda.is_available() or cfg.common.tpu)


def complete_launch_settings(cfg: DictConfig) -> None:
    """Fills in ``cfg.distributed_training`` what fairseq cannot infer, then what it can.

    Under torchrun all ranks join one run, also where each sees one GPU only (fairseq then believes in a world of
    one). On CPU the backend becomes gloo, and a plain launch gets a free port of this machine.

    Raises:
        UserError: a rank above 0 on CPU without --distributed-no-spawn, which would start every rank again.
    """
    settings = cfg.distributed_training
    launcher = _launcher_in_environment()
    if launcher is not None and settings.distributed_init_method is None:
        _, settings.distributed_world_size = launcher
    if runs_on_cpu(cfg):
        _complete_for_cpu(settings, launcher)
    if settings.distributed_init_method is None:
        distributed_utils.infer_init_method(settings)
    if spawns_cpu_ranks(cfg) and settings.distributed_rank != 0:
        raise UserError(
            f"--distributed-rank {settings.distributed_rank} on CPU without --distributed-no-spawn would "
            f"start all {settings.distributed_world_size} ranks once more; add --distributed-no-spawn or "
            "leave the rank out"
        )


def spawns_cpu_ranks(cfg: DictConfig) -> bool:
    """Whether this process has to start the ranks, and none has a GPU (fairseq would start zero of them)."""
    settings = cfg.distributed_training
    given = settings.distributed_init_method is not None
    return runs_on_cpu(cfg) and given and not settings.distributed_no_spawn


def wrap_cpu_models_without_device_ids() -> None:
    """Lets ``--ddp-backend pytorch_ddp``, fairseq's default, wrap a model on CPU: device_ids must be None."""
    distributed_fairseq_model.DistributedDataParallel = _DistributedDataParallel


class _DistributedDataParallel(DistributedDataParallel):
    def __init__(self, module: torch.nn.Module, **options: Any) -> None:
        if next(module.parameters()).device.type == "cpu":
            options.update(device_ids=None, output_device=None)
        super().__init__(module, **options)


@replaces(distributed_utils, "all_gather_list")  # of fairseq-validate and some criterions, with CUDA buffers
def _gather_by_backend(original: Callable[..., Any], data: Any, group: Any = None, max_size: int = 16384) -> list[Any]:
    group = distributed_utils.get_global_group() if group is None else group
    if distributed_utils.use_xla() or dist.get_backend(group) != "gloo":
        return original(data, group=group, max_size=max_size)
    gathered: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(gathered, data, group=group)
    return gathered


def _complete_for_cpu(settings: DictConfig, launcher: tuple[int, int] | None) -> None:
    if settings.distributed_backend == "nccl":
        settings.distributed_backend = "gloo"
    if settings.distributed_init_method is not None or settings.distributed_world_size == 1:
        return
    if launcher is not None:
        settings.distributed_init_method = "env://"
        settings.distributed_rank, _ = launcher
        settings.device_id = 0
        settings.distributed_no_spawn = True
    elif settings.distributed_port <= 0 or os.environ.keys().isdisjoint(_SLURM):  # else Slurm decides
        port = settings.distributed_port if settings.distributed_port > 0 else _free_port()
        settings.distributed_init_method = f"tcp://127.0.0.1:{port}"


def _launcher_in_environment() -> tuple[int, int] | None:
    """The rank and the number of ranks, where there are several."""
    if not {"MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK"} <= os.environ.keys():
        return None
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return (rank, world_size) if world_size > 1 else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
