"""Models of other programs become our encoder, with the same states and logits; the unfit are refused."""

import json
import pickle
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from foreign_models import SHAPE, own_checkpoint, padded_rows, prepare, shake, task_of, write_wordpiece
from safetensors.torch import load_file, save_file

from fairseq_masking.checkpoints.init_from import initialize
from fairseq_masking.checkpoints.sources import read_source
from fairseq_masking.data import load_dictionary
from fairseq_masking.errors import UserError
from fairseq_masking.methods.amos.model import AmosConfig, AmosModel
from fairseq_masking.methods.map_net.model import MapNetConfig, MapNetModel
from fairseq_masking.methods.mlm.model import MLMConfig, MLMModel
from fairseq_masking.methods.three_ml.model import ThreeMLConfig, ThreeMLModel
from fairseq_masking.modules.config import EncoderKind
from fairseq_masking.modules.relative_position import amos_buckets

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 26,
    "layer_norm_eps": 1e-3,  # so that another one would be seen
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
FAMILIES = {
    "bert": ("BertConfig", "BertForPreTraining", {}, 26),
    "roberta": ("RobertaConfig", "RobertaForMaskedLM", {"pad_token_id": 1}, 24),
    "roberta-prelayernorm": ("RobertaPreLayerNormConfig", "RobertaPreLayerNormForMaskedLM", {"pad_token_id": 1}, 24),
    "electra": ("ElectraConfig", "ElectraForPreTraining", {"embedding_size": 32}, 26),
    "mpnet": ("MPNetConfig", "MPNetForMaskedLM", {"pad_token_id": 1}, 24),
    "xlm-roberta": ("XLMRobertaConfig", "XLMRobertaForMaskedLM", {"pad_token_id": 1}, 24),
    "camembert": ("CamembertConfig", "CamembertForMaskedLM", {"pad_token_id": 1}, 24),
    "data2vec-text": ("Data2VecTextConfig", "Data2VecTextForMaskedLM", {"pad_token_id": 1}, 24),
}
SPECIALS = {  # where MPNet and RoBERTa have them, and what they call them
    "bert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    "mpnet": ("<s>", "<pad>", "[UNK]", "</s>", "<mask>"),
}


def write_model(transformers, folder: Path, name: str, *, model_class=None, **more):
    """A Hugging Face folder with a WordPiece vocabulary in BERT's manner; returns the model."""
    folder.mkdir(exist_ok=True)
    vocab_size = write_wordpiece(folder)
    config_name, default_class, options, _ = FAMILIES[name]
    config = getattr(transformers, config_name)(vocab_size=vocab_size, **{**SIZES, **options, **more})
    model = shake(getattr(transformers, model_class or default_class)(config))
    model.save_pretrained(folder)
    return model


def imported(folder, data, model_class=MLMModel, config_class=MLMConfig, **options):
    source = read_source(folder)
    task = task_of(load_dictionary(data / "dict.txt"), data)
    cfg = config_class(**{**source.shape(), "dropout": 0.0, "attention_dropout": 0.0, **options})
    model = model_class.build_model(cfg, task).eval()
    initialize(model, source, task)
    return model, source


def ids_there(data, folder):
    """Our ids -> theirs."""
    vocab = (folder / "vocab.txt").read_text(encoding="utf-8").split()
    names = {"<s>": "[CLS]", "<pad>": "[PAD]", "</s>": "[SEP]", "<unk>": "[UNK]", "<mask>": "[MASK]"}
    symbols = load_dictionary(data / "dict.txt").symbols
    return torch.tensor([vocab.index(names.get(symbol, symbol)) for symbol in symbols])


@pytest.mark.parametrize("name", FAMILIES)
def test_states_and_logits_are_those_of_transformers(transformers, tmp_path, data, name):
    theirs = write_model(transformers, tmp_path, name)
    model, source = imported(tmp_path, data)
    there = ids_there(data, tmp_path)
    assert not torch.equal(there, torch.arange(len(there)))
    tokens, visible = padded_rows(len(there), 1)
    # RoBERTa counts positions by padding's id: its own, with our place for it, comes first in a vocabulary
    padding = theirs.config.pad_token_id
    foreign = there[tokens].masked_fill(~visible, padding)
    if name not in ("bert", "electra"):
        assert not (foreign[visible] == padding).any()
    with torch.no_grad():
        expected = theirs(input_ids=foreign, attention_mask=visible.long(), output_hidden_states=True)
        logits = model(tokens)[0]
        extra = model(tokens, features_only=True, return_all_hiddens=True)[1]
    states = expected.hidden_states
    assert len(states) == len(extra["inner_states"]) == 3
    for ours, other in zip(extra["inner_states"], states, strict=True):
        torch.testing.assert_close(ours[visible], other[visible], rtol=0, atol=1e-5)
    if name != "electra":
        other = expected.prediction_logits if name == "bert" else expected.logits
        torch.testing.assert_close(logits[visible], other[visible][:, there], rtol=0, atol=1e-5)
    assert source.shape() == vars(EncoderKind()) | {
        **{key: SHAPE[key] for key in SHAPE if key.startswith("encoder")},
        "max_positions": FAMILIES[name][3],
        "activation_fn": "gelu",
        "layer_norm_eps": 1e-3,
        "normalize_before": name == "roberta-prelayernorm",
        "relative_position": "t5" if name == "mpnet" else "none",
        **({"relative_position_buckets": 32, "relative_position_max_distance": 128} if name == "mpnet" else {}),
    }


@pytest.mark.parametrize("name", ["roberta", "roberta-prelayernorm"])
def test_robertas_positions_count_from_its_padding(transformers, tmp_path, data, name):
    theirs = write_model(transformers, tmp_path, name, pad_token_id=3)
    model, source = imported(tmp_path, data)
    assert source.config.max_positions == 22
    tokens, visible = padded_rows(source.config.vocab_size, 1)
    foreign = ids_there(data, tmp_path)[tokens].masked_fill(~visible, 3)
    assert not (foreign[visible] == 3).any()
    with torch.no_grad():
        expected = theirs(input_ids=foreign, attention_mask=visible.long(), output_hidden_states=True)
        actual = model(tokens, features_only=True)[0]
    torch.testing.assert_close(actual[visible], expected.hidden_states[-1][visible], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(transformers, tmp_path, data, dtype):
    write_model(transformers, tmp_path, "bert").to(dtype).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    assert state["bert.embeddings.position_embeddings.weight"].dtype == dtype
    names = ("bert.embeddings.position_embeddings.weight", "bert.embeddings.token_type_embeddings.weight")
    positions, types = (state[name].float() for name in names)
    model, _ = imported(tmp_path, data)
    assert torch.equal(model.encoder.embed_positions.weight, positions + types[0])


def test_mpnets_own_special_tokens(transformers, tmp_path):
    """[UNK] means unknown there, and what is called <unk> is nothing."""
    model = write_model(transformers, tmp_path, "mpnet")
    words = (tmp_path / "vocab.txt").read_text(encoding="utf-8").split()
    names = dict(zip(("[PAD]", "[CLS]", "[SEP]", "[MASK]"), ("<pad>", "<s>", "</s>", "<mask>"), strict=True))
    words = [names.get(word, word) for word in words]
    words[words.index("hats")] = "<unk>"  # after [UNK]: by its name it would win
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    roles = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "mask_token": {"content": "<mask>"}}
    roles["unk_token"] = "[UNK]"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(roles), encoding="utf-8")
    data = prepare(tmp_path, "--tokenizer-from", tmp_path)
    own, _ = imported(tmp_path, data)
    dictionary = load_dictionary(data / "dict.txt")
    rows = model.mpnet.embeddings.word_embeddings.weight
    for symbol, token in (("<unk>", "[UNK]"), ("<mask>", "<mask>"), ("<s>", "<s>"), ("dog", "dog")):
        assert torch.equal(own.encoder.embed_tokens.weight[dictionary.index(symbol)], rows[words.index(token)])


def test_a_special_token_that_it_lacks_starts_at_random(transformers, tmp_path, caplog):
    """Such as padding, which [CLS] ... by whatever name have nothing to do with."""
    write_model(transformers, tmp_path, "bert")
    vocab = (tmp_path / "vocab.txt").read_text(encoding="utf-8")
    vocab = vocab.replace("[PAD]", "[gap]").replace("[CLS]", "[begin]")
    (tmp_path / "vocab.txt").write_text(vocab, encoding="utf-8")
    roles = {"bos_token": "[begin]", "sep_token": "[SEP]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(roles), encoding="utf-8")
    data = prepare(tmp_path, "--tokenizer-from", tmp_path)
    assert {"[gap]"} < set(load_dictionary(data / "dict.txt").symbols)
    with caplog.at_level("INFO", "fairseq_masking"):
        model, source = imported(tmp_path, data)
    assert any("1 symbols initialised at random, such as <pad>" in line for line in caplog.messages)
    row = source.symbols.index("<s>")
    assert torch.equal(model.encoder.embed_tokens.weight[0], source.state["encoder.embed_tokens.weight"][row])


def test_a_missing_head_starts_afresh_and_is_said(transformers, tmp_path, data, caplog):
    theirs = write_model(transformers, tmp_path, "bert", model_class="BertModel")
    with caplog.at_level("INFO", "fairseq_masking"):
        model, _ = imported(tmp_path, data)
    assert torch.equal(model.encoder.layers[1].fc1.weight, theirs.encoder.layer[1].intermediate.dense.weight)
    assert model.lm_head.bias.abs().max() == 0
    assert any("lm_head initialised at random" in line and "encoder taken" not in line for line in caplog.messages)
    assert any("pooler.dense.weight" in line and line.startswith("not taken") for line in caplog.messages)


@pytest.mark.parametrize(
    ("name", "model_class", "foreign"),
    [
        ("roberta", "RobertaForTokenClassification", "classifier.weight"),
        ("bert", "BertForTokenClassification", "classifier.weight"),
        ("bert", "BertForMultipleChoice", "classifier.bias"),
        ("electra", "ElectraForMaskedLM", "generator_predictions.dense.weight"),
    ],
)
def test_a_head_that_no_model_here_has_is_named_and_left(
    transformers, tmp_path, data, caplog, name, model_class, foreign
):
    theirs = write_model(transformers, tmp_path, name, model_class=model_class)
    with caplog.at_level("INFO", "fairseq_masking"):
        model, source = imported(tmp_path, data)
    layer = getattr(theirs, name).encoder.layer[1]
    assert torch.equal(model.encoder.layers[1].fc1.weight, layer.intermediate.dense.weight)
    assert foreign in source.dropped and not any("classification_heads" in key for key in source.state)
    assert any(line.startswith("not taken") and foreign in line for line in caplog.messages)


def test_a_method_takes_what_it_shares(transformers, tmp_path, data, caplog):
    write_model(transformers, tmp_path, "roberta")
    sizes = {"proposal_layers": 1, "proposal_embed_dim": 16, "proposal_ffn_embed_dim": 16}
    with caplog.at_level("INFO", "fairseq_masking"):
        model, source = imported(tmp_path, data, MapNetModel, MapNetConfig, proposal_attention_heads=1, **sizes)
    assert torch.equal(model.lm_head.dense.weight, source.state["lm_head.dense.weight"])
    assert any(line.startswith("encoder, lm_head taken") for line in caplog.messages)
    assert any("proposal initialised at random" in line for line in caplog.messages)


def test_our_own_checkpoints(tmp_path, data):
    trained = own_checkpoint(MLMModel, MLMConfig, tmp_path / "mlm.pt", data, normalize_before=True)
    model, source = imported(tmp_path / "mlm.pt", data)
    assert model.state_dict().keys() == trained.state_dict().keys()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in trained.state_dict().items())
    assert source.shape()["normalize_before"] is True
    own_checkpoint(ThreeMLModel, ThreeMLConfig, tmp_path / "three.pt", data)
    model, source = imported(tmp_path / "three.pt", data)
    assert not any(key.startswith(("lm_head", "decoder")) for key in source.state), "its head reads the decoder"


def test_rows_follow_the_symbols_of_the_corpus(tmp_path, data):
    trained = own_checkpoint(MLMModel, MLMConfig, tmp_path / "mlm.pt", data)
    other = tmp_path / "other"
    other.mkdir()
    lines = (data / "dict.txt").read_text(encoding="utf-8").splitlines()
    (other / "dict.txt").write_text("\n".join([*lines[:-1][::-1], lines[-1]]) + "\n", encoding="utf-8")
    model, _ = imported(tmp_path / "mlm.pt", other)
    before, now = load_dictionary(data / "dict.txt"), load_dictionary(other / "dict.txt")
    for symbol in ("dog", "##s", "<mask>", "<s>"):
        row, old = now.index(symbol), before.index(symbol)
        assert torch.equal(model.encoder.embed_tokens.weight[row], trained.encoder.embed_tokens.weight[old])
        assert model.lm_head.bias[row] == trained.lm_head.bias[old]
    assert now.index("dog") != before.index("dog")
    (other / "dict.txt").write_text("zebra 1\ncat 1\n<mask> 0\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"1 of 7 symbols .*mlm\.pt lacks, such as 'zebra': .*--tokenizer-from"):
        imported(tmp_path / "mlm.pt", other)


def test_rows_that_nothing_names_are_said(tmp_path, data, caplog):
    own_checkpoint(MLMModel, MLMConfig, tmp_path / "mlm.pt", data)
    imported(tmp_path / "mlm.pt", data)
    assert "nothing says" not in caplog.text
    state = torch.load(tmp_path / "mlm.pt", weights_only=True)
    state["cfg"]["task"]["data"] = str(tmp_path / "moved")
    torch.save(state, tmp_path / "mlm.pt")
    imported(tmp_path / "mlm.pt", data)
    (record,) = [record for record in caplog.records if "nothing says which symbols" in record.message]
    assert record.levelname == "WARNING" and str(tmp_path / "moved") in record.message


def test_another_vocabulary_beside_a_model_is_refused(transformers, tmp_path, data):
    own_checkpoint(MLMModel, MLMConfig, tmp_path / "mlm.pt", data)
    (tmp_path / "dict.txt").write_text("cat 1\n<mask> 0\n", encoding="utf-8")
    refused(tmp_path / "mlm.pt", "embedding rows, but 6 symbols stand in its dict.txt")
    write_model(transformers, tmp_path / "model", "bert")
    with (tmp_path / "model" / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("more\n")
    refused(tmp_path / "model", "symbols stand in its tokeniser")


def test_a_released_amos(tmp_path):
    """A bare state dict: its own names, fused projections, no unused positions, heads told by the table."""
    width, heads, vocab = 32, 4, 45
    torch.manual_seed(0)
    prefix = "encoder.sentence_encoder."
    shapes = {
        "embed_tokens.weight": (vocab, width),
        "embed_positions.weight": (24, width),
        "emb_layer_norm.weight": (width,),
        "emb_layer_norm.bias": (width,),
        "relative_attention_bias.weight": (64, heads),
    }
    for layer in range(2):
        for part, shape in {
            "self_attn.in_proj": (3 * width, width),
            "self_attn.out_proj": (width, width),
            "self_attn_layer_norm": (width,),
            "fc1": (48, width),
            "fc2": (width, 48),
            "final_layer_norm": (width,),
        }.items():
            shapes[f"layers.{layer}.{part}.weight"] = shape
            shapes[f"layers.{layer}.{part}.bias"] = shape[:1]
    state = {prefix + key: torch.randn(shape) * 0.3 for key, shape in shapes.items()}
    state["encoder.binary_head.out_proj.weight"] = torch.randn(1, width)
    state["encoder.binary_head.out_proj.bias"] = torch.randn(1)
    torch.save(state, tmp_path / "amos.pt")
    source = read_source(tmp_path / "amos.pt")
    assert (source.config.num_heads, source.config.max_positions) == (heads, 24)
    assert (source.config.relative_position, source.config.relative_position_buckets) == ("amos", 64)
    symbols = "".join(f"word{number} 1\n" for number in range(vocab - 5)) + "<mask> 0\n"
    (tmp_path / "dict.txt").write_text(symbols, encoding="utf-8")
    options = {"generator_layers": [1, 2], "max_update": 10, "seed": 1}
    model, _ = imported(tmp_path / "amos.pt", tmp_path, AmosModel, AmosConfig, **options)
    tokens, visible = padded_rows(vocab, 1)
    with torch.no_grad():
        hidden = model(tokens, features_only=True)[0]
        expected = released_states(state, tokens, visible)
        head = [state[f"encoder.binary_head.out_proj.{part}"] for part in ("weight", "bias")]
        torch.testing.assert_close(hidden[visible], expected[visible], rtol=0, atol=1e-5)
        assert torch.equal(model.detection_head(hidden), F.linear(hidden, *head))


def released_states(state, tokens, visible):
    """What the release computes, by spec/amos.md: post-LN, GELU, query, key and value in one, no offset."""
    part = {key.removeprefix("encoder.sentence_encoder."): value for key, value in state.items()}
    num_buckets, heads = part["relative_attention_bias.weight"].shape

    def linear(name, value):
        return F.linear(value, part[f"{name}.weight"], part[f"{name}.bias"])

    def norm(name, value):
        return F.layer_norm(value, value.shape[-1:], part[f"{name}.weight"], part[f"{name}.bias"])

    places = torch.arange(tokens.shape[1])
    buckets = amos_buckets(
        places[None, :] - places[:, None],
        num_buckets=num_buckets,
        max_distance=128,
        max_positions=len(part["embed_positions.weight"]),
    )
    bias = part["relative_attention_bias.weight"][buckets].permute(2, 0, 1)
    bias = bias.masked_fill(~visible[:, None, None, :], float("-inf"))
    hidden = part["embed_tokens.weight"][tokens] + part["embed_positions.weight"][places]
    hidden = norm("emb_layer_norm", hidden)
    for layer in ("layers.0", "layers.1"):
        projected = linear(f"{layer}.self_attn.in_proj", hidden).chunk(3, dim=-1)
        query, key, value = (each.unflatten(2, (heads, -1)).transpose(1, 2) for each in projected)
        weights = (query @ key.mT / query.shape[-1] ** 0.5 + bias).softmax(-1)
        attended = linear(f"{layer}.self_attn.out_proj", (weights @ value).transpose(1, 2).flatten(2))
        hidden = norm(f"{layer}.self_attn_layer_norm", hidden + attended)
        inner = linear(f"{layer}.fc2", F.gelu(linear(f"{layer}.fc1", hidden)))
        hidden = norm(f"{layer}.final_layer_norm", hidden + inner)
    return hidden


class Malice:
    def __reduce__(self):
        return (exec, ("raise SystemExit('it ran')",))


@pytest.fixture
def folder(transformers, tmp_path):
    write_model(transformers, tmp_path / "model", "bert", model_class="BertModel")
    return tmp_path / "model"


def change_config(folder, **values):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **values}), encoding="utf-8")


def refused(path, *parts):
    with pytest.raises(UserError) as caught:
        read_source(path)
    message = str(caught.value)
    assert "\n" not in message
    for part in (*parts, Path(path).name):
        assert part in message


def test_pytorch_files_and_shards_are_read(folder):
    expected = read_source(folder).state
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    found = read_source(folder).state
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    (folder / "pytorch_model.bin").unlink()
    names = sorted(state)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, keys in parts.items():
        save_file({key: state[key] for key in keys}, folder / file)
    index = {"weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    found = read_source(folder).state
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    (folder / "b.safetensors").unlink()
    with pytest.raises(UserError, match=r"b\.safetensors is missing"):
        read_source(folder)
    for weight_map in ({"x": "../a.safetensors"}, ["a.safetensors"], {"x": 3}, None):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(UserError, match=r"names no files of this folder|3 is missing"):
            read_source(folder)


def test_files_that_run_code_are_refused(folder):
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    path.write_bytes(pickle.dumps(Malice()))
    with pytest.raises(UserError, match=r"pytorch_model\.bin: "):
        read_source(folder)
    torch.save({"embeddings.word_embeddings.weight": Malice()}, path)
    with pytest.raises(UserError, match=r"pytorch_model\.bin: refused, .*exec"):
        read_source(folder)
    torch.save({"model": Malice()}, folder.parent / "checkpoint.pt")
    refused(folder.parent / "checkpoint.pt", "refused", "exec")
    change_config(folder, auto_map={"AutoModel": "evil.Model"})
    refused(folder, "auto_map", "never run")


def test_corrupt_and_foreign_files_are_refused(folder, tmp_path):
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"model\.safetensors is missing, cut short or no safetensors file"):
        read_source(folder)
    weights.write_bytes(whole)
    for values, part in (
        ({"model_type": "gpt2"}, "taken are bert, roberta"),
        ({"hidden_act": "gelu_new"}, "computes with 'gelu_new'"),
        ({"num_attention_heads": 5}, "do not divide"),
        ({"num_attention_heads": "4"}, "does not tell its number of attention heads"),
        ({"num_attention_heads": -2}, "does not tell its number of attention heads"),
        ({"is_decoder": True}, "is_decoder True in config.json: taken is False"),
        ({"position_embedding_type": "relative_key"}, "taken is 'absolute' alone"),
    ):
        original = (folder / "config.json").read_text(encoding="utf-8")
        change_config(folder, **values)
        with pytest.raises(UserError, match=part):
            read_source(folder)
        (folder / "config.json").write_text(original, encoding="utf-8")
    state = load_file(weights)
    save_file({k: v for k, v in state.items() if "layer.1.output.dense.bias" not in k}, weights)
    refused(folder, "no whole BERT", "encoder.layers.1.fc2.bias")
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json is missing, unreadable or no JSON"):
        read_source(folder)
    checkpoint = tmp_path / "cut.pt"
    torch.save({"model": state}, checkpoint)
    refused(checkpoint, "not parameters of fairseq's RoBERTa")
    content = checkpoint.read_bytes()
    for length in (0, 3, 1000, 5000, len(content) - 1):
        checkpoint.write_bytes(content[:length])
        refused(checkpoint, "cut short")
    refused(tmp_path, "folder without config.json")
    refused(tmp_path / "nowhere.pt", "no such checkpoint or model folder")


def test_electras_with_narrow_embeddings_are_refused(transformers, tmp_path):
    write_model(transformers, tmp_path, "electra", embedding_size=16)
    refused(tmp_path, "embeddings 16 wide, projected to its layers' 32")


def test_an_mpnet_of_other_buckets_is_refused(transformers, tmp_path):
    """transformers computes it with 32 all the same."""
    write_model(transformers, tmp_path, "mpnet", relative_attention_num_buckets=64)
    refused(tmp_path, "relative_attention_num_buckets 64")


def test_without_the_hub_its_names_are_one_line(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def offline(*_, **__):
        raise OSError("no route\nto host")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    refused("nobody/no-such-model", "the hub does not give it (no route)", "give a local folder")


def test_a_name_is_downloaded_unless_it_is_a_folder(folder, tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def download(name, *, allow_patterns):
        asked.append(name)
        files = ["config.json", "model.safetensors", "vocab.txt", "spiece.model", "modeling_bert.py"]
        assert [file for file in files if not any(fnmatch(file, each) for each in allow_patterns)] == files[-1:]
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert read_source("somebody/bert").path == folder and asked == ["somebody/bert"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "somebody").mkdir()
    folder.rename(tmp_path / "somebody" / "bert")
    assert read_source("somebody/bert").title == "BERT" and len(asked) == 1
