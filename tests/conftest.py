"""What all tests share: the device, a small binarised corpus, fairseq's commands as subprocesses."""

import gc
import logging
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts its threads
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # or each process starts others, which import torch
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")  # not tried out by compiling a program for each vector unit

from collections.abc import Callable, Iterator
from pathlib import Path

import hydra_cache  # noqa: F401 - it makes compositions cheaper
import pytest
import torch
from _pytest.assertion import rewrite
from commands import LAUNCHER_VARIABLES, Finished, run_command, run_fairseq_train, write_corpus
from fork_server import share_fork_servers, start_servers
from torch.utils.data import _utils as data_loading

data_loading.MP_STATUS_CHECK_INTERVAL = 0.5  # s that the garbage collector waits for a data worker's end
logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)  # or its line follows pytest's last one


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=["cpu", "cuda"], default="cpu", help="where tensors of the tests live")


def pytest_configure(config: pytest.Config) -> None:
    """Defines Triton's kernels for its interpreter, before torch.compile imports Triton for a GPU."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        start_servers()  # once for all workers, which do the rest
        return
    share_fork_servers()
    if hasattr(config, "workerinput") and not sys.dont_write_bytecode:
        rewrite_a_share(config)
    if config.getoption("--device") == "cpu":
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            try:
                import triton  # noqa: F401
            except ImportError:
                return
            import fairseq_masking.methods.amos.gumbel_mixture.triton_rows
            import fairseq_masking.ops.linear_cross_entropy.triton_rows  # noqa: F401


def rewrite_a_share(config: pytest.Config) -> None:
    """Prepare the asserts of some files: every worker reads all of them, and all would begin with the same."""
    number, count = int(config.workerinput["workerid"].removeprefix("gw")), config.workerinput["workercount"]
    for path in sorted(Path(__file__).parent.rglob("test_*.py"))[number::count]:
        kept = rewrite.get_cache_dir(path) / f"{path.stem}{rewrite.PYC_TAIL}"
        if rewrite.try_makedirs(kept.parent) and rewrite._read_pyc(path, kept) is None:
            stat, code = rewrite._rewrite_test(path, config)
            rewrite._write_pyc(config.stash[rewrite.assertstate_key], code, stat, kept)


# Files that take longest: begun first, so that no worker is left alone with one at the end.
LONGEST = (
    "test_method_contract",
    "test_benchmarks",
    "test_compilation",
    "test_pages",
    "test_golden",
    "test_campaign",
    "test_distributed",
    "test_gumbel_mixture_compiled",
    "test_linear_cross_entropy_compiled",
    "test_training",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
    if config.getoption("--device") == "cuda" and torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA GPU and --device cuda")
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(skip)


def pytest_collection_finish() -> None:
    """What was imported and collected stays: no search for garbage has to pass through it again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or libraries tell that it leaked


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device of ``--device``; a test that takes it is skipped where there is none."""
    name = request.config.getoption("--device")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("--device cuda, but there is no CUDA GPU")
    return torch.device(name)


@pytest.fixture(autouse=True)
def same_state_in_every_run() -> None:
    """What a test draws and what is logged do not hang on the tests before it, so not on how many run at once."""
    torch.manual_seed(0)
    logging.disable(logging.NOTSET)
    logging.root.setLevel(logging.INFO)  # as in fairseq's commands


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus of some 6,000 tokens in which the next word can be guessed from the one before."""
    folder = tmp_path_factory.mktemp("small_data")
    write_corpus(folder, {"train": 600, "valid": 60})
    return folder


@pytest.fixture(scope="session")
def run() -> Callable[..., Finished]:
    """Runs a command of this environment (``fairseq-train``, ``torchrun``, ...) and waits for its end."""
    return run_command


@pytest.fixture(scope="session")
def run_train() -> Callable[..., Finished]:
    """Runs ``fairseq-train DATA --user-dir <this package> --cpu ...``: a tiny model, 2 updates by default."""
    return run_fairseq_train


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No launcher's variables around the test."""
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    yield


@pytest.fixture(params=["torch", "triton"])
def impl(request: pytest.FixtureRequest, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each implementation of an operation; Triton's runs in its interpreter where the device is a CPU."""
    if request.param == "triton":
        pytest.importorskip("triton")
        if device.type == "cpu":
            monkeypatch.setenv("TRITON_INTERPRET", "1")
    return request.param


@pytest.fixture(scope="session")
def transformers():
    """transformers, where it is installed."""
    import fairseq_masking  # noqa: F401 - it hides a torchaudio that transformers could not import

    return pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[hf]'")
