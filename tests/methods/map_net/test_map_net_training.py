"""MAP-Net through the commands: trains, resumes bit-exactly, on one rank or two, and says what is wrong."""

from pathlib import Path

import pytest
import torch
from commands import (
    ROOT,
    assert_ok,
    assert_one_line_error,
    logged_values,
    prepare_sentences,
    run_command,
    run_fairseq_train,
    weights,
)

from fairseq_masking.methods.map_net.model import MapNetModel

MAP_NET = (
    "--arch",
    "map_net_tiny",
    "--criterion",
    "map_net",
    "--dropout",
    "0.1",
    "--attention-dropout",
    "0.1",
)
SCHEDULE = ("--explore-start", "0.9", "--explore-end", "0.1", "--explore-updates", "8")
LOGGED = {
    "encoder_loss", "proposal_loss", "loss_proposed", "loss_uniform", "share_proposed", "importance_weight",
    "clipped_low", "clipped_high", "proposal_entropy", "rank_correlation",
}  # fmt: skip


def train(data, folder, *options):
    finished = run_fairseq_train(data, folder, *MAP_NET, *SCHEDULE, "--log-format", "json", *options)
    assert_ok(finished)
    return finished.stdout


@pytest.fixture(scope="module")
def whole(small_data, tmp_path_factory) -> Path:
    """Twelve updates of eight sentences without a stop."""
    folder = tmp_path_factory.mktemp("map_net")
    (folder / "stdout").write_text(train(small_data, folder, "--max-update", "12", "--batch-size", "8"))
    return folder


def test_everything_is_logged_in_training_and_plain_mlm_in_validation(whole):
    logged = logged_values((whole / "stdout").read_text())
    training = [line for line in logged if "loss" in line]
    (validation,) = [line for line in logged if "valid_loss" in line]
    assert len(training) == 12
    assert set().union(*training) >= LOGGED | {"loss", "ppl", "accuracy", "loss_mask", "loss_random"}
    assert not [key for key in validation if key.removeprefix("valid_") in LOGGED]
    assert float(validation["valid_loss"]) < float(training[0]["loss"]), "it learns"


def test_resume_is_bit_exact_and_the_schedule_goes_on(whole, small_data, tmp_path):
    """7 updates, then 5 more: same weights, same share of proposed sentences in every update."""
    options = ("--batch-size", "8")
    train(small_data, tmp_path, *options, "--max-update", "7")
    stdout = train(small_data, tmp_path, *options, "--max-update", "12", "--num-workers", "2")
    resumed, uninterrupted = weights(tmp_path), weights(whole)
    assert resumed.keys() == uninterrupted.keys() and any(key.startswith("proposal.") for key in resumed)
    assert all(torch.equal(resumed[key], uninterrupted[key]) for key in resumed)
    shares = [[line["share_proposed"] for line in logged_values(text) if "share_proposed" in line]
              for text in (stdout, (whole / "stdout").read_text())]  # fmt: skip
    assert len(shares[0]) == 5 and shares[0] == shares[1][7:]
    assert sum(map(float, shares[1][:4])) < sum(map(float, shares[1][8:])), "exploration falls"


def test_two_ranks_give_the_weights_of_one_with_two_micro_batches(small_data, tmp_path):
    """Positions are drawn on the device; in exploring updates both ranks skip the proposal network."""
    options = ["--max-update", "6", "--explore-unit", "batch", "--proposal-learn-from", "proposed"]
    options += ["--explore-start", "0.5", "--explore-end", "0.5"]
    one_log = train(small_data, tmp_path / "one", *options, "--update-freq", "2")
    two_log = train(small_data, tmp_path / "two", *options, "--distributed-world-size", "2")
    shares = [[float(line["share_proposed"]) for line in logged_values(log) if "share_proposed" in line]
              for log in (one_log, two_log)]  # fmt: skip
    assert shares[0] == shares[1] and len(shares[0]) == 6
    assert set(shares[0]) == {0.0, 1.0}
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-4, atol=3e-6)
    moved = (one["proposal.layernorm_embedding.weight"] - 1.0).abs().max().item()
    assert moved > 1e-3, "weights that barely move would agree by themselves"


def test_hydra_trains_it_by_recipe_and_python_uses_it(tmp_path):
    data = prepare_sentences(tmp_path)
    finished = run_command(
        ["fairseq-hydra-train", "--config-dir", ROOT / "configs/pretrain", "--config-name", "map_net_tiny",
         f"task.data={data}", "task.tokens_per_sample=32", "dataset.batch_size=4",
         "dataset.num_workers=0", "optimization.max_update=4", "model.explore_updates=4",
         "lr_scheduler.warmup_updates=1", "model.explore_unit=batch", "criterion.importance_weight=exact",
         "task.mask_unit=whole_word", "task.mask_splits=2", "common.log_interval=1",
         "checkpoint.save_dir=save"],
        cwd=tmp_path,
    )  # fmt: skip
    assert_ok(finished)
    assert "share_proposed" in finished.stdout
    state = torch.load(tmp_path / "save" / "checkpoint_last.pt", weights_only=True)
    assert state["cfg"]["model"]["explore_updates"] == 4 and state["cfg"]["model"]["proposal_layers"] == 2
    assert state["cfg"]["criterion"]["importance_weight"] == "exact"

    hub = MapNetModel.from_pretrained(tmp_path / "save", "checkpoint_last.pt")
    assert len(hub.fill_mask("The <mask> sat on the mat.", topk=3)) == 3
    tokens = hub.encode("The old cat saw a dog.")
    assert hub.extract_features(tokens).shape == (1, len(tokens), 128)
    proposal = hub.model.propose(tokens[None]).exp()[0]
    assert proposal[0] == proposal[-1] == 0.0 and proposal.sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--explore-updates", "0"), ("--explore-updates 0", "at least 1")),
        (("--criterion", "mlm"), ("--criterion mlm", "MaskedTokenOutput", "MapNetOutput")),
    ],
)  # fmt: skip
def test_bad_options_are_one_clear_line(options, says, small_data, tmp_path):
    assert_one_line_error(run_fairseq_train(small_data, tmp_path, *MAP_NET, *options), *says)
