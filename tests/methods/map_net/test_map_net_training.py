"""MAP-Net's options as fairseq-train takes them (``test_method_contract`` trains it)."""

import pytest
from commands import assert_one_line_error, run_fairseq_train

MAP_NET = ("--arch", "map_net_tiny", "--criterion", "map_net")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--explore-updates", "0"), ("--explore-updates 0", "at least 1")),
        (("--criterion", "mlm"), ("--criterion mlm", "MaskedTokenOutput", "MapNetOutput")),
    ],
)  # fmt: skip
def test_bad_options_are_one_clear_line(options, says, small_data, tmp_path):
    assert_one_line_error(run_fairseq_train(small_data, tmp_path, *MAP_NET, *options), *says)
