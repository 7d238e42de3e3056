"""The task: what reaches a batch, what validation sees, and how wrong options are answered."""

import shutil

import pytest
import torch
from omegaconf import OmegaConf

from fairseq_masking.errors import UserError
from fairseq_masking.methods.mlm.criterion import MLMCriterionConfig
from fairseq_masking.methods.mlm.model import MLMConfig
from fairseq_masking.tasks.masked_pretraining import MaskedPretrainingConfig, MaskedPretrainingTask

TINY = {"encoder_layers": 1, "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 32, "encoder_attention_heads": 2}


def make_task(data, **options):
    defaults = {"tokens_per_sample": 32, "seed": 1, "train_subset": "train", "update_freq": [1], "bpe": None}
    cfg = OmegaConf.structured(MaskedPretrainingConfig(data=str(data), **{**defaults, **options}))
    return MaskedPretrainingTask.setup_task(cfg)


def node(config_class, name, **options):
    return OmegaConf.merge(OmegaConf.structured(config_class(**options)), {"_name": name})


def batches_of(task, split="train", *, epochs=(1,), rows=8, **options):
    task.load_dataset(split, combine=split == "train")
    iterator = task.get_batch_iterator(task.dataset(split), max_sentences=rows, seed=1, **options)
    result = []
    for _ in epochs:
        result.append(list(iterator.next_epoch_itr(shuffle=split == "train")))
    return result


def flat(batch):
    net_input = batch["net_input"]
    return [net_input[key].tolist() for key in ("src_tokens", "positions", "kinds", "replacements")]


def test_rows_of_an_item_are_adjacent_and_disjoint(small_data):
    (batches,) = batches_of(make_task(small_data, mask_splits=4))
    assert sum(batch["nsentences"] == 8 for batch in batches) >= len(batches) - 1 > 0
    for batch in batches:
        net_input = batch["net_input"]
        num_items = batch["nsentences"] // 4
        assert net_input["src_tokens"].shape == (4 * num_items, 32)
        assert batch["split"].tolist() == [0, 1, 2, 3] * num_items
        for item in range(num_items):
            rows = range(4 * item, 4 * item + 4)
            assert len(set(batch["id"][list(rows)].tolist())) == 1
            columns = [p % 32 for p in net_input["positions"].tolist() if p // 32 in rows]
            # 30 tokens between <s> and </s>: floor(0.15 * 30 + 0.5) = 5 masked in each of four rows
            assert len(columns) == len(set(columns)) == 20


def test_masks_change_with_the_epoch_whatever_the_workers(small_data):
    runs = [
        [[flat(batch) for batch in epoch] for epoch in batches_of(make_task(small_data), epochs=(1, 2), **options)]
        for options in ({"num_workers": 0}, {"num_workers": 1}, {"num_workers": 2, "data_buffer_size": 3})
    ]
    assert runs[0] == runs[1] == runs[2]
    first, second = (masks_by_item(epoch) for epoch in batches_of(make_task(small_data), epochs=(1, 2)))
    assert first.keys() == second.keys(), "an epoch must hold every item"
    assert sum(first[item] == second[item] for item in first) < len(first) / 10


def masks_by_item(batches):
    result = {}
    for batch in batches:
        positions, start = batch["net_input"]["positions"].tolist(), 0
        for row, (item, count) in enumerate(zip(batch["id"], batch["net_input"]["num_masked"], strict=True)):
            result[int(item)] = [position - 32 * row for position in positions[start : start + count]]
            start += int(count)
    return result


def test_validation_masks_are_the_same_for_every_epoch_and_every_training_mask(small_data):
    plain = batches_of(make_task(small_data), "valid", epochs=(1, 2))
    spans = batches_of(make_task(small_data, mask_splits=2, mask_prob=0.4), "valid")
    assert [flat(batch) for batch in plain[0]] == [flat(batch) for batch in plain[1]]
    assert [flat(batch) for batch in plain[0]] == [flat(batch) for batch in spans[0]]
    assert all(batch["split"].max() == 0 for batch in plain[0])


def test_validation_loses_nothing(small_data):
    """fairseq drops what is left over from --required-batch-size-multiple."""
    task = make_task(small_data)
    (batches,) = batches_of(task, "valid", required_batch_size_multiple=8)
    seen = sorted(index for batch in batches for index in batch["id"].tolist())
    assert seen == list(range(len(task.dataset("valid")))) and len(seen) % 8


@pytest.mark.parametrize(("num_splits", "rows"), [(1, 8), (1, 12), (1, 7), (2, 6), (3, 9), (3, 12), (5, 15)])
def test_rows_are_what_the_batch_size_says(small_data, num_splits, rows):
    """fairseq cuts batches to multiples of 8, and drops a last one that is none."""
    task = make_task(small_data, mask_splits=num_splits)
    multiple = {"required_batch_size_multiple": 8}  # fairseq's default
    (training,) = batches_of(task, rows=rows, **multiple)
    assert len(training) > 2 and sum(batch["nsentences"] != rows for batch in training) <= 1
    (validation,) = batches_of(task, "valid", rows=rows, **multiple)
    assert {batch["nsentences"] for batch in validation[:-1]} <= {rows}


@pytest.mark.parametrize("compiles", [False, True])
def test_a_compiled_run_has_no_short_batch_and_says_so(compiles, small_data, caplog):
    task = make_task(small_data, mask_splits=2)
    task.build_model(node(MLMConfig, "mlm", **TINY, compile="encoder" if compiles else "none"))
    with caplog.at_level("INFO"):
        (training,) = batches_of(task, rows=14)
    assert (min(batch["nsentences"] for batch in training) < 14) != compiles
    assert len({str(batch["net_input"]["src_tokens"].shape) for batch in training}) == (1 if compiles else 2)
    assert (f"1 of {len(training) + 1} batches left out: not full" in caplog.text) == compiles


def test_a_corpus_smaller_than_a_batch_is_one_batch_and_said(small_data, caplog):
    task = make_task(small_data)
    task.load_dataset("train", combine=True)
    num_sequences = len(task.dataset("train"))
    assert num_sequences % 8, "else fairseq would drop nothing"
    ((batch,),) = batches_of(task, rows=2 * num_sequences, required_batch_size_multiple=8)
    assert batch["nsentences"] == num_sequences
    assert f"all {num_sequences} sequences of the corpus make one batch" in caplog.text


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("break_mode", ["complete", "eos"])
def test_a_split_without_a_block_that_fits_is_an_error(small_data, split, break_mode):
    task = make_task(small_data, sample_break_mode=break_mode, tokens_per_sample=4)
    with pytest.raises(UserError, match="blocks fits --tokens-per-sample 4"):
        batches_of(task, split, max_positions=4)


def test_validating_on_the_training_split_uses_validation_masks(small_data):
    task = make_task(small_data, mask_splits=4)
    task.load_dataset("train", combine=False)
    assert task.dataset("train").masker.num_splits == 1
    task.load_dataset("train", combine=True)
    assert task.dataset("train").masker.num_splits == 4


@pytest.mark.parametrize(("num_shards", "update_freq"), [(1, [1]), (1, [4]), (2, [2]), (3, [2, 3])])
def test_an_epoch_is_whole_updates(small_data, num_shards, update_freq):
    task = make_task(small_data, update_freq=update_freq)
    seen = []
    for shard in range(num_shards):
        task.dataset_to_epoch_iter.clear()
        (batches,) = batches_of(task, rows=4, num_shards=num_shards, shard_id=shard)
        assert all(batches), "a rank would end on a dummy batch"
        assert len(batches) % max(update_freq) == 0
        seen.append(len(batches))
    assert len(set(seen)) == 1


def test_too_little_data_for_an_update_is_an_error(small_data):
    with pytest.raises(UserError, match="an update takes 1000"):
        batches_of(make_task(small_data, update_freq=[1000]))


def test_the_batch_alone_decides_the_dropout(small_data):
    task = make_task(small_data)
    ((first, second, *_),) = batches_of(task)
    model = task.build_model(node(MLMConfig, "mlm", dropout=0.3, **TINY))
    criterion = task.build_criterion(node(MLMCriterionConfig, "mlm"))

    class Optimizer:
        @staticmethod
        def backward(loss):
            loss.backward()

    def gradient(batch):
        model.zero_grad()
        task.train_step(batch, model, criterion, Optimizer, update_num=0)
        return model.encoder.layers[0].fc1.weight.grad.clone()

    before = gradient(first)
    torch.manual_seed(99)
    gradient(second)
    assert torch.equal(gradient(first), before)
    assert first["net_input"]["shape"]["noise_seed"] != second["net_input"]["shape"]["noise_seed"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_splits": 8, "mask_prob": 0.15}, "--mask-splits 8 times --mask-prob 0.15"),
        ({"mask_prob": 0.0}, "--mask-prob 0.0"),
        ({"leave_unmasked_prob": 0.6, "random_token_prob": 0.6}, "exceed 1 together"),
        ({"data": "/no/such/folder"}, "no such data folder"),
    ],
)
def test_wrong_options_are_one_clear_line(small_data, options, message):
    with pytest.raises(UserError) as error:
        make_task(options.pop("data", small_data), **options)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_batch_size_that_splits_do_not_divide_is_an_error(small_data):
    with pytest.raises(UserError, match="--batch-size 6 is not a multiple of --mask-splits 4"):
        batches_of(make_task(small_data, mask_splits=4), rows=6)


def test_words_without_a_tokenizer_are_symbols_and_said(small_data, caplog):
    """Symbols that are parts of words are refused there: tests/corpus/test_stock_data.py."""
    task = make_task(small_data, mask_unit="whole_word")
    task.load_dataset("train", combine=True)
    assert "has no manifest.json: taken for data of fairseq-preprocess" in caplog.text


def test_models_and_criterions_that_do_not_fit_are_named(small_data):
    task = make_task(small_data)
    with pytest.raises(UserError, match="--tokens-per-sample 32 is more than the model's --max-positions 16"):
        task.build_model(node(MLMConfig, "mlm", max_positions=16, **TINY))
    task.build_model(node(MLMConfig, "mlm", **TINY))
    with pytest.raises(UserError, match="needs --mask-splits 2 or more"):
        task.build_criterion(node(MLMCriterionConfig, "fully_explored_mlm"))
    with pytest.raises(UserError, match="masked_lm does not train with --task masked_pretraining"):
        task.build_criterion(OmegaConf.create({"_name": "masked_lm", "tpu": False}))


def test_a_foreign_criterion_output_is_named(small_data):
    task = make_task(small_data)
    task.build_model(node(MLMConfig, "mlm", **TINY))
    task._output_class = tuple
    with pytest.raises(UserError, match="needs a model that returns MaskedTokenOutput"):
        task.build_criterion(node(MLMCriterionConfig, "mlm"))


def test_an_embedding_that_does_not_fit_the_dictionary_is_named(small_data, tmp_path):
    larger = tmp_path / "data"
    shutil.copytree(small_data, larger)
    with (larger / "dict.txt").open("a") as file:
        file.write("more 1\n")
    model = make_task(larger).build_model(node(MLMConfig, "mlm", **TINY))
    state = make_task(small_data).build_model(node(MLMConfig, "mlm", **TINY)).state_dict()
    with pytest.raises(UserError, match="204 rows but the dictionary has 205"):
        model.load_state_dict(state)


def test_a_checkpoint_of_another_shape_or_model_is_named(small_data):
    task = make_task(small_data)
    model = task.build_model(node(MLMConfig, "mlm", **TINY))
    wider = task.build_model(node(MLMConfig, "mlm", **{**TINY, "encoder_ffn_embed_dim": 64})).state_dict()
    with pytest.raises(UserError, match="fc1"):
        model.load_state_dict(wider)
    deeper = task.build_model(node(MLMConfig, "mlm", **{**TINY, "encoder_layers": 2})).state_dict()
    with pytest.raises(UserError, match="of another model"):
        model.load_state_dict(deeper)
    with pytest.raises(UserError, match="not one of fairseq_masking's"):
        model.load_state_dict({"decoder.weight": torch.zeros(1)})
