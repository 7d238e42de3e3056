"""Small random models of transformers and checkpoints of ours, written as their own programs write them."""

from argparse import Namespace
from pathlib import Path

import torch
from commands import run_verb
from fairseq.data import Dictionary

from fairseq_masking.data import load_dictionary
from fairseq_masking.methods.base.options import EncoderModelConfig

SHAPE = {
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 4,
    "max_positions": 24,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
LINES = [
    "The cat sat on the mat, and a dog ate the red hat.",
    "Où est le café? She paid 12.50 for two (or three) of them!",
    "An old   dog saw the cat's hats; nobody knows why.",
    "print('hello')  # <b>bold</b> \u2014 naïve co-operation, 日本",
]
TEXT = """the cat sat on the mat , and a dog ate the red hat . an old saw ' s hats ; nobody knows why where is
she paid for two or three of them ! ? ( ) 1 2 5 0 print hello # < b > bold / co - operation"""
ENDINGS = ["##s", "##1", "##2", "##5", "##0"]


def write_wordpiece(folder: Path, specials=("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")) -> int:
    """A vocab.txt with the special tokens here and there, as BERT's has them; returns its size."""
    words = [*dict.fromkeys(TEXT.split()), *ENDINGS]
    for place, special in zip((0, 5, 6, 9, 20), specials, strict=True):
        words.insert(place, special)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}', encoding="utf-8")
    return len(words)


def prepare(folder: Path, *options, name: str = "data") -> Path:
    """A prepared corpus of ``LINES``."""
    (folder / "lines.txt").write_text("\n".join(LINES * 20) + "\n", encoding="utf-8")
    places = ["--train", folder / "lines.txt", "--out", folder / name]
    assert run_verb("prepare", "corpus", *places, "--valid-fraction", "0.1", *options) == 0
    return folder / name


def shake(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Away from zeros and ones, where a dropped or swapped parameter would go unseen; no dropout."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def task_of(dictionary: Dictionary, data: Path | None = None, pretrains: bool = True) -> Namespace:
    """What a model, and its initialisation, asks of a task."""
    cfg = Namespace(data=str(data), seed=1)
    return Namespace(source_dictionary=dictionary, pretrains=pretrains, cfg=cfg)


def save_checkpoint(path: Path, model: torch.nn.Module, cfg: EncoderModelConfig, data: Path) -> Path:
    """A checkpoint as far as it is read here, with the containers that fairseq writes."""
    task = {"_name": "masked_pretraining", "data": str(data)}
    options = {name: value for name, value in vars(cfg).items() if not name.startswith("_")}
    options = {name: str(value) if isinstance(value, str) else value for name, value in options.items()}
    torch.save({"args": None, "cfg": {"model": options, "task": task}, "model": model.state_dict()}, path)
    return path


def own_checkpoint(
    model_class: type, config_class: type, path: Path, data: Path, *, head: int | None = None, **options
) -> torch.nn.Module:
    """Writes a checkpoint of a small model of ours and returns the model."""
    cfg = config_class(**{**SHAPE, **options})
    task = task_of(load_dictionary(data / "dict.txt"), data, pretrains=head is None)
    model = model_class.build_model(cfg, task)
    if head is not None:
        model.register_classification_head("topic", num_classes=head)
    save_checkpoint(path, shake(model), cfg, data)
    return model.eval()


def padded_rows(vocab_size: int, pad: int, lengths=(17, 9, 2)) -> tuple[torch.Tensor, torch.Tensor]:
    """int64 tokens ``[B, T]`` (any but the first five and the last) and bool, True at the text."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(7, vocab_size - 1, (len(lengths), max(lengths)), generator=generator)
    visible = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return tokens.masked_fill(~visible, pad), visible
