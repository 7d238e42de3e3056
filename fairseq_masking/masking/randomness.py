"""Random streams that are pure functions of (seed, epoch, index, split).

Philox is a counter-based generator: a stream is a key and a 256-bit counter, nothing is derived by hashing and no two
streams can meet. The key is the seed; the counter's four 64-bit words are, lowest first, the running count, the stream
of the item (0: the positions, 1 + s: the corruption of split s), the item's index and the epoch. Python's ``hash`` and
the global generators play no part, so workers, batch composition, world size and resuming cannot change a mask.
"""

import numpy as np

__all__ = ["corruption_generator", "noise_seed", "order_generator", "position_generator"]

# The second key word sets apart what else is drawn from the same seed.
_MASKS, _ORDER = 0, 1


def position_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The stream for the positions of an item: one for all its splits, which is what keeps them disjoint."""
    return _generator(seed, _MASKS, epoch, index, 0)


def corruption_generator(seed: int, epoch: int, index: int, split: int) -> np.random.Generator:
    """The stream for the corruption of one split of an item."""
    return _generator(seed, _MASKS, epoch, index, 1 + split)


def order_generator(seed: int) -> np.random.Generator:
    """The stream for the order of a dataset's items."""
    return _generator(seed, _ORDER, 0, 0, 0)


def noise_seed(seed: int, epoch: int, first_id: int) -> int:
    """A seed in [0, 2**62) for what is drawn on the device for a batch: dropout, Gumbel noise.

    A hash of (seed, epoch, the batch's first id) with NumPy's SeedSequence, whose output is guaranteed not to
    change between versions.
    """
    # The fixed leading word separates these seeds from anyone else's SeedSequence((seed, epoch, id)).
    words = (0x6D61736B, seed, epoch, first_id)
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]) >> 2


def _generator(seed: int, domain: int, epoch: int, index: int, stream: int) -> np.random.Generator:
    key = np.array((seed, domain), dtype=np.uint64)
    counter = np.array((0, stream, index, epoch), dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
