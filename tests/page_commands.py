"""The commands that pages print, run as printed but for sizes, in a folder that has what they name."""

import contextlib
import json
import lzma
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from commands import PACKAGE, ROOT, assert_ok, run_command, run_verb, write_corpus
from finetuning_data import write_sst2

from fairseq_masking.cli.main import VERBS
from fairseq_masking.cli.main import parser_of as parser_of_verb
from fairseq_masking.cli.options import VerbParser

# What is not run, and why. Its options are checked where there is a parser that knows them.
NOT_RUN = {
    r"make \w+": "make quickstart and make test are what runs this test",
    r"pip install |python -c \"import torchaudio": "tests/test_wheel.py installs",
    r"python -m wikiextractor\.": "needs a Wikipedia dump",
    r"find .*": "a pipe over what that extracted",
    r"awk .*": "tests/corpus/test_stock_data.py runs it",
}

# Of these the verb's parser reads the options, and no more.
PARSED = {
    r"fairseq-masking finetune .*--task CoLA SST-2 MRPC": "README runs it with two of the tasks",
    r"fairseq-masking measure probing": "tests/measure/test_edge_probing.py runs it on trees",
    r"fairseq-masking measure scale": "tests/measure/test_scale.py runs it",
    r"fairseq-masking compare": "tests/comparing runs it",
    r"fairseq-masking continue": "tests/cli/test_continue.py runs it",
}

# As printed -> as run: nothing but sizes, places of this machine, and how many of several alike.
SHORTER = (
    (r"\b(fully_explored|mlm|map_net|amos)_(?:base|residues)\b", r"\1_tiny"),
    (r"\bthree_ml_base(_self40)?\b", "three_ml_tiny"),
    (r"--vocab-size \d+", "--vocab-size 150"),
    (r"--workers 16", "--workers 1"),
    (r"--task CoLA SST-2", "--task SST-2"),
)
CPU = "common.cpu=true common.bf16=false dataset.num_workers=0 optimization.update_freq=[1]"
TWO_UPDATES = f"{CPU} optimization.max_update=2 lr_scheduler.warmup_updates=1 task.tokens_per_sample=20"
BY_OPTIONS = "--cpu --max-update 2 --num-workers 0 --log-interval 1"
FEW = "--sequences 1 --replicates 100 --tokens-per-sample 20"
DISTANCES = "--sequences 1 --tokens-per-sample 20 --distances 2 --pairs 2 --reference-masks 2"
# Added to a command of which the first of these is found.
ADDED = (
    (r"fairseq-masking prepare corpus (?!.*--(tokenizer|vocab-size))", "--vocab-size 150"),
    (r"fairseq-masking finetune", "--protocol tiny --seeds 1 --set optimization.lr=[1e-3]"),
    (r"fairseq-masking measure information", "--states 200 --clusters 4 --batch-size 4 --frequent 20"),
    (r"fairseq-masking measure replacements", "--batches 2 --batch-size 4"),
    (r"fairseq-masking measure adversary", "--steps 2 --held-out 2 --batch-size 4"),
    (r"fairseq-masking measure variance --of splits", f"{FEW} --draws 3"),
    (r"fairseq-masking measure variance --of distances", DISTANCES),
    (r"fairseq-masking measure variance --of laws", f"{FEW} --draws 3 --oracle-rounds 1"),
    (r"--nodes", "--print"),
    (r"scripts/(three_ml_sweeps|amos_mixtures)\.sh", "--dry-run"),
    (r"scripts/pretrain\.sh", f"--gpus 0 {TWO_UPDATES} dataset.batch_size=4"),
    (r"fairseq-hydra-train .*configs/pretrain", f"{TWO_UPDATES} dataset.batch_size=4"),
    (r"fairseq-hydra-train .*configs/finetune", f"{CPU} optimization.max_update=2 dataset.batch_size=8"),
    (r"fairseq-train .*--help", ""),
    (r"fairseq-train .*--task sentence_prediction", BY_OPTIONS),
    (r"fairseq-train", f"{BY_OPTIONS} --tokens-per-sample 20 --batch-size 4 --update-freq 1"),
    (r"fairseq-validate", "--cpu --num-workers 0"),
)


def commands_of(block: str) -> list[str]:
    """The commands of a bash block, a line each, without comments."""
    joined = re.sub(r"(\\|\|)\n\s*", lambda found: "| " if found[1] == "|" else "", block)
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def run_page_command(printed: str, workspace: Path) -> None:
    """Run a command in ``workspace``, shortened; an error shows what it printed."""
    if any(re.match(pattern, printed) for pattern in NOT_RUN):
        return
    if any(re.match(pattern, printed) for pattern in PARSED):
        parser, arguments = parser_of(shlex.split(printed, comments=True)[1:])
        parser.parse_args(arguments)
        return
    command = printed
    for pattern, shorter in SHORTER:
        command = re.sub(pattern, shorter, command)
    words = shlex.split(command, comments=True)
    for place in re.findall(r"(?:save[-_]dir[ =]|--out )(\S+)", command):
        if (workspace / place).is_symlink():  # the template's, until the page makes its own
            (workspace / place).unlink()
    added = next((added for pattern, added in ADDED if re.search(pattern, command)), "")
    _run(words + added.split(), workspace)


def parser_of(words: list[str]) -> tuple[VerbParser, list[str]]:
    """The parser of the verb that ``words`` begin with, and the words after it."""
    verb = next(verb for verb in VERBS if words[: len(verb.split())] == verb.split())
    _, parser = parser_of_verb(verb)
    return parser, words[len(verb.split()) :]


def _run(words: list[str], workspace: Path) -> None:
    program, *arguments = words
    if program == "sbatch":  # outside of Slurm: the script whose options it takes
        first = next(number for number, word in enumerate(arguments) if word.endswith(".slurm"))
        assert (workspace / arguments[first]).is_file()
        program, arguments = "scripts/pretrain.sh", arguments[first + 1 :]
    if program == "scripts/pretrain.sh" and "--print" not in arguments:
        printed = _script([program, *arguments, "--print"], workspace)
        program, *arguments = shlex.split(printed)
    elif program.endswith(".sh"):
        _script([program, *arguments], workspace)
        return
    if program == "fairseq-masking":
        assert run_verb(*arguments) == 0, shlex.join(words)
        return
    if program == "python":
        _python(arguments)
        return
    if program in ("fairseq-train", "fairseq-validate"):
        # as printed it is a folder of the repository, where we are not
        arguments += ["--user-dir", str(PACKAGE)]
    assert_ok(run_command([program, *arguments], cwd=workspace))


def _python(arguments: list[str]) -> None:
    if arguments[0] == "-c":
        exec(arguments[1], {})
    else:  # a script's --help
        assert "add_argument" in (ROOT / arguments[0]).read_text(encoding="utf-8")
        assert arguments[1:] == ["--help"]


def _script(command: list[str], workspace: Path) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    finished = run_command(["bash", *command], cwd=workspace, environment={"PATH": path})
    assert_ok(finished)
    return finished.stdout


def write_template(folder: Path) -> None:
    """What pages take for granted, tiny, under the names that they print: text, data, checkpoints, models."""
    lines = _write_texts(folder)
    for name in ("scripts", "configs"):
        (folder / name).symlink_to(ROOT / name)
    write_sst2(folder / "glue" / "SST-2")
    (folder / "blimp").mkdir()
    (folder / "blimp" / "order.jsonl").write_text(
        json.dumps({"sentence_good": lines[0], "sentence_bad": " ".join(reversed(lines[0].split()))}), encoding="utf-8"
    )
    _write_bpe(folder, lines)
    _write_roberta(folder / "FacebookAI" / "roberta-base", folder)
    (folder / "vocab.txt").write_text(_wordpieces(lines), encoding="utf-8")
    with contextlib.chdir(folder):
        run_page_command("fairseq-masking prepare corpus --train my.txt --out data/made", folder)
    (folder / "data" / "wiki").symlink_to("made")
    run_page_command(
        "fairseq-hydra-train --config-dir configs/pretrain --config-name mlm_tiny task.data=data/wiki"
        " checkpoint.save_dir=checkpoints/made common.log_interval=1",
        folder,
    )
    (folder / "mlm.log").symlink_to("checkpoints/made/train.log")
    for name in ("mlm", "mine"):
        (folder / "checkpoints" / name).symlink_to("made")
    (folder / ".quickstart").mkdir()
    (folder / ".quickstart" / "mlm").symlink_to("../checkpoints/made")
    (folder / ".quickstart" / "data").symlink_to("../data/made")


def copy_template(template: Path, workspace: Path) -> Path:
    """Return a workspace for one page."""
    return Path(shutil.copytree(template, workspace, symlinks=True))


def _write_texts(folder: Path) -> list[str]:
    with lzma.open(ROOT / "scripts" / "quickstart" / "sotu.txt.xz", "rt", encoding="utf-8") as file:
        sentences = re.split(r"(?<=\.) ", next(file))
    lines = (sentences * 8)[:400]
    (folder / "my.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "residues.txt").write_text("M K T A Y I A K\n" * 200, encoding="utf-8")
    (folder / "data" / "stock").mkdir(parents=True)
    write_corpus(folder / "data" / "stock", {"train": 20})
    with lzma.open(folder / "wiki.txt.xz", "wt", encoding="utf-8") as file:
        file.write("\n\n".join("\n".join(lines[start : start + 5]) for start in range(0, 400, 5)))
    return lines


def _write_bpe(folder: Path, lines: list[str]) -> None:
    """encoder.json and vocab.bpe: GPT-2's bytes and a few merges."""
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(lines, vocab_size=300, show_progress=False)
    tokenizer.save_model(str(folder))
    (folder / "vocab.json").rename(folder / "encoder.json")
    (folder / "merges.txt").rename(folder / "vocab.bpe")


def _write_roberta(model: Path, folder: Path) -> None:
    """A tiny RoBERTa as transformers saves it, with RoBERTa's order of symbols."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    words = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    symbols = ["<s>", "<pad>", "</s>", "<unk>", *sorted(words, key=words.get), "<mask>"]
    config = RobertaConfig(
        vocab_size=len(symbols), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=26, type_vocab_size=1, pad_token_id=1,
    )  # fmt: skip
    RobertaForMaskedLM(config).save_pretrained(model)
    values = {symbol: number for number, symbol in enumerate(symbols)}
    (model / "vocab.json").write_text(json.dumps(values), encoding="utf-8")
    shutil.copy(folder / "vocab.bpe", model / "merges.txt")


def _wordpieces(lines: list[str]) -> str:
    characters = sorted({character for line in lines for character in line.lower() if not character.isspace()})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    return "\n".join([*pieces, *(f"##{character}" for character in characters), ""])
