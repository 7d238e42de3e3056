"""Validation by mask law where a row is seen 20 times: plain, K masks in a batch or over epochs, rates, units.

The words in the middle of each State of the Union address (215 of each, 50,000 in all, unless --words says otherwise;
the 85 that follow validate), mlm_tiny with rotary positions under Muon, 20 epochs of rows of 64 tokens. All laws train
for as many updates of as many rows but "K = 4, same sequences", whose rows are four times as many. Validation is the
same for all: one mask of 15%, loss and accuracy of what is <mask>. Gains count beyond twice the s.d. of plain masks
over the seeds. Runs that are finished stay, as does what the CSV has of others; give the command again and it goes on:

    python scripts/bench/mask_laws.py --corpus ../shared/data/corpus/sotu.txt.xz --folder runs
"""

import argparse
import lzma
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common import environment, mean_and_spread, read_csv, train_once, write_csv

from fairseq_masking.figures.tables import format_table
from fairseq_masking.figures.training_log import read_training_log

VALID_WORDS, EPOCHS, TOKENS, ROWS = 85, 20, 64, 16
EXPLORED = "--criterion fully_explored_mlm --mask-splits 4"
LAWS = {
    "plain": "--criterion mlm",
    "K = 4, same rows": EXPLORED,
    "K = 4 independent, same rows": f"{EXPLORED} --mask-splits-law independent",
    "over 6 epochs": "--criterion fully_explored_mlm --mask-splits 6 --mask-splits-over epochs",
    "rate 0.3 to 0.15": "--criterion mlm --mask-prob 0.3 --mask-prob-end 0.15",
    "rate 0.3": "--criterion mlm --mask-prob 0.3",
    "adaptive": "--criterion mlm --mask-law adaptive",
    "PMI": "--criterion mlm --mask-unit pmi",
    "K = 4, same sequences": f"{EXPLORED} --batch-size {4 * ROWS}",
}
SHARED = f"""--cpu --task masked_pretraining --arch mlm_tiny --position-encoding rotary --normalize-before --dropout 0
    --attention-dropout 0 --tokens-per-sample {TOKENS} --batch-size {ROWS} --batch-size-valid 256 --num-workers 0
    --optimizer muon --lr 0.02 --adamw-lr 3e-3 --adam-eps 1e-6 --weight-decay 0.01 --clip-norm 1 --no-save
    --lr-scheduler polynomial_decay --warmup-updates 100 --log-format json --log-interval 100
    --validate-interval-updates 250 --validate-interval 1000"""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="sotu.txt.xz, an address a line")
    parser.add_argument("--folder", type=Path, required=True, help="where corpus and runs are, a folder each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--words", type=int, default=215, help="of an address, 215 are 50,000 in all, 1075 250,000")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", default="scripts/bench/results/mask_laws.csv")
    parser.add_argument("--laws", nargs="+", default=list(LAWS), choices=list(LAWS), help="those to train now")
    args = parser.parse_args(argv)
    data = prepare(args.corpus, args.folder, args.words)
    updates = count_updates(data, args.epochs)
    for seed in args.seeds:
        for law in args.laws:
            length = ["--max-update", str(updates), "--total-num-update", str(updates), "--seed", str(seed)]
            train_once(folder_of(args.folder, law, seed), [str(data), *SHARED.split(), *length, *LAWS[law].split()])
            report(args)


def prepare(corpus: Path, folder: Path, num_words: int) -> Path:
    """Write the cut corpus, prepare it and find its collocations; return the prepared folder."""
    data = folder / "data"
    if (data / "pmi.txt").exists():
        return data
    with lzma.open(corpus, "rt", encoding="utf-8") as file:
        addresses = [line.split() for line in file if line.strip()]
    folder.mkdir(parents=True, exist_ok=True)
    for name, start, end in (("train.txt", 0, num_words), ("valid.txt", num_words, num_words + VALID_WORDS)):
        lines = [" ".join(words[len(words) // 2 :][start:end]) for words in addresses]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    verb = [sys.executable, "-m", "fairseq_masking"]
    files = ["--train", str(folder / "train.txt"), "--valid", str(folder / "valid.txt"), "--out", str(data)]
    subprocess.run([*verb, "prepare", "corpus", *files, "--vocab-size", "4000", "--split-sentences"], check=True)
    subprocess.run([*verb, "measure", "pmi", "--data", str(data)], check=True)
    return data


def count_updates(data: Path, epochs: int) -> int:
    """Return the updates of ``epochs`` passes over the full rows of the training text."""
    from fairseq.data import MMapIndexedDataset

    dataset = MMapIndexedDataset(str(data / "train"))  # its sizes lie in its file, for as long as it lives
    return epochs * (int(dataset.sizes.sum()) // TOKENS // ROWS)


def report(args: argparse.Namespace) -> None:
    """Write the CSV of all finished runs, with what it had of others, and print means and spreads."""
    rows = {(int(row["words"]), row["law"], int(row["seed"])): row for row in read_csv(args.out)}
    for law in LAWS:
        for seed in args.seeds:
            folder = folder_of(args.folder, law, seed)
            if (folder / "finished").exists():
                log = read_training_log(folder / "train.log")
                values = {"loss_mask": log.final("loss_mask"), "best": min(log.curve("loss_mask")[1])}
                values |= {"accuracy": log.final("accuracy"), "options": LAWS[law], **environment("cpu")}
                run = {"words": args.words, "law": law, "seed": seed}
                rows[args.words, law, seed] = {**run, "epochs": args.epochs, **values}
    order = sorted(rows, key=lambda run: (run[0], list(LAWS).index(run[1]), run[2]))
    write_csv(args.out, [rows[run] for run in order])
    table = []
    for law in LAWS:
        own = [row for (words, name, _), row in rows.items() if (words, name) == (args.words, law)]
        if own:
            values = [[float(row[key]) for row in own] for key in ("loss_mask", "best", "accuracy")]
            table.append([law, str(len(own)), *map(mean_and_spread, values)])
    header = ["law", "seeds", "loss of <mask>, bits", "lowest of the run", "accuracy, %"]
    print(format_table(header, table), flush=True)


def folder_of(folder: Path, law: str, seed: int) -> Path:
    return folder / f"{law.replace(' ', '_').replace(',', '').replace('_=_', '')}_{seed}"


if __name__ == "__main__":
    main()
