"""How much a layer's states of [MASK]s say about the tokens that were hidden: mutual information, in nats.

The states are clustered by mini-batch k-means; the estimate is that between the cluster and the token.
Source: 2211.04898, Section 4.2 and Figure 4; Voita et al. 2019 (1909.01380), Section 4.
Shapes: N states, D width.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.cluster import MiniBatchKMeans

from fairseq_masking.errors import UserError

__all__ = [
    "LayerInformation",
    "cluster",
    "entropy",
    "layer_information",
    "most_frequent",
    "mutual_information",
]

Integers = npt.NDArray[np.int64]

# Sculley 2010 takes batches of 1,000 or more; with fewer than a few a cluster, clusters die.
_BATCH_SIZE = 4096


class LayerInformation(NamedTuple):
    """What the states of one layer say, in nats.

    Attributes:
        information: mutual information of cluster and token.
        chance: the same with the tokens shuffled: what the estimate gives where there is no information, as
            the number of states is limited. It is not subtracted.
        num_clusters: clusters that hold a state.
    """

    information: float
    chance: float
    num_clusters: int


def most_frequent(counts_V: Integers, count: int, *, never: npt.NDArray[np.bool_]) -> Integers:
    """Return the ``count`` most frequent tokens, ascending; fewer where no more occur.

    Args:
        counts_V: how often each occurs.
        never: bool [V], symbols to leave out, such as special ones.
    """
    counts_V = counts_V * ~never
    best = np.argsort(-counts_V, kind="stable")[:count]
    return np.sort(best[counts_V[best] > 0])


def cluster(states_ND: npt.NDArray[np.float32], num_clusters: int, *, seed: int) -> Integers:
    """Return the cluster of each state.

    Raises:
        UserError: fewer states than clusters.
    """
    if not 2 <= num_clusters <= len(states_ND):
        raise UserError(
            f"--clusters {num_clusters}: there are {len(states_ND)} states, so 2 to {len(states_ND)} clusters"
            " are possible; raise --states or lower --clusters"
        )
    means = MiniBatchKMeans(
        num_clusters, batch_size=_BATCH_SIZE, n_init=1, random_state=seed, reassignment_ratio=0.0
    )
    return means.fit_predict(states_ND).astype(np.int64)


def mutual_information(labels_N: Integers, clusters_N: Integers) -> float:
    """Return ``sum p(x, y) ln(p(x, y) / p(x) p(y))`` of the empirical distribution."""
    return entropy(labels_N) + entropy(clusters_N) - entropy(_pairs(labels_N, clusters_N))


def entropy(labels_N: Integers) -> float:
    """Return the entropy of the empirical distribution."""
    shares = np.unique(labels_N, return_counts=True)[1] / len(labels_N)
    return float(-(shares * np.log(shares)).sum())


def layer_information(
    states_ND: npt.NDArray[np.float32], tokens_N: Integers, num_clusters: int, *, seed: int
) -> LayerInformation:
    """Cluster the states of a layer and compare with the hidden tokens."""
    clusters_N = cluster(states_ND, num_clusters, seed=seed)
    shuffled_N = np.random.default_rng(seed).permutation(tokens_N)
    return LayerInformation(
        mutual_information(tokens_N, clusters_N),
        mutual_information(shuffled_N, clusters_N),
        len(np.unique(clusters_N)),
    )


def _pairs(left_N: Integers, right_N: Integers) -> Integers:
    return left_N * (int(right_N.max()) + 1) + right_N
