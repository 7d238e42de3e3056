"""Broken inputs by rule: every file that a command reads x every damage, every option x nonsense.

A case has to end in one line that names its cause, status 1 or 2, and nothing left behind. Where a command may
well succeed (the damage changes nothing that it needs), it is not a case.
"""

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from commands import run_verb, train_here
from finetuning_data import prepare, write_prepared_corpus, write_squad, write_sst2

TRAIN = ("--max-update", "1", "--disable-validation", "--tokens-per-sample", "16")


@dataclass(frozen=True)
class Case:
    """A command on broken inputs.

    Attributes:
        name: of the case, for reports.
        words: the command, with {in}, the folder of inputs, and {out}, an empty folder.
        named: one of these has to be in the line.
        file, damage: what is done to which input before.
    """

    name: str
    words: tuple[str, ...]
    named: tuple[str, ...]
    file: str = ""
    damage: str = ""


# Damage -> what becomes of a file's bytes; None: something else, see ``break_file``.
DAMAGES: dict[str, Callable[[bytes, random.Random], bytes] | None] = {
    "missing": None,
    "a folder": None,
    "empty": lambda content, _: b"",
    "half": lambda content, _: content[: len(content) // 2],
    "a byte short": lambda content, _: content[:-1],
    "a bit flipped": lambda content, rng: _flipped(content, rng),
    "another bit flipped": lambda content, rng: _flipped(content, rng),
    "a byte more": lambda content, _: content + b"\x07",
    "noise": lambda content, rng: rng.randbytes(len(content)),
    "zeros": lambda content, _: bytes(len(content)),
    "text": lambda content, _: b"not what it should be\n" * 9,
    "null": lambda content, _: b"null",
    "a list": lambda content, _: b"[1, 2]",
}
_CORPUS = ("train.bin", "train.idx", "dict.txt", "manifest.json")
_TOKENIZER = "tokenizer/sentencepiece.model"
_TUNED = ("input0/train.bin", "input0/train.idx", "input0/valid.bin", "label/train.bin", "label/train.idx", "dict.txt",
          "input0/dict.txt", "label/dict.txt", "manifest.json")  # fmt: skip
_SQUAD = tuple(
    f"train.{part}.{kind}" for part in ("paragraphs", "questions", "offsets", "spans") for kind in ("bin", "idx")
)
# A command, the inputs that it reads, and a damage that it may well not see.
_COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "train": ("fairseq-train {in}/corpus", tuple(f"corpus/{name}" for name in _CORPUS)),
    "validate": (
        "fairseq-validate {in}/corpus --path {in}/model.pt --task masked_pretraining --batch-size 4 --cpu",
        ("corpus/valid.bin", "corpus/valid.idx", "corpus/dict.txt", "model.pt"),
    ),
    "restore": ("fairseq-train {in}/corpus --restore-file {in}/model.pt", ("model.pt",)),
    "finetune from": ("fairseq-train {in}/corpus --finetune-from-model {in}/model.pt", ("model.pt",)),
    "init from": ("fairseq-train {in}/corpus --init-from {in}/model.pt", ("model.pt",)),
    "init from export": (
        "fairseq-train {in}/corpus --init-from {in}/export",
        ("export/config.json", "export/model.safetensors", "export/tokenizer.json"),
    ),
    "whole words": ("fairseq-train {in}/corpus --mask-unit whole_word", (f"corpus/{_TOKENIZER}",)),
    "export": (
        "export --checkpoint {in}/model.pt --data {in}/corpus --out {out}/export",
        ("model.pt", f"corpus/{_TOKENIZER}", "corpus/dict.txt", "corpus/manifest.json"),
    ),
    "inspect": ("inspect --checkpoint {in}/model.pt", ("model.pt",)),
    "show masks": (
        "show masks --checkpoint {in}/model.pt --data {in}/corpus --text House --num-masks 1",
        ("model.pt", "corpus/dict.txt", f"corpus/{_TOKENIZER}"),
    ),
    "measure information": (
        "measure information --checkpoint {in}/model.pt --data {in}/corpus --clusters 2 --frequent 4",
        ("model.pt", "corpus/valid.bin", "corpus/valid.idx", "corpus/dict.txt"),
    ),
    "prepare corpus like": (
        "prepare corpus --train {in}/corpus.txt --out {out}/new --tokenizer-from {in}/corpus",
        ("corpus.txt", f"corpus/{_TOKENIZER}", "corpus/manifest.json", "corpus/dict.txt"),
    ),
    "prepare task": (
        "prepare task --task SST-2 --data {in}/SST-2 --corpus {in}/corpus --out {out}/new",
        ("SST-2/train.tsv", "SST-2/dev.tsv", f"corpus/{_TOKENIZER}", "corpus/manifest.json"),
    ),
    "prepare squad": (
        "prepare task --task squad --data {in}/squad --corpus {in}/corpus --out {out}/new",
        ("squad/train-v2.0.json", "squad/dev-v2.0.json"),
    ),
    "tune": (
        "fairseq-train {in}/sst2 --task sentence_prediction --criterion scored_sentence_prediction"
        " --num-classes 2 --init-token 0 --required-batch-size-multiple 1",
        tuple(f"sst2/{name}" for name in _TUNED),
    ),
    "tune squad": (
        "fairseq-train {in}/prepared_squad --task squad --criterion squad --tokens-per-sample 64 --doc-stride 16"
        " --question-tokens 16",
        (*(f"prepared_squad/{name}" for name in _SQUAD), "prepared_squad/dict.txt"),
    ),
    "baselines": ("baselines --data {in}/sst2", ("sst2/manifest.json",)),
    "curves": ("curves --run A={in}/train.log --figure {out}/curves.png", ("train.log",)),
}
# Texts are what they are: there is no telling a flipped bit.
_TEXTS = (".tsv", "corpus.txt", "-v2.0.json", "train.log")
_SEEN_IN_TEXTS = ("missing", "a folder", "empty", "noise", "zeros")

_COUNT = ("-1", "0", "nan", "x", "1.5", "99999999999999999999999")
_SHARE = ("-0.1", "1.5", "nan", "inf", "-inf", "x")
_POSITIVE = ("0", "-1", "nan", "inf", "x")
_NOT_NEGATIVE = ("-1", "nan", "inf", "x")
_INTEGER = ("-1", "nan", "x", "0.5")
_FINITE = ("nan", "inf", "x")
_AMOS = "--arch amos_tiny --criterion amos "
_MAP_NET = "--arch map_net_tiny --criterion map_net "
_OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    # nonsense -> options, after the options that they need
    "counts": (_COUNT, "batch-size max-tokens update-freq encoder-layers encoder-embed-dim encoder-ffn-embed-dim"
               " encoder-attention-heads max-positions tokens-per-sample log-interval save-interval mask-splits"
               " required-batch-size-multiple global-batch validate-interval distributed-world-size span-max-length"
               " global-attention-every"),
    "shares": (_SHARE, "dropout attention-dropout activation-dropout mask-prob valid-mask-prob leave-unmasked-prob"
               " pooler-dropout random-token-prob layer-lr-decay mask-prob-end span-geometric-p"),
    "positive": (_POSITIVE, "layer-norm-eps rope-theta rope-local-theta"),
    "--relative-position t5 ": (_COUNT, "relative-position-buckets relative-position-max-distance"),
    "evaluated": (("x", "(", ""), "adam-betas optimizer-overrides"),
    "not negative": (_NOT_NEGATIVE, "clip-norm lr stop-time-hours weight-decay"),
    "integers": (_INTEGER, "seed max-update max-epoch num-workers save-interval-updates skip-nonfinite"
                 " validate-interval-updates validate-after-updates attention-window"),
    "choices": (("nonsense", "1"), "sample-break-mode mask-unit mask-law relative-position arch criterion optimizer"
                " lr-scheduler ddp-backend activation-fn feed-forward norm position-encoding compile ops-impl task"),
    f"{_AMOS}": (_POSITIVE, "gumbel-temperature"),
    f"{_AMOS} ": (_FINITE, "adversarial-scale adversarial-mlm-scale"),
    f"{_AMOS}  ": (_NOT_NEGATIVE, "discriminator-weight"),
    f"{_AMOS}   ": (("x", "1,x", "-1", "99999999999999999999999"), "generator-layers"),
    _MAP_NET: (_NOT_NEGATIVE, "encoder-loss-weight importance-clip"),
    f"{_MAP_NET} ": (_SHARE, "explore-start explore-end"),
    f"{_MAP_NET}  ": (_COUNT, "proposal-layers proposal-embed-dim proposal-ffn-embed-dim proposal-attention-heads"),
    f"{_MAP_NET}   ": (_INTEGER, "explore-updates"),
    "--arch three_ml_tiny ": (_COUNT, "decoder-layers decoder-embed-dim"),
    "--lr-scheduler linear ": (_SHARE, "warmup-ratio"),
    "--lr-scheduler wsd ": (_INTEGER, "warmup-updates decay-updates"),
    "--optimizer fused_adamw ": (_POSITIVE, "adam-eps"),
    "--optimizer muon ": (("-1", "0", "nan", "x", "99"), "ns-steps"),
    "--optimizer muon  ": (("-0.1", "1", "nan", "x"), "momentum"),
    "--optimizer muon   ": (_POSITIVE, "adamw-lr"),
}  # fmt: skip
_PATHS = ("restore-file", "finetune-from-model", "init-from")
_HYDRA = (
    "model.dropout=x", "model.dropout=1.5", "model.dropuot=0.1", "model=nonsense", "task.mask_prob=null",
    "task.mask_prob=[1]", "task.tokens_per_sample=1.5", "optimization.max_update=x", "criterion=nonsense",
    "dataset.batch_size=0", "dataset.batch_size={a:1}", "task.mask_unit=nonsense", "common.seed=-1", "nonsense",
    "optimizer.adam_betas=x", "optimizer.adam_betas=[0.9]", "lr_scheduler.total_num_update=0",
    "a=b=c", "model.encoder_layers=${nowhere}", "optimization.lr=[x]", "task.data=/nowhere",
    "+model.dropout.x=1", "~model", "~task", "~criterion", "~optimizer", "~dataset", "~checkpoint", "~lr_scheduler",
    "checkpoint.save_dir=/dev/null/x", "optimization.update_freq=[0]",
    "common.user_dir=/nowhere", "optimization.lr=[]",
)  # fmt: skip
_RECIPE = """
defaults: [task: masked_pretraining, model: mlm_tiny, criterion: mlm, optimizer: adam, lr_scheduler: fixed, _self_]
dataset:
  batch_size: 1
"""
_YAML = {
    "broken": "model: [", "tab": "model:\n\tdropout: 1", "tag": "x: !!python/object/apply:os.system [true]",
    "text": "nonsense", "list": "- a\n- b", "unknown key": f"{_RECIPE}model:\n  dropuot: 1\n",
    "unknown group": "defaults:\n  - model: nonsense\n  - _self_\n", "binary": "\x00\x01", "null": "",
    "wrong type": f"{_RECIPE}model:\n  dropout: {{a: 1}}\n",
    "no base": "defaults:\n  - nowhere\n  - _self_\n",
}  # fmt: skip
_VERB_OPTIONS = {
    "show masks --checkpoint {in}/model.pt --data {in}/corpus --text House": {
        "--num-masks": _COUNT[:5], "--mask-prob": _SHARE, "--tokens-per-sample": _COUNT[:5], "--width": ("x", "-5"),
        "--color": ("x",), "--law": ("x",), "--file": ("/nowhere", "/"), "--out": ("/dev/null/x",),
    },
    "measure information --checkpoint {in}/model.pt --data {in}/corpus --clusters=2 --frequent=4": {
        "--mask-prob": _SHARE, "--batch-size": _COUNT[:5], "--states": _COUNT[:5], "--clusters": _COUNT[:5],
        "--frequent": _COUNT[:5], "--tokens-per-sample": _COUNT[:5], "--split": ("nowhere", ""),
        "--out": ("/dev/null/x",), "--figure": ("/dev/null/x",),
    },
    "measure variance --checkpoint {in}/model.pt --data {in}/corpus": {
        "--mask-prob": _SHARE, "--tokens-per-sample": _COUNT[:5], "--of": ("x",), "--split": ("nowhere",),
    },
    "prepare corpus --train {in}/corpus.txt --out {out}/new --vocab-size=120": {
        "--vocab-size": (*_COUNT, "1"), "--valid-fraction": _SHARE, "--shards": _COUNT, "--workers": _COUNT[:5],
        "--documents": ("x",), "--tokenizer": ("x",), "--seed": ("x",),
    },
    "prepare task --task SST-2 --data {in}/SST-2 --corpus {in}/corpus --out {out}/new": {
        "--max-length": _COUNT[:5], "--max-train-rows": _COUNT[:5], "--workers": _COUNT[:5], "--task": ("x", "MNLI"),
        "--data": ("/nowhere", "/dev/null"), "--corpus": ("/nowhere", "/dev/null"), "--out": ("/dev/null/x",),
    },
    "export --checkpoint {in}/model.pt --out {out}/export": {
        "--checkpoint": ("/nowhere", "{in}", "/dev/null"), "--data": ("/nowhere", "{in}"), "--head": ("x",),
        "--out": ("/dev/null/x", "{in}"),
    },
    "inspect": {"--checkpoint": ("/nowhere", "{in}", "/dev/null")},
    "curves --run A={in}/train.log --figure {out}/c.png": {
        "--smooth": _COUNT[:5], "--run": ("x", "A=/nowhere", "=", "A="), "--preset": ("x",), "--out": ("/dev/null/x",),
    },
    "baselines": {"--data": ("/nowhere", "{in}", "{in}/corpus", "/dev/null")},
    "table": {"": ("/nowhere", "/dev/null")},
    "plan --config mlm_tiny": {"--config": ("nonsense", "", "../x"), "--config-dir": ("/nowhere",)},
}  # fmt: skip


def make_inputs(folder: Path) -> None:
    """One small input of each kind, whole."""
    write_prepared_corpus(folder)
    shape = ("--encoder-layers", "1", "--encoder-embed-dim", "16", "--encoder-ffn-embed-dim", "16",
             "--max-positions", "64", "--encoder-attention-heads", "2")  # fmt: skip
    assert train_here(folder / "corpus", folder / "run", *TRAIN, *shape) == 0
    (folder / "run" / "checkpoint_last.pt").rename(folder / "model.pt")
    (folder / "run" / "train.log").rename(folder / "train.log")
    shutil.rmtree(folder / "run")
    assert run_verb("export", "--checkpoint", folder / "model.pt", "--out", folder / "export") == 0
    write_sst2(folder / "SST-2")
    write_squad(folder / "squad")
    prepare("SST-2", folder / "SST-2", folder / "corpus", folder / "sst2")
    prepare("squad", folder / "squad", folder / "corpus", folder / "prepared_squad")
    for name, text in _YAML.items():
        (folder / f"{name.replace(' ', '_')}.yaml").write_text(text, encoding="utf-8")


def break_file(path: Path, damage: str, rng: random.Random) -> None:
    """Do a damage to a file, which may be a hard link to another: that one stays."""
    content = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(DAMAGES[damage](content, rng))  # type: ignore[misc]


def cases() -> Iterator[Case]:
    """All of them, in an order that never changes."""
    for name, (command, files) in _COMMANDS.items():
        for file in files:
            for damage in DAMAGES:
                if file.endswith(_TEXTS) and damage not in _SEEN_IN_TEXTS:
                    continue
                if file.endswith("train.log") and damage in ("noise", "zeros"):
                    continue
                if file.endswith(".json") and damage == "a byte short":  # the last line's end
                    continue
                if command.startswith("fairseq-") and file.endswith("manifest.json") and damage == "missing":
                    continue  # fairseq's own preparation writes none
                named = (Path(file).name, Path(file).stem, str(Path(file).parent))
                yield Case(f"{name}: {file} {damage}", tuple(command.split()), named, file, damage)
    for before, (nonsense, options) in _OPTIONS.items():
        needed = before.split() if before.startswith("--") else []
        for option in options.split():
            for value in nonsense:
                words = ("fairseq-train", "{in}/corpus", *needed, f"--{option}={value}")
                yield Case(f"--{option} {value}", words, (f"--{option}", option.replace("-", "_")))
    for option in _PATHS:
        for value in ("/nowhere", "{in}", "/dev/null", "{in}/corpus/dict.txt"):
            yield Case(
                f"--{option} {value}", ("fairseq-train", "{in}/corpus", f"--{option}={value}"), (f"--{option}", value)
            )
    for override in _HYDRA:
        words = ("fairseq-hydra-train", "--config-name", "mlm_tiny", "task.data={in}/corpus", override)
        key, _, value = override.strip("+~").partition("=")
        yield Case(f"hydra {override}", words, (key.rpartition(".")[2], "nonsense", value.strip("${}") or key))
    for name in _YAML:
        words = ("fairseq-hydra-train", "--config-dir", "{in}", "--config-name", name.replace(" ", "_"))
        named = (name.replace(" ", "_"), "dropuot", "dropout", "nonsense", "nowhere")
        named += ("--batch-size",) if name == "null" else ()  # the first of all that is missing
        yield Case(f"yaml {name}", words, named)
    for verb, by_option in _VERB_OPTIONS.items():
        for option, nonsense in by_option.items():
            for value in nonsense:
                words = (*verb.split(), *([f"{option}={value}"] if option else [value]))
                yield Case(f"{verb.partition(' --')[0]} {option} {value}", words, (option or value, value or "/."))


def _flipped(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)
