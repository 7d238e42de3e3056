"""A step never waits for the device, outside of clipping and logging.

Without a GPU it is proved in two ways: on the meta device, whose values nobody can read and where the code
takes the GPU's paths, and on the CPU by watching every operation that PyTorch runs.
"""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import fairseq
import pytest
import torch
from commands import PACKAGE
from fairseq import optim, options, tasks, utils
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_MODEL_NAME_REGISTRY
from fairseq.trainer import Trainer
from omegaconf import DictConfig
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import fairseq_masking  # noqa: F401 - registers what is tested

aten = torch.ops.aten
# What makes the host wait: it reads a value, or the shape of a result depends on values.
WAITING = {
    aten._local_scalar_dense, aten.equal, aten.is_nonzero, aten.nonzero, aten.nonzero_numpy, aten.argwhere,
    aten.masked_select, aten.bincount, aten.histc, aten._unique2, aten.unique_consecutive, aten.unique_dim,
    aten.unique_dim_consecutive,
}  # fmt: skip
SPLITS = ("--criterion", "fully_explored_mlm", "--mask-splits", "4")
VARIANTS = {
    "plain": (),
    "splits": SPLITS,
    "padding": ("--sample-break-mode", "eos"),
    "splits_and_padding": (*SPLITS, "--sample-break-mode", "eos"),
    "pre_ln": ("--normalize-before",),
    "relative": ("--relative-position", "t5"),
    "recomputed": ("--checkpoint-activations",),
    "following": ("--mask-prob-end", "0.1", "--max-update", "10", "--mask-law", "adaptive"),
}
CRITERIONS = {"map_net": "map_net", "amos": "amos"}  # other methods train with mlm
METHODS = [name for name in ("mlm", "map_net", "three_ml", "amos") if f"{name}_tiny" in ARCH_MODEL_NAME_REGISTRY]


class Step(NamedTuple):
    """All that an update takes; ``samples`` are micro-batches on the CPU."""

    cfg: DictConfig
    task: tasks.FairseqTask
    model: torch.nn.Module
    criterion: torch.nn.Module
    samples: list[dict[str, Any]]


class Watch(TorchDispatchMode):
    """Collects what would make the host wait, each with the innermost line outside of PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet in WAITING or _selects_by_values(packet, args, kwargs) or _crosses_devices(packet, args, kwargs):
            self.found.append(f"{func} at {_where()}")
        return func(*args, **kwargs)


def _selects_by_values(packet: Any, args: tuple, kwargs: dict[str, Any]) -> bool:
    if packet in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_):
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    if packet is aten.repeat_interleave:
        return kwargs.get("output_size") is None
    return False


def _crosses_devices(packet: Any, args: tuple, kwargs: dict[str, Any]) -> bool:
    if packet is aten._to_copy:
        shipped = kwargs.get("non_blocking") and args[0].device.type == "cpu"  # from the host, not waited for
        return not shipped and kwargs.get("device") not in (None, args[0].device)
    return packet is aten.copy_ and args[0].device != args[1].device


def _where() -> str:
    for frame in reversed(traceback.extract_stack()[:-2]):
        path = Path(frame.filename)
        if "torch" not in path.parts and path != Path(__file__):
            return f"{path}:{frame.lineno} {frame.name}: {frame.line}"
    return "the test"


def prepare(data: Path, arch: str, *more: str) -> Step:
    """What ``fairseq-train`` builds from these options."""
    method = arch.rpartition("_")[0]
    fixed = [str(data), "--user-dir", str(PACKAGE), "--task", "masked_pretraining", "--arch", arch, "--criterion"]
    fixed += [CRITERIONS.get(method, "mlm"), "--optimizer", "fused_adamw", "--weight-decay", "0.1", "--lr", "1e-3"]
    fixed += ["--no-decay-bias-and-norm", "--tokens-per-sample", "32", "--batch-size", "8", "--clip-norm", "1"]
    fixed += ["--update-freq", "2", "--lr-scheduler", "polynomial_decay", "--total-num-update", "10"]
    parsed = options.parse_args_and_arch(options.get_training_parser(), [*fixed, *more])
    cfg = convert_namespace_to_omegaconf(parsed)
    if cfg.criterion._name not in CRITERION_DATACLASS_REGISTRY:
        pytest.skip(f"no criterion {cfg.criterion._name} yet")
    task = tasks.setup_task(cfg.task)
    torch.manual_seed(0)
    model, criterion = task.build_model(cfg.model), task.build_criterion(cfg.criterion)
    task.load_dataset("train", combine=True)
    rows = 8 // task.dataset("train").masker.num_splits
    samples = [
        task.dataset("train").collater([task.dataset("train")[start + row] for row in range(rows)])
        for start in (0, rows)
    ]
    return Step(cfg, task, model, criterion, samples)


def to_device(sample: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return utils.apply_to_sample(lambda tensor: tensor.to(device), sample)


@contextmanager
def nothing_waits() -> Iterator[None]:
    with Watch() as watch:
        yield
    assert not watch.found, "\n".join(watch.found)


def update(step: Step, samples: list[dict[str, Any]], optimizer: Any, number: int) -> None:
    """An update as the Trainer makes it: micro-batches, scaling, clipping, the optimizer."""
    optimizer.zero_grad()
    size = 0
    for sample in samples:
        _, sample_size, _ = step.task.train_step(sample, step.model, step.criterion, optimizer, number)
        size += sample_size
    optimizer.multiply_grads(1 / size)
    optimizer.clip_grad_norm(step.cfg.optimization.clip_norm)
    optimizer.step()


def build(step: Step, device: torch.device, bf16: bool) -> Any:
    """Move the model and make its optimizer."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    step.model.to(device, dtype)
    step.criterion.to(device, dtype)
    step.cfg.common.bf16 = bf16
    parameters = [parameter for parameter in step.model.parameters() if parameter.requires_grad]
    if bf16:
        return optim.FP16Optimizer.build_optimizer(step.cfg, parameters)
    return optim.build_optimizer(step.cfg.optimizer, parameters)


def compute(step: Step, device: torch.device, bf16: bool) -> None:
    optimizer = build(step, device, bf16)
    samples = [to_device(sample, device) for sample in step.samples]
    with nothing_waits():
        for number in range(2):
            update(step, samples, optimizer, number)


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_update_runs_where_no_value_can_be_read(variant: str, bf16: bool, small_data: Path) -> None:
    compute(prepare(small_data, "mlm_tiny", *VARIANTS[variant]), torch.device("meta"), bf16)


@pytest.mark.parametrize("method", [name for name in METHODS if name in ("three_ml", "amos")])
def test_so_does_an_update_of(method: str, small_data: Path) -> None:
    """MAP-Net, which draws with a generator of the device, is left to the tests below: meta has none."""
    compute(prepare(small_data, f"{method}_tiny"), torch.device("meta"), bf16=True)


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("method", METHODS)
def test_no_operation_of_an_update_waits(method: str, bf16: bool, small_data: Path) -> None:
    compute(prepare(small_data, f"{method}_tiny"), torch.device("cpu"), bf16)


@pytest.mark.parametrize("method", METHODS)
def test_nor_one_whose_masks_follow_the_training(method: str, small_data: Path) -> None:
    """Rate and guesses shape every method's masks, and every method's guesses are counted."""
    step = prepare(small_data, f"{method}_tiny", "--mask-prob", "0.4", *VARIANTS["following"])
    compute(step, torch.device("cpu"), bf16=False)
    guessed, masked = step.task._law._pending.sum(1).tolist()
    rates = [0.4 - 0.3 * update / 10 for update in (0, 1)]  # two updates of two times 8 full rows of 30 tokens
    assert guessed <= masked == sum(2 * 8 * round(30 * rate) for rate in rates)


@pytest.mark.cuda
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_cuda_never_synchronises(variant: str, bf16: bool, small_data: Path, device: torch.device) -> None:
    step = prepare(small_data, "mlm_tiny", *VARIANTS[variant])
    check_on_cuda(step, device, bf16)


@pytest.mark.cuda
@pytest.mark.parametrize("method", METHODS)
def test_cuda_never_synchronises_with(method: str, small_data: Path, device: torch.device) -> None:
    check_on_cuda(prepare(small_data, f"{method}_tiny"), device, True)


def check_on_cuda(step: Step, device: torch.device, bf16: bool) -> None:
    optimizer = build(step, device, bf16)
    samples = [to_device(sample, device) for sample in step.samples]
    update(step, samples, optimizer, 0)  # libraries are initialised
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(1, 3):
            update(step, samples, optimizer, number)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("options", [(), ("--bf16",), SPLITS], ids=["fp32", "bf16", "splits"])
def test_only_the_trainer_and_its_logging_wait(options: tuple[str, ...], small_data: Path) -> None:
    """A whole ``train_step``: the check that the gradient is finite, the metrics, and nothing else."""
    step = prepare(small_data, "mlm_tiny", "--cpu", *options)
    trainer = Trainer(step.cfg, step.task, step.model, step.criterion)
    trainer.train_step(step.samples)
    with Watch() as watch:
        trainer.train_step(step.samples)
    for found in watch.found:
        assert found.partition(" at ")[2].startswith(f"{Path(fairseq.__file__).parent}{os.sep}"), found
    assert 1 <= len(watch.found) <= 30, watch.found


def reads(values: Tensor) -> None:
    values.sum().item()


def chooses_rows(values: Tensor) -> None:
    values[values > 0]


def writes_by_mask(values: Tensor) -> None:
    values[values > 0] = values[:1]


def asks_for_any(values: Tensor) -> None:
    bool(values.gt(0).any())


def repeats_unknown_times(values: Tensor) -> None:
    torch.arange(values.shape[0], device=values.device).repeat_interleave(values.long().clamp(1, 2))


def finds_places(values: Tensor) -> None:
    values.nonzero()


def reads_in_backward(values: Tensor) -> None:
    leaf = torch.ones_like(values, requires_grad=True)
    leaf.register_hook(lambda gradient: gradient * gradient.sum().item())
    leaf.square().sum().backward()


CULPRITS = [reads, chooses_rows, writes_by_mask, asks_for_any, repeats_unknown_times, finds_places, reads_in_backward]


@pytest.mark.parametrize("culprit", CULPRITS)
def test_what_waits_is_seen(culprit: Any) -> None:
    with pytest.raises(AssertionError, match="aten"), nothing_waits():
        culprit(torch.randn(8))


def makes_a_tensor_of_a_list(values: Tensor) -> None:
    values + torch.tensor([1.0] * 8).to(values.device)


def goes_home(values: Tensor) -> None:
    values.cpu()


def becomes_a_list(values: Tensor) -> None:
    values.tolist()


@pytest.mark.parametrize("culprit", [*CULPRITS, makes_a_tensor_of_a_list, goes_home, becomes_a_list])
def test_what_waits_fails_on_the_meta_device(culprit: Any) -> None:
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)), nothing_waits():
        culprit(torch.empty(8, device="meta"))
