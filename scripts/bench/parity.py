"""Does ``mlm`` learn what stock fairseq's ``masked_lm`` + ``roberta`` learn? Both scored on the same masks.

Trains each system with each seed through the real ``fairseq-train`` (same shape, rate, batch, schedule and
data), carries the stock weights over through ``export/key_table.py`` and scores all of them on our
fixed validation masks. Perplexities are 2^(bits a masked token), as fairseq prints them.

    python scripts/bench/parity.py --data DATA --updates 2000 --seeds 1 2 3 --parallel 2
"""

import argparse
import math
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from common import environment, train_once, write_csv
from fairseq import tasks, utils
from omegaconf import OmegaConf

from fairseq_masking.checkpoints.key_table import FAMILIES, to_ours
from fairseq_masking.checkpoints.loading import read_checkpoint
from fairseq_masking.measure.sequences import count_tokens, unigram
from fairseq_masking.methods.mlm.model import MLMConfig
from fairseq_masking.tasks.masked_pretraining import MaskedPretrainingConfig
from fairseq_masking.tokenizers.symbols import MASK_SYMBOL

SHAPE = {"encoder_layers": 2, "encoder_embed_dim": 128, "encoder_ffn_embed_dim": 512, "encoder_attention_heads": 2}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=".quickstart/data", help="prepared corpus")
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--parallel", type=int, default=2, help="runs at once, one CPU thread each")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--work", type=Path, default=Path("/tmp/fairseq_masking_parity"), help="checkpoints and logs")
    parser.add_argument("--out", type=Path, default=Path("scripts/bench/results/parity.csv"))
    return parser.parse_args(argv)


def train(args: argparse.Namespace, system: str, seed: int) -> Path:
    """Train one run, unless it is finished in its folder already; return its last checkpoint."""
    folder = args.work / f"{system}-{seed}"
    command = f"""{args.data} --tokens-per-sample {args.tokens} --batch-size {args.rows} --seed {seed}
        --max-update {args.updates} --total-num-update {args.updates} --warmup-updates {args.updates // 10}
        --lr 1e-3 --lr-scheduler polynomial_decay --optimizer adam --adam-betas (0.9,0.98) --adam-eps 1e-6
        --weight-decay 0.01
        --clip-norm 1.0 --max-positions 512 --num-workers 1 --log-format simple --log-interval 100
        --no-epoch-checkpoints""".split()
    command += ["--cpu"] if args.device == "cpu" else []
    if system == "stock_fairseq":
        shape = [text for key, value in SHAPE.items() for text in (f"--{key.replace('_', '-')}", str(value))]
        command += ["--task", "masked_lm", "--criterion", "masked_lm", "--arch", "roberta", *shape]
    else:
        command += ["--task", "masked_pretraining", "--criterion", "mlm", "--arch", "mlm_tiny"]
    train_once(folder, command, finished=f"finished-{args.updates}")
    return folder / "checkpoint_last.pt"


class Scorer:
    """The validation set of a prepared corpus with our fixed masks."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device = args.device
        cfg = OmegaConf.structured(MaskedPretrainingConfig(data=args.data, tokens_per_sample=args.tokens))
        cfg.seed, cfg.train_subset, cfg.update_freq, cfg.bpe = 1, "train", [1], None
        self.task = tasks.setup_task(OmegaConf.merge(cfg, {"_name": "masked_pretraining"}))
        self.task.load_dataset("valid")
        batches = self.task.get_batch_iterator(self.task.dataset("valid"), max_sentences=64)
        self.batches = list(batches.next_epoch_itr(shuffle=False))

    def model_bits(self, checkpoint: Path, system: str) -> float:
        """Return the bits a masked token of a checkpoint."""
        state = read_checkpoint(checkpoint).state["model"]
        state = to_ours(state, FAMILIES["fairseq"]).state if system == "stock_fairseq" else state
        model = self.task.build_model(OmegaConf.structured(MLMConfig(**SHAPE, _name="mlm")))
        model.load_state_dict(state, strict=True)
        model.to(self.device).eval()
        nats = count = 0.0
        with torch.no_grad():
            for batch in self.batches:
                batch = utils.move_to_cuda(batch) if self.device == "cuda" else batch
                losses = model(**batch["net_input"]).losses_N
                nats, count = nats + losses.sum().item(), count + losses.numel()
        return nats / count / math.log(2)

    def unigram_bits(self) -> float:
        """Return the bits a masked token of the training text's unigram distribution (add-one)."""
        dictionary = self.task.source_dictionary
        counts_V = count_tokens(Path(self.task.cfg.data), "train", dictionary)
        probabilities_V = unigram(counts_V, [*range(dictionary.nspecial), dictionary.index(MASK_SYMBOL)])
        net_inputs = (batch["net_input"] for batch in self.batches)
        targets = [net["src_tokens"].flatten()[net["positions"]].numpy() for net in net_inputs]
        return float(-np.log2(probabilities_V[np.concatenate(targets)]).mean())


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    runs = [(system, seed) for seed in args.seeds for system in ("fairseq_masking", "stock_fairseq")]
    with ThreadPoolExecutor(args.parallel) as pool:
        checkpoints = list(pool.map(lambda run: train(args, *run), runs))
    scorer = Scorer(args)
    rows = []
    for (system, seed), checkpoint in zip(runs, checkpoints, strict=True):
        bits = scorer.model_bits(checkpoint, system)
        rows.append({"system": system, "seed": seed, "updates": args.updates, "bits": round(bits, 4)})
        rows[-1] |= {"perplexity": round(2**bits, 2), **environment(args.device)}
        print(rows[-1], flush=True)
    unigram = scorer.unigram_bits()
    rows.append({**rows[-1], "system": "unigram", "seed": "", "updates": 0, "bits": round(unigram, 4)})
    rows[-1]["perplexity"] = round(2**unigram, 2)
    for system in ("fairseq_masking", "stock_fairseq"):
        bits = [row["bits"] for row in rows if row["system"] == system]
        spread = statistics.stdev(bits) if len(bits) > 1 else float("nan")
        print(f"{system}: {statistics.mean(bits):.4f} bits, sd {spread:.4f} over {len(bits)} seeds")
    print(f"unigram: {unigram:.4f} bits, perplexity {2**unigram:.1f}")
    write_csv(args.out, rows)


if __name__ == "__main__":
    main()
