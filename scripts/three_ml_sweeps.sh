#!/usr/bin/env bash
# 3ML's ablations at tiny scale (2211.04898, Tables 1 and 2, Figure 5): perplexities, no fine-tuning.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/three_ml_sweeps.sh --data DIR --out DIR [options] [KEY=VALUE ...]

Trains three_ml_tiny, self and cross, through fairseq-hydra-train --multirun, and mlm_tiny beside it; writes one
table, OUT/table.csv. A run that is finished is not trained again.
  --data DIR      prepared corpus
  --out DIR       folder of all runs
  --updates N     of each run (default: 2000)
  --only PARTS    some of: strategy,rate,depth,width (default: all)
  --dry-run       print the commands and stop
  --help          this text

strategy: 80-10-10, 100-0-0, 80-20-0, 80-0-20 at 40% (Table 2c; mlm at 80-10-10 and 40%: Table 1); rate: 15% to 70% of
rows of 64 tokens (15% of the recipe's 40 would leave none unchanged), validated at 15%; depth: 1, 2, 4, 8 decoder layers
(Table 2a); width: 64, 128, 192, 256 (Table 2b has 256 to 1024 under an encoder of 1024; here it is 128).
KEY=VALUE goes to every run, for example dataset.batch_size=32 common.seed=2
TEXT
}

parts=strategy,rate,depth,width updates=2000
# shellcheck source=sweep.bash
. "$(dirname "${BASH_SOURCE[0]}")/sweep.bash"
read_options "$@"

decoder="\${model.decoder_attention}"
three_ml() { sweep three_ml_tiny "$@" model.decoder_attention=self,cross; }

if asked_for strategy; then
    for strategy in 0.1,0.1 0.0,0.0 0.0,0.2 0.2,0.0; do
        three_ml "strategy_${strategy/,/_}_$decoder" "task.leave_unmasked_prob=${strategy%,*}" \
            "task.random_token_prob=${strategy#*,}" task.mask_prob=0.4 task.valid_mask_prob=0.4
    done
    sweep mlm_tiny strategy_mlm task.mask_prob=0.4 task.valid_mask_prob=0.4
fi
if asked_for rate; then
    rates=(task.tokens_per_sample=64 task.mask_prob=0.15,0.3,0.4,0.5,0.6,0.7)
    three_ml "rate_\${task.mask_prob}_$decoder" "${rates[@]}"
    sweep mlm_tiny "rate_\${task.mask_prob}_mlm" "${rates[@]}"
fi
if asked_for depth; then
    three_ml "depth_\${model.decoder_layers}_$decoder" task.valid_mask_prob=0.4 model.decoder_layers=1,2,4,8
fi
if asked_for width; then
    three_ml "width_\${model.decoder_embed_dim}_$decoder" task.valid_mask_prob=0.4 model.decoder_embed_dim=64,128,192,256
fi
make_table
