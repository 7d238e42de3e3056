"""dispatch: which implementation runs where, what is logged, what is refused."""

import logging

import pytest
import torch

from fairseq_masking.errors import UserError
from fairseq_masking.ops import dispatch, linear_cross_entropy
from fairseq_masking.ops.dispatch import choose_impl

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    dispatch._log_choice.cache_clear()


@pytest.fixture
def gpu(monkeypatch):
    """Pretends that there is a GPU with Triton installed; the capability can be set."""

    def pretend(capability=(9, 0), *, installed=True):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100-SXM2-16GB")
        monkeypatch.setattr(dispatch, "_triton_is_installed", lambda: installed)

    return pretend


@pytest.mark.parametrize(
    ("capability", "installed", "dtype", "expected"),
    [
        ((9, 0), True, torch.bfloat16, "triton"),
        ((8, 0), True, torch.float32, "triton"),
        ((12, 0), True, torch.float32, "triton"),
        ((7, 5), True, torch.float16, "torch"),
        ((7, 0), True, torch.float16, "torch"),
        ((9, 0), False, torch.bfloat16, "torch"),
        ((9, 0), True, torch.float64, "torch"),
    ],
)
def test_auto(capability, installed, dtype, expected, gpu):
    gpu(capability, installed=installed)
    assert choose_impl("op", "auto", GPU, dtype) == expected
    assert choose_impl("op", "auto", CPU, dtype) == "torch"
    assert choose_impl("op", "torch", GPU, dtype) == "torch"


def test_auto_stays_with_torch_on_a_cpu_even_in_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose_impl("op", "auto", CPU) == "torch"
    pytest.importorskip("triton")
    assert choose_impl("op", "triton", CPU) == "triton"


@pytest.mark.parametrize(
    ("device", "capability", "installed", "dtype", "words"),
    [
        (CPU, (9, 0), True, torch.float32, "the tensors are on the cpu, Triton needs a CUDA GPU"),
        (GPU, (7, 0), True, torch.float32, "V100-SXM2-16GB has compute capability 7.0, Triton needs 8.0"),
        (GPU, (9, 0), False, torch.float32, "the package triton is not installed"),
        (GPU, (9, 0), True, torch.float64, "the tensors are float64"),
    ],
)
def test_triton_that_cannot_run_is_one_clear_line(device, capability, installed, dtype, words, gpu):
    gpu(capability, installed=installed)
    with pytest.raises(UserError) as error:
        choose_impl("linear_cross_entropy", "triton", device, dtype)
    message = str(error.value)
    assert words in message
    assert "linear_cross_entropy" in message and "choose --ops-impl auto or torch" in message
    assert "\n" not in message


def test_unknown_implementation():
    with pytest.raises(UserError, match="unknown implementation 'fastest': choose auto, torch, triton"):
        choose_impl("op", "fastest", CPU)


def test_the_choice_is_logged_once(gpu, caplog):
    gpu((7, 0))
    with caplog.at_level(logging.INFO, logger="fairseq_masking.ops.dispatch"):
        for _ in range(3):
            choose_impl("op", "auto", GPU)
            choose_impl("op", "auto", CPU)
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith("op runs in torch on cuda (Tesla V100-SXM2-16GB has compute")
    assert caplog.messages[1] == "op runs in torch on cpu"


@pytest.mark.parametrize("impl", ["triton", "fastest"])
def test_the_operation_asks(impl):
    hidden, weight = torch.zeros(1, 2), torch.zeros(3, 2)
    with pytest.raises(UserError):
        linear_cross_entropy(hidden, weight, None, torch.zeros(1, dtype=torch.int64), impl=impl)
