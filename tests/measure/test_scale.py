"""Scale on paper: an update's time by hand, what holds at its limits, and the command."""

import dataclasses

import pytest
import torch
import torch.distributed as dist
from commands import run_verb

from fairseq_masking.errors import UserError
from fairseq_masking.measure.scale import STATE_BYTES, Cluster, Work, best_batch, update_time
from fairseq_masking.methods.base.options import SIZES
from fairseq_masking.methods.mlm.model import MLMConfig, MLMModel

# 1 TFLOP a row at 100 TFLOP/s: 10 ms. 100 MB of gradients, 20 of them the embedding's.
WORK = Work(flops=1e12, operators=100, parameters=50_000_000, embedding=10_000_000, gradient_bytes=2, rows=4,
            global_batch=64, tokens=512, updates=1000)  # fmt: skip
CLUSTER = Cluster(peak=200e12, utilisation=0.5, node_size=4, node_bandwidth=100e9, network_bandwidth=10e9,
                  latency=0.0, launch=1e-6, memory_bandwidth=1e12)  # fmt: skip


def test_one_gpu_only_computes():
    update = update_time(WORK, CLUSTER, gpus=1)
    assert (update.rows, update.micro_batches, update.exposed) == (4, 16, 0)
    assert update.computed == pytest.approx(0.64)
    assert update.optimizer == pytest.approx(50e6 * STATE_BYTES / 1e12)
    assert update.efficiency == pytest.approx(0.64 / (0.64 + 0.0015))


def test_what_backward_does_not_hide_is_waited_for():
    """Two nodes of 4: 2 * 3/4 * bytes / 100e9 inside, 2 * 1/2 * bytes / 4 / 10e9 across."""
    each = 1.5 / 100e9 + 0.25 / 10e9  # seconds a byte
    update = update_time(WORK, CLUSTER, gpus=8)
    assert (update.rows, update.micro_batches) == (4, 2)
    assert update.computed == pytest.approx(0.08)
    assert update.exposed == pytest.approx(20e6 * each)  # 80 MB take 3.2 ms, less than two thirds of 40
    slow = dataclasses.replace(CLUSTER, node_bandwidth=1e9, network_bandwidth=1e9)
    assert update_time(WORK, slow, gpus=8).exposed == pytest.approx((80e6 + 20e6) * 1.75e-9 - 0.04 * 2 / 3)
    assert update_time(WORK, slow, gpus=8).bound_by == "reduction"


def test_launches_bound_what_is_too_small():
    slow = dataclasses.replace(CLUSTER, launch=1e-3)
    update = update_time(WORK, slow, gpus=64)
    assert (update.rows, update.micro_batches) == (1, 1)
    assert update.computed == pytest.approx(0.1)
    assert update.bound_by == "launches"


def test_steps_of_a_ring_cost_their_latency_in_every_bucket():
    waiting = dataclasses.replace(CLUSTER, latency=1e-3, bucket=10e6)
    more = update_time(WORK, waiting, gpus=8).exposed - update_time(WORK, CLUSTER, gpus=8).exposed
    # the embedding: a bucket of 2 (3 + 1) steps; 80 MB: 8 buckets, 64 ms and 3.2 ms in all, of which 26.7 are hidden
    assert more == pytest.approx(8e-3 + 8 * 8e-3 + 80e6 * (1.5 / 100e9 + 0.25 / 10e9) - 0.04 * 2 / 3)


def test_a_larger_batch_is_found_where_there_is_one():
    batch = best_batch(WORK, CLUSTER, gpus=64, efficiency=0.9)
    assert batch > WORK.global_batch
    assert update_time(WORK, CLUSTER, gpus=64, global_batch=batch).efficiency >= 0.9
    assert update_time(WORK, CLUSTER, gpus=64, global_batch=batch // 2).efficiency < 0.9
    assert best_batch(WORK, CLUSTER, gpus=64, efficiency=1.1) == 0
    with pytest.raises(UserError, match="64 rows are not enough for 128 GPUs"):
        update_time(WORK, CLUSTER, gpus=128)


@pytest.mark.parametrize(("size", "others"), [("base", 0.02), ("large", 0.1)])
def test_next_to_nothing_waits_for_the_tied_embedding(size, others):
    """DDP's own buckets, by readiness and with fairseq's 25 MB: the embedding's is the last and has little else."""
    with torch.device("meta"):
        model = MLMModel(MLMConfig(**vars(SIZES[size])), vocab_size=50_265, pad_index=1)
    ready = [name for name, _ in model.named_parameters()][::-1]
    named = {name: torch.empty(weight.shape, dtype=torch.bfloat16) for name, weight in model.named_parameters()}
    buckets, _ = dist._compute_bucket_assignment_by_size([named[name] for name in ready], [25 << 20])
    (*_, last) = [[ready[place] for place in bucket] for bucket in buckets]
    assert "encoder.embed_tokens.weight" in last
    whole = sum(named[name].numel() for name in last)
    assert 0 < whole - named["encoder.embed_tokens.weight"].numel() < others * whole


@pytest.mark.parametrize("recipe", ["mlm_tiny", "fully_explored_tiny"])
def test_command_counts_a_recipe(capsys, tmp_path, recipe):
    options = ["--vocab-size", 1000, "--out", tmp_path / "scale.csv", "model.encoder_layers=1"]
    assert run_verb("measure", "scale", "--config", recipe, "--gpus", 1, 16, *options) == 0
    said = capsys.readouterr().out
    assert f"{recipe}: 16 rows of 40 tokens an update" in said
    assert "| 16 " in said
    assert (tmp_path / "scale.csv").read_text(encoding="utf-8").count("\n") >= 3
    assert run_verb("measure", "scale", "--config", recipe, "--gpus", 32, "--vocab-size", 1000) == 1
    assert "16 rows are not enough for 32 GPUs" in capsys.readouterr().err
