"""Relative positions: both bucketings against tables worked out independently, and the bias they index."""

import pytest
import torch

from fairseq_masking.errors import UserError
from fairseq_masking.modules.relative_position import (
    BUCKETINGS,
    RelativePositionBias,
    amos_buckets,
    bias_by_diagonals,
    t5_buckets,
)

# The distance n at which each bucket beyond the exact ones begins, in whole numbers, without logarithms:
# t5's k-th at the first with far^k exact^(m-k) <= n^m, m = half - exact; amos's k-th after the last with
# n^m exact^(k-1) <= (far-1)^(k-1) exact^m, m = half - 1 - exact.
BEGINNINGS = {
    ("t5", 16, 50): [4, 8, 15, 27],
    ("t5", 32, 128): [8, 12, 16, 23, 32, 46, 64, 91],
    ("t5", 64, 128): [16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113],
    ("amos", 16, 50): [4, 5, 10, 22],
    ("amos", 32, 128): [8, 9, 12, 18, 27, 39, 58, 86],
    ("amos", 64, 128): [16, 17, 19, 22, 25, 28, 32, 37, 43, 49, 56, 64, 74, 84, 97, 111],
}


@pytest.mark.parametrize(("kind", "num_buckets", "max_distance"), BEGINNINGS)
def test_buckets_begin_where_whole_numbers_say(kind, num_buckets, max_distance):
    half, size = num_buckets // 2, 300
    beginnings = [*range(half // 2), *BEGINNINGS[kind, num_buckets, max_distance]]
    assert len(beginnings) == half
    distances = torch.arange(size)
    bucket = torch.bucketize(distances, torch.tensor(beginnings), right=True) - 1
    left, right = (
        BUCKETINGS[kind](sign * distances, num_buckets=num_buckets, max_distance=max_distance, max_positions=size)
        for sign in (-1, 1)
    )
    if kind == "t5":
        assert torch.equal(left, bucket) and torch.equal(right, bucket + half * (distances > 0))
    else:
        assert torch.equal(left, half - 1 - bucket) and torch.equal(right, half - 1 + bucket)


def test_t5_buckets_by_hand():
    # 32 buckets, 128: 8 exact a side; then edges at 8 * 2^(j/2), so 8 -> 8, 12 -> 9, 16 -> 10, 32 -> 12,
    # 64 -> 14, 127 -> 15, and 16 more to the right
    offsets = torch.tensor([0, -1, -7, -8, -12, -16, -32, -64, -127, -500, 1, 8, 500])
    expected = [0, 1, 7, 8, 9, 10, 12, 14, 15, 15, 17, 24, 31]
    assert t5_buckets(offsets, num_buckets=32, max_distance=128).tolist() == expected


def test_t5_buckets_of_a_small_table_by_hand():
    # 8 buckets, 16: 4 a side; 0 and 1 exact, then 2 + 2 ln(n / 2) / ln 8, which is 3 from n = 5.7 on
    table = t5_buckets(torch.arange(8) - torch.tensor([[0], [3]]), num_buckets=8, max_distance=16)
    assert table.tolist() == [[0, 5, 6, 6, 6, 6, 7, 7], [2, 2, 1, 0, 5, 6, 6, 6]]


def test_amos_buckets_by_hand():
    # 32 bins: half 16, exact 8; 0..7 exact, 8 -> 8, 9 -> 8 + ceil(0.30) = 9, far -> 15; minus -15
    offsets = torch.tensor([0, 1, 7, 8, 9, 400, -1, -400])
    buckets = amos_buckets(offsets, num_buckets=32, max_distance=128, max_positions=512)
    assert buckets.tolist() == [15, 16, 22, 23, 24, 30, 14, 0]


@pytest.mark.parametrize(
    ("max_positions", "expected"),
    [
        # 8 bins, 16: half 4, exact 2; 2 -> 2, 3 -> 2 + ceil(ln 1.5 / ln 7.5) = 3, the last; from -3 on
        (12, [[3, 4, 5, 6, 6, 6], [1, 2, 3, 4, 5, 6], [0, 0, 0, 1, 2, 3]]),
        # no distance of 3 in a table of 3 x 3: from -2 on
        (3, [[2, 3, 4], [0, 1, 2]]),
    ],
)
def test_amos_buckets_of_a_small_table_by_hand(max_positions, expected):
    length = len(expected[0])
    queries = torch.tensor([[0], [2], [5]][: len(expected)])
    table = amos_buckets(torch.arange(length) - queries, num_buckets=8, max_distance=16, max_positions=max_positions)
    assert table.tolist() == expected


@pytest.mark.parametrize("kind", ["t5", "amos"])
def test_bias_is_the_table_at_the_bucket(kind):
    bias = RelativePositionBias(kind, num_heads=3, num_buckets=32, max_distance=128, max_positions=40)
    plain = bias(12)
    assert plain.shape == (1, 3, 12, 12)
    for query, key in ((4, 9), (9, 4), (11, 0)):
        assert torch.equal(plain[0, :, query, key], bias.weight[bias.buckets_O[39 + key - query]])
    assert not torch.equal(plain[0, :, 4, 9], plain[0, :, 9, 4]), "left and right must differ"
    places = torch.tensor([[0, 3, 11], [2, 5, 7]])
    own = bias(3, places)
    assert own.shape == (2, 3, 3, 3)
    assert torch.equal(own[1, :, 0, 2], plain[0, :, 2, 7])
    assert "buckets_O" not in bias.state_dict()


def test_a_gradient_by_diagonals_is_the_sum_over_all_places_without_an_index_put():
    """Equal to looking up every pair, value to the bit and gradient in fp64, for any upstream gradient."""
    bias = RelativePositionBias("t5", num_heads=3, num_buckets=32, max_distance=128, max_positions=60).double()
    upstream = torch.randn(1, 3, 41, 41, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    looked_up = bias(41)
    buckets = bias.buckets_O[59 - 40 : 59 + 41]
    with torch.profiler.profile() as profile:
        by_diagonals = bias_by_diagonals(bias.weight, buckets)
        (gradient,) = torch.autograd.grad((by_diagonals * upstream).sum(), bias.weight)
    assert torch.equal(by_diagonals, looked_up)
    torch.testing.assert_close(gradient, torch.autograd.grad((looked_up * upstream).sum(), bias.weight)[0])
    assert not [event.key for event in profile.key_averages() if "index" in event.key]


@pytest.mark.parametrize(("kind", "buckets", "distance"), [("x", 32, 128), ("t5", 33, 128), ("t5", 32, 16)])
def test_bad_options_are_one_clear_line(kind, buckets, distance):
    with pytest.raises(UserError) as error:
        RelativePositionBias(kind, num_heads=2, num_buckets=buckets, max_distance=distance, max_positions=8)
    assert "\n" not in str(error.value)
