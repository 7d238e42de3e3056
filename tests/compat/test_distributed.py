"""Two gloo processes on CPU, started in every way that users start them, train one model together."""

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from commands import Finished, assert_ok, assert_one_line_error, run_command, run_fairseq_train, weights
from fairseq.dataclass.configs import FairseqConfig
from fairseq.distributed import utils as distributed_utils
from omegaconf import DictConfig, OmegaConf

import fairseq_masking
from fairseq_masking.compat import distributed
from fairseq_masking.errors import UserError

NUM_UPDATES = "4"


def assert_same_weights(one: Path, other: Path) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=0, atol=2e-6, msg=name)


@pytest.fixture(scope="module")
def alone(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process that does the work of two."""
    folder = tmp_path_factory.mktemp("alone")
    finished = run_fairseq_train(small_data, folder, "--update-freq", "2", "--max-update", NUM_UPDATES)
    assert_ok(finished)
    return folder


def test_two_processes_equal_one(small_data: Path, tmp_path: Path, alone: Path) -> None:
    """Under torchrun with legacy_ddp, then resumed by a plain launch with pytorch_ddp."""
    fairseq_train = Path(sys.executable).parent / "fairseq-train"
    torchrun = ["torchrun", "--standalone", "--nproc-per-node", "2", fairseq_train]
    legacy = ["--max-update", "2", "--ddp-backend", "legacy_ddp"]
    first = run_fairseq_train(small_data, tmp_path, *legacy, program=torchrun)
    assert first.returncode == 0, first.stderr[-4000:]
    assert first.stdout.count("done training") == 1  # rank 1 logs warnings only
    plain = ["--distributed-world-size", "2", "--max-update", NUM_UPDATES, "--ddp-backend", "pytorch_ddp"]
    second = run_fairseq_train(small_data, tmp_path, *plain)
    assert second.returncode == 0, second.stderr[-4000:]
    assert "@ 2 updates" in second.stdout
    assert_same_weights(alone, tmp_path)


def test_error_on_one_rank_is_one_line(small_data: Path, tmp_path: Path) -> None:
    """Of a rank that a server starts; all other tests of two ranks fork them."""
    finished = failing_plugin_run(small_data, tmp_path, "--distributed-world-size", "2", rank=1)
    assert_one_line_error(finished, "rank 1 has a bad day")
    assert not list((tmp_path / "save").glob("*.pt"))


def failing_plugin_run(data: Path, folder: Path, *options: str, rank: int) -> Finished:
    """Trains with a plugin on top of ours whose criterion raises a UserError on one rank."""
    plugin = folder / "failing_plugin"
    plugin.mkdir()
    (plugin / "__init__.py").write_text(FAILING_PLUGIN.format(rank=rank))
    return run_fairseq_train(data, folder / "save", *options, user_dir=plugin)


FAILING_PLUGIN = """
import threading
from fairseq.distributed import utils as distributed_utils
from fairseq_masking.methods.mlm.criterion import MLMCriterion
from fairseq_masking.errors import UserError

forward = MLMCriterion.forward

def failing_forward(self, *args, **options):
    if distributed_utils.get_global_rank() == {rank}:
        raise UserError("rank {rank} has a bad day")
    return forward(self, *args, **options)

MLMCriterion.forward = failing_forward
threading.Thread(target=threading.Event().wait, daemon=True).start()  # a process that is not to be forked
"""


def settings(**given: object) -> DictConfig:
    """The part of fairseq's configuration that a launch reads."""
    distributed_training = {
        "distributed_world_size": 1,
        "distributed_rank": 0,
        "distributed_backend": "nccl",
        "distributed_init_method": None,
        "distributed_port": -1,
        "device_id": 0,
        "distributed_no_spawn": False,
        "tpu": False,
        "pipeline_model_parallel": False,
        **given,
    }
    common = {"cpu": True, "tpu": False, "user_dir": None}
    return OmegaConf.create({"common": common, "distributed_training": distributed_training})


def test_lists_are_gathered_without_cuda(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert distributed_utils.all_gather_list({"loss": 1.5}, group=dist.group.WORLD) == [{"loss": 1.5}]
    finally:
        dist.destroy_process_group()


@pytest.mark.usefixtures("clean_environment")
def test_settings_of_a_plain_launch() -> None:
    cfg = settings(distributed_world_size=2)
    distributed.complete_launch_settings(cfg)
    assert cfg.distributed_training.distributed_init_method.startswith("tcp://127.0.0.1:")
    assert cfg.distributed_training.distributed_backend == "gloo"
    assert distributed.spawns_cpu_ranks(cfg)


@pytest.mark.usefixtures("clean_environment")
def test_given_init_method_starts_ranks_instead_of_none() -> None:
    cfg = settings(distributed_world_size=2, distributed_init_method="tcp://127.0.0.1:23456")
    distributed.complete_launch_settings(cfg)
    assert distributed.spawns_cpu_ranks(cfg)


@pytest.mark.usefixtures("clean_environment")
def test_one_process_stays_alone() -> None:
    cfg = settings()
    distributed.complete_launch_settings(cfg)
    assert cfg.distributed_training.distributed_init_method is None
    assert not distributed.spawns_cpu_ranks(cfg)


def test_settings_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "WORLD_SIZE": "3", "RANK": "2"}
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    cfg = settings()
    distributed.complete_launch_settings(cfg)
    got = cfg.distributed_training
    assert (got.distributed_world_size, got.distributed_rank, got.distributed_init_method) == (3, 2, "env://")
    assert got.distributed_no_spawn and got.distributed_backend == "gloo"


@pytest.mark.usefixtures("clean_environment")
def test_rank_by_hand_needs_no_spawn() -> None:
    by_hand = {"distributed_world_size": 2, "distributed_rank": 1, "distributed_init_method": "tcp://127.0.0.1:9"}
    with pytest.raises(UserError, match="--distributed-no-spawn"):
        distributed.complete_launch_settings(settings(**by_hand))
    cfg = settings(**by_hand, distributed_no_spawn=True)
    distributed.complete_launch_settings(cfg)
    assert not distributed.spawns_cpu_ranks(cfg)


@pytest.mark.usefixtures("clean_environment")
def test_user_dir_defaults_to_the_package(tmp_path: Path) -> None:
    seen = []
    for given in (None, "elsewhere/fairseq_masking", "/some/other_plugin"):
        cfg = OmegaConf.structured(FairseqConfig)
        cfg.common.update(cpu=True, user_dir=given)
        cfg.checkpoint.save_dir = str(tmp_path)
        distributed_utils.call_main(cfg, lambda cfg: seen.append(cfg.common.user_dir))
    package = fairseq_masking.__path__[0]
    assert seen == [package, package, "/some/other_plugin"]


def test_no_settings_change_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = settings(distributed_init_method="tcp://host:1", distributed_world_size=8)
    cfg.common.cpu = False
    before = OmegaConf.to_container(cfg)
    distributed.complete_launch_settings(cfg)
    assert OmegaConf.to_container(cfg) == before


def test_a_rank_that_the_one_command_starts_registers_the_package() -> None:
    """``fairseq-masking`` registers where a verb needs it: a process that it spawns has its sys.argv."""
    program = (
        "import pickle, sys; sys.argv[0] = 'fairseq-masking'\n"
        "from fairseq_masking.compat.launch import RankMain\n"
        "assert 'fairseq_masking.registration' not in sys.modules\n"
        "assert pickle.loads(pickle.dumps(RankMain(len, 'reports'))).reports == 'reports'\n"
        "assert 'fairseq_masking.registration' in sys.modules\n"
    )
    assert_ok(run_command(["python -c", program], server="plain"))
