"""Relative positions: both bucketings against tables worked out independently, and the bias they index."""

import math

import pytest
import torch

from fairseq_masking.errors import UserError
from fairseq_masking.modules.relative_position import RelativePositionBias, amos_buckets, t5_buckets


def t5_by_loop(offset, num_buckets, max_distance):
    """Raffel et al.: half of the buckets by sign, exact below a quarter, logarithmic above."""
    bucket, half = 0, num_buckets // 2
    if offset > 0:
        bucket += half
    distance = abs(offset)
    exact = half // 2
    if distance < exact:
        return bucket + distance
    log_part = math.log(distance / exact) / math.log(max_distance / exact) * (half - exact)
    return bucket + min(half - 1, exact + int(log_part + 1e-9))


def amos_by_loop(offset, bins, max_distance):
    half, exact = bins // 2, bins // 4
    distance = abs(offset)
    if distance < exact:
        bucket = distance
    else:
        growth = math.log(distance / exact) / math.log((max_distance - 1) / exact) * (half - 1 - exact)
        bucket = min(half - 1, exact + math.ceil(growth))
    return bucket if offset > 0 else -bucket


@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (64, 128), (16, 50)])
def test_t5_buckets_equal_the_loop(buckets, distance):
    offsets = torch.arange(-300, 301)
    actual = t5_buckets(offsets, num_buckets=buckets, max_distance=distance)
    assert actual.tolist() == [t5_by_loop(offset, buckets, distance) for offset in offsets.tolist()]


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


@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (64, 128)])
def test_amos_buckets_equal_the_loop(buckets, distance):
    size = 200
    offsets = torch.arange(-(size - 1), size)
    signed = [amos_by_loop(offset, buckets, distance) for offset in offsets.tolist()]
    actual = amos_buckets(offsets, num_buckets=buckets, max_distance=distance, max_positions=size)
    assert actual.tolist() == [value - min(signed) for value in signed]


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
    table = amos_buckets(
        torch.arange(length) - queries, num_buckets=8, max_distance=16, max_positions=max_positions
    )
    assert table.tolist() == expected


@pytest.mark.parametrize("kind", ["t5", "amos"])
def test_bias_is_the_table_at_the_bucket(kind):
    bias = RelativePositionBias(kind, num_heads=3, num_buckets=32, max_distance=128, max_positions=40)
    plain = bias(12)
    assert plain.shape == (1, 3, 12, 12)
    assert torch.equal(plain[0, :, 4, 9], bias.weight[bias.buckets_TT[4, 9]])
    assert bias.buckets_TT[4, 9] != bias.buckets_TT[9, 4], "left and right must differ"
    places = torch.tensor([[0, 3, 11], [2, 5, 7]])
    own = bias(3, places)
    assert own.shape == (2, 3, 3, 3)
    assert torch.equal(own[1, :, 0, 2], plain[0, :, 2, 7])
    assert "buckets_TT" not in bias.state_dict()


@pytest.mark.parametrize(("kind", "buckets", "distance"), [("x", 32, 128), ("t5", 33, 128), ("t5", 32, 16)])
def test_bad_options_are_one_clear_line(kind, buckets, distance):
    with pytest.raises(UserError) as error:
        RelativePositionBias(kind, num_heads=2, num_buckets=buckets, max_distance=distance, max_positions=8)
    assert "\n" not in str(error.value)
