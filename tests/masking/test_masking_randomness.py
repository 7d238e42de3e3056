"""The streams: equal arguments give equal numbers, different ones unrelated numbers."""

import itertools
import os
import subprocess
import sys

import numpy as np

import fairseq_masking
from fairseq_masking.masking.randomness import corruption_generator, noise_seed, order_generator, position_generator


def test_streams_differ() -> None:
    streams = [order_generator(seed) for seed in (0, 1, 2**62)]
    for seed, epoch, index in itertools.product((0, 1, 2**62), (0, 1, 2), (0, 1, 2**40)):
        streams.append(position_generator(seed, epoch, index))
        streams += [corruption_generator(seed, epoch, index, split) for split in range(3)]
    heads = {tuple(stream.integers(2**62, size=64).tolist()) for stream in streams}
    assert len(heads) == len(streams)
    every_number = [number for head in heads for number in head]
    assert len(set(every_number)) == len(every_number), "no stream is a later part of another"


def test_noise_seeds() -> None:
    seeds = [noise_seed(*key) for key in itertools.product(range(5), range(5), range(100))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**62 for seed in seeds)
    assert np.mean([seed < 2**61 for seed in seeds]) > 0.4
    assert noise_seed(1, 2, 3) == noise_seed(1, 2, np.int64(3))


def test_nothing_depends_on_the_process() -> None:
    """Python's string hash differs between processes; the streams do not."""
    code = (
        "import sys, types;"
        "package = sys.modules['fairseq_masking'] = types.ModuleType('fairseq_masking');"  # without fairseq's imports
        f"package.__path__ = {list(fairseq_masking.__path__)};"
        "from fairseq_masking.masking.randomness import noise_seed, position_generator as p;"
        "print(noise_seed(1, 2, 3), p(1, 2, 3).permutation(9).tolist())"
    )
    here = f"{noise_seed(1, 2, 3)} {position_generator(1, 2, 3).permutation(9).tolist()}"
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip().splitlines()[-1] == here
