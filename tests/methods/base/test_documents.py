"""Attention within documents: a packed row is its documents, each alone, for every method."""

import logging

import numpy as np
import pytest
import torch
from commands import assert_ok, run_fairseq_train, write_corpus
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder
from omegaconf import OmegaConf
from small_batches import MASK_INDEX, PAD_INDEX, pretraining_task

from fairseq_masking.data import batch_input, collate, load_tokens
from fairseq_masking.data.blocks import BlockDataset, document_bounds, document_numbers
from fairseq_masking.data.masked_dataset import MaskedDataset
from fairseq_masking.masking import MaskedItem, Masker, MaskingConfig, MaskingVocabulary
from fairseq_masking.methods.amos.model import AmosConfig, AmosModel
from fairseq_masking.methods.base.options import SIZES
from fairseq_masking.methods.map_net.model import PROPOSAL_SIZES, MapNetConfig, MapNetModel
from fairseq_masking.methods.mlm.model import MLMConfig, MLMModel
from fairseq_masking.methods.three_ml.model import ThreeMLConfig, ThreeMLModel

LENGTHS = (7, 12, 5)
METHODS = {
    "mlm": (MLMModel, MLMConfig, {}),
    "map_net": (MapNetModel, MapNetConfig, PROPOSAL_SIZES["tiny"]),
    "three_ml self": (ThreeMLModel, ThreeMLConfig, {}),
    "three_ml cross": (ThreeMLModel, ThreeMLConfig, {"decoder_attention": "cross"}),
    "amos": (AmosModel, AmosConfig, {"generator_layers": [1, 2], "gumbel_temperature": 5.0}),
}
SHAPE = {"encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 48, "encoder_attention_heads": 2}
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}
KINDS = {
    "learned and relative": {"relative_position": "t5", "max_positions": 24, **NO_DROPOUT},
    "modern": {**vars(SIZES["modern_tiny"]), "attention_window": 6, "max_positions": 24},
}


def build(method, kind):
    torch.manual_seed(2)
    model_class, config_class, options = METHODS[method]
    cfg = OmegaConf.structured(config_class(**{**KINDS[kind], **SHAPE, **options}))
    if "seed" in cfg:
        cfg.seed = 1
    if "max_update" in cfg:
        cfg.max_update = 10
    model = model_class.build_model(cfg, pretraining_task()).eval()
    for parameter in model.parameters():  # BERT's small initial weights would make attention nearly uniform
        torch.nn.init.normal_(parameter, mean=0.05, std=0.3)
    return model


def batches():
    """The documents in one row, and each in a row of its own, with the same masks: [MASK]s, then a random token."""
    rng = np.random.default_rng(0)
    texts = [np.concatenate([rng.integers(4, 44, length - 1), [2]]) for length in LENGTHS]
    masks = []
    for length in LENGTHS:
        columns = rng.permutation(length - 1)[: 2 + (length > 6)]
        kinds = np.array([0] * (len(columns) - 1) + [1], dtype=np.int8)
        masks.append(MaskedItem(columns[None], kinds, np.where(kinds == 0, MASK_INDEX, 9)[None].astype(np.int64)))
    starts = np.cumsum([0, *LENGTHS[:-1]])
    parts = [
        np.concatenate([part.ravel() for part in found])
        for found in (
            [mask.columns + start for mask, start in zip(masks, starts, strict=True)],
            [mask.kinds for mask in masks],
            [mask.replacements for mask in masks],
        )
    ]
    order = np.argsort(parts[1], kind="stable")
    columns, kinds, replacements = (part[order] for part in parts)
    whole = MaskedItem(columns[None], kinds, replacements[None])
    numbers = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    options = {"pad_index": PAD_INDEX, "noise_seed": 5}
    packed = batch_input([np.concatenate(texts)], [whole], documents=[numbers], **options)
    return packed, batch_input(texts, masks, **options), torch.from_numpy(order)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_a_packed_row_is_its_documents_each_alone(method, kind):
    model = build(method, kind)
    packed, alone, order = batches()
    more = [{}, {}]
    if method == "amos":
        noise = torch.rand(len(order), 45, generator=torch.Generator().manual_seed(1))
        more = [{"noise_NV": noise[order]}, {"noise_NV": noise}]
    outputs = [model(**batch, **given) for batch, given in zip((packed, alone), more, strict=True)]
    losses, expected = (output.losses_KN if method == "amos" else output.losses_N for output in outputs)
    torch.testing.assert_close(losses, expected[..., order], rtol=1e-5, atol=1e-5)
    totals = [losses.sum(), expected.sum()]
    if method == "amos":
        found, wanted = (output.detection_losses_BT for output in outputs)
        text = alone["src_tokens"] != PAD_INDEX
        torch.testing.assert_close(found.flatten(), wanted[text], rtol=1e-5, atol=1e-5)
        totals = [total + found.sum() for total, found in zip(totals, (found, wanted), strict=True)]
    if method == "map_net":  # differences of scores do not depend on which row they are normalised over
        found = model.train()(**packed).log_proposal_BT[0].split(LENGTHS)
        model.eval()
        wanted = model.propose(alone["src_tokens"])
        for row, scores in enumerate(found):
            pair = (scores[:-1], wanted[row, : LENGTHS[row] - 1])
            torch.testing.assert_close(*(value - value[0] for value in pair), rtol=1e-4, atol=1e-5)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for gradients in zip(*(torch.autograd.grad(t, parameters, allow_unused=True) for t in totals), strict=True):
        if gradients[0] is not None:
            torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
    across = model(**{**packed, "documents": torch.zeros_like(packed["documents"])}, **more[0])
    across = across.losses_KN if method == "amos" else across.losses_N
    assert (across - losses).abs().max() > 1e-3, "documents that see one another must differ"


def test_documents_end_where_the_corpus_ends_them():
    """0 is <s>, 2 is </s>; the outer ones belong to the first and the last document, a lone </s> to what it ends."""
    text = np.array([0, 5, 2, 6, 2, 2, 7, 2, 2, 8, 2])
    assert document_numbers(text, "blank-line", 2).tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2]
    assert document_numbers(text, "line", 2).tolist() == [0, 0, 0, 1, 1, 2, 3, 3, 4, 5, 5]
    begins_with_the_end_of_a_line = np.array([0, 2, 6, 2, 2])
    assert document_numbers(begins_with_the_end_of_a_line, "blank-line", 2).tolist() == [0, 0, 0, 0, 0]
    assert document_numbers(np.array([0, 5, 6, 2, 2]), "line", 2).tolist() == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("with_empty_lines", [False, True])
def test_the_bounds_are_read_off_the_corpus(with_empty_lines, tmp_path, caplog):
    write_corpus(tmp_path, {})
    builder = MMapIndexedDatasetBuilder(str(tmp_path / "train.bin"), dtype=np.uint16)
    lines = [[5, 6, 2], [7, 8, 9, 2], [2], [6, 7, 2]] if with_empty_lines else [[5, 6, 2], [7, 8, 9, 2], [6, 7, 2]]
    for line in lines:
        builder.add_item(torch.tensor(line))
    builder.finalize(str(tmp_path / "train.idx"))
    tokens = load_tokens(str(tmp_path / "train"), Dictionary.load(str(tmp_path / "dict.txt")))
    with caplog.at_level(logging.INFO):
        bounds = document_bounds(tmp_path, tokens)
    assert bounds == ("blank-line" if with_empty_lines else "line")
    blocks = BlockDataset(tokens, tokens_per_sample=16, bos=0, eos=2, pad=1)
    masker = Masker(MaskingConfig(num_splits=2), MaskingVocabulary.build(204, special_ids=range(4), mask_index=203))
    dataset = MaskedDataset(blocks, masker, pad_index=1, seed=1, document_bounds=bounds)
    documents = collate([dataset[0]], 1)["net_input"]["documents"].tolist()
    expected = [0] * 9 + [1] * 4 if with_empty_lines else [0] * 4 + [1] * 4 + [2] * 4
    assert documents == [expected] * 2
    plain = collate([MaskedDataset(blocks, masker, pad_index=1, seed=1)[0]], 1)["net_input"]
    assert "documents" not in plain


def test_a_training_stays_within_documents(small_data, tmp_path):
    options = ("--arch", "map_net_modern_tiny", "--criterion", "map_net", "--explore-start", "0.5")
    finished = run_fairseq_train(small_data, tmp_path, *options, "--attend-within-documents", "--compile", "none")
    assert_ok(finished)
    assert finished.stdout.count("attention stays within documents: a line ends one") == 2
