"""What the proposal network adds, against the figures of spec/map_net.md and a count by hand."""

import pytest

from fairseq_masking.measure.flops import EncoderShape
from fairseq_masking.measure.map_net_flops import mean_share_proposed, proposal_flops, proposal_share


def test_the_base_model_of_the_paper() -> None:
    shape = EncoderShape(12, 768, 3072, 32_678)
    sizes = {"num_layers": 12, "embed_dim": 384, "ffn_dim": 1536}
    share = proposal_share(shape, **sizes, num_tokens=512, num_masked=77)
    assert f"{share:.1%}" == "26.7%"
    assert f"{share * mean_share_proposed(1.0, 0.33):.0%}" == "9%"


def test_by_hand() -> None:
    # T = 3, encoder D = 2; one layer of width 4, inner width 5
    projection, scores = 2 * 3 * 2 * 4, 2 * 3 * 4
    layer = 2 * 3 * 4 * 12 + 2 * (2 * 3 * 3 * 4) + 2 * 3 * 4 * 4 + 2 * (2 * 3 * 4 * 5)
    found = proposal_flops(EncoderShape(1, 2, 7, 9), num_layers=1, embed_dim=4, ffn_dim=5, num_tokens=3)
    assert found == projection + layer + scores


def test_the_schedules_mean() -> None:
    assert mean_share_proposed(1.0, 0.33) == pytest.approx(0.335)
    assert mean_share_proposed(0.0, 0.0) == 1.0
