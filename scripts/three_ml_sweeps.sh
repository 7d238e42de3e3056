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

strategy: 80-10-10, 100-0-0, 80-20-0, 80-0-20 at 40% (Table 2c; mlm at 80-10-10 and 40%: Table 1); rate: 15% to 70%,
validated at 15%; depth: 1, 2, 4, 8 decoder layers (Table 2a); width: 64, 128, 192, 256 (Table 2b has 256 to 1024
under an encoder of 1024; here it is 128).
KEY=VALUE goes to every run, for example dataset.batch_size=32 common.seed=2
TEXT
}

fail() {
    echo "three_ml_sweeps.sh: error: $1 (see --help)" >&2
    exit 2
}

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
data= out= updates=2000 only=strategy,rate,depth,width dry_run=
overrides=()
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage && exit 0 ;;
        --dry-run) dry_run=1 && shift ;;
        --data | --out | --updates | --only)
            [ $# -ge 2 ] || fail "$1 needs a value"
            printf -v "${1#--}" %s "$2" && shift 2 ;;
        -*) fail "unknown option $1" ;;
        *=*) overrides+=("$1") && shift ;;
        *) fail "'$1' is neither an option nor KEY=VALUE" ;;
    esac
done
[ -n "$data" ] || fail "--data is missing"
[ -n "$out" ] || fail "--out is missing"
[[ $updates =~ ^[1-9][0-9]*$ ]] || fail "--updates $updates is not a number above 0"
for part in ${only//,/ }; do
    [[ ,strategy,rate,depth,width, == *",$part,"* ]] || fail "unknown part $part"
done
mkdir -p "$out" && out=$(cd "$out" && pwd)
[ ! -x "$repo/.venv/bin/fairseq-hydra-train" ] || PATH=$repo/.venv/bin:$PATH

# sweep RECIPE FOLDER KEY=VALUES...: folders are named after what the runs differ in.
sweep() {
    local recipe=$1 name=$2
    local command=(fairseq-hydra-train --multirun --config-dir "$repo/configs/pretrain" --config-name "$recipe"
        "task.data='$data'" "checkpoint.save_dir='$out/$name'" "hydra.sweep.dir='$out'" "hydra.sweep.subdir='$name'"
        "optimization.max_update=$updates"
        "${@:3}" ${overrides[@]+"${overrides[@]}"})
    if [ -n "$dry_run" ]; then
        printf '%q ' "${command[@]}" && echo
        return
    fi
    "${command[@]}" >>"$out/output.txt" 2>&1 || { tail -n 5 "$out/output.txt" >&2 && return 1; }
}

three_ml() { sweep three_ml_tiny "$@" model.decoder_attention=self,cross; }

decoder="\${model.decoder_attention}"
case ,$only, in *,strategy,*)
    for strategy in 0.1,0.1 0.0,0.0 0.0,0.2 0.2,0.0; do
        three_ml "strategy_${strategy/,/_}_$decoder" "task.leave_unmasked_prob=${strategy%,*}" \
            "task.random_token_prob=${strategy#*,}" task.mask_prob=0.4 task.valid_mask_prob=0.4
    done
    sweep mlm_tiny strategy_mlm task.mask_prob=0.4 task.valid_mask_prob=0.4 ;;
esac
case ,$only, in *,rate,*)
    rates=task.mask_prob=0.15,0.3,0.4,0.5,0.6,0.7
    three_ml "rate_\${task.mask_prob}_$decoder" "$rates"
    sweep mlm_tiny "rate_\${task.mask_prob}_mlm" "$rates" ;;
esac
case ,$only, in *,depth,*)
    three_ml "depth_\${model.decoder_layers}_$decoder" task.valid_mask_prob=0.4 model.decoder_layers=1,2,4,8 ;;
esac
case ,$only, in *,width,*)
    three_ml "width_\${model.decoder_embed_dim}_$decoder" task.valid_mask_prob=0.4 model.decoder_embed_dim=64,128,192,256 ;;
esac
[ -z "$dry_run" ] || exit 0
PYTHONPATH="$repo${PYTHONPATH:+:$PYTHONPATH}" python -m fairseq_masking.cli.sweep_table "$out" --log hydra_train.log \
    --out "$out/table.csv"
