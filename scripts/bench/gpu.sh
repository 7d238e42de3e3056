#!/usr/bin/env bash
# Everything that needs a GPU, in order of importance, within a budget of seconds: tests, benchmarks, training.
# shellcheck disable=SC2046,SC2207 # sizes and systems are lists: their words are arguments each
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: scripts/bench/gpu.sh [--only PART[,PART]] [--budget SECONDS] [--out DIR] [--data DIR] [--dry]

Runs every GPU check and benchmark. Writes a CSV for each benchmark (three_ml: a figure too) and gpu.log; where
time or files are limited, call it several times with --only.
  --only PARTS      some of: tests,waiting,step,operations,huggingface,train,three_ml,amos,scaling,agreement,profile,
                    loading (default: all, in this order)
  --budget SECONDS  start no part that is not expected to fit, end one that overruns (default 540)
  --out DIR         where the files go (default scripts/bench/results)
  --data DIR        prepared corpus (default: an artificial one, 30,522 symbols)
  --dry             the same commands at toy size on the CPU, to see that they run
PYTHON names the interpreter (default python3). It needs torch, fairseq and pytest; no network.
TEXT
}

order="tests,waiting,step,operations,huggingface,train,three_ml,amos,scaling,agreement,profile,loading"
data="" only="$order" budget=540 out="scripts/bench/results" dry=""
while [ $# -gt 0 ]; do
  case "$1" in
    --help|-h) usage; exit 0 ;;
    --dry) dry=1; shift; continue ;;
    --data|--only|--budget|--out) [ $# -gt 1 ] || { echo "gpu.sh: $1 needs a value" >&2; exit 2; } ;;
    *) echo "gpu.sh: unknown option $1 (--help lists them)" >&2; exit 2 ;;
  esac
  case "$1" in
    --data) data="$2" ;;
    --only) only="$2" ;;
    --budget) budget="$2" ;;
    --out) out="$2" ;;
  esac
  shift 2
done
for part in ${only//,/ }; do
  [[ ",$order," == *",$part,"* ]] || { echo "gpu.sh: unknown part $part (--help lists them)" >&2; exit 2; }
done
[[ "$budget" =~ ^[0-9]+$ ]] || { echo "gpu.sh: --budget is a number of seconds, not $budget" >&2; exit 2; }
[ -z "$data" ] || [ -f "$data/dict.txt" ] || { echo "gpu.sh: no prepared corpus in $data" >&2; exit 2; }
mkdir -p "$out"
out="$(cd "$out" && pwd)"
[ -z "$data" ] || data="$(cd "$data" && pwd)"
cd "$(dirname "$0")/../.."
python="${PYTHON:-python3}"
[ -n "$dry" ] || "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' \
  || { echo "gpu.sh: PyTorch sees no CUDA GPU here" >&2; exit 1; }
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore
export TORCHINDUCTOR_CACHE_DIR="${TORCHINDUCTOR_CACHE_DIR:-$work/inductor}" # one compilation for all parts
started=$SECONDS

# Sizes: the GPU's, or toys of the same commands.
if [ -z "$dry" ]; then
  device=cuda vocabulary=30522 sentences=60000 base=base large=large half=(--precision bf16)
else
  device=cpu vocabulary=500 sentences=1500 base=tiny large=tiny half=(--precision bf16)
fi
size() { if [ -z "$dry" ]; then echo "$1"; else echo "$2"; fi; } # size GPU TOY

# Runs a command; the part's deadline ends it, with all it started.
limited() {
  local left=$((deadline - SECONDS))
  [ "$left" -gt 0 ] || { echo "gpu.sh: no time left for: $*" >&2; return 124; }
  timeout --kill-after=5 "$left" "$@"
}
bench() { limited "$python" "scripts/bench/$1.py" "${@:2}" --device "$device"; }
fairseq_train() {
  limited "$python" -c 'import sys; from fairseq_cli.train import cli_main; sys.exit(cli_main())' "$@"
}

make_data() {
  [ -z "$data" ] || return 0
  data="$work/data"
  PYTHONPATH="scripts/bench${PYTHONPATH:+:$PYTHONPATH}" "$python" - "$data" "$vocabulary" "$sentences" <<'PYTHON'
import sys
from pathlib import Path

from common import write_corpus

write_corpus(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), ("train", "valid"))
PYTHON
}

# The kernels and what stands on them; the dry run takes a few.
run_tests() {
  if [ -n "$dry" ]; then
    limited "$python" -m pytest -q --device cpu -p no:cacheprovider tests/ops/test_indices.py
  else
    limited "$python" -m pytest -q --device cuda -p no:cacheprovider --maxfail 20 \
      tests/ops tests/modules tests/optim/test_adamw.py tests/optim/test_clipping.py \
      tests/methods --ignore-glob '*_training.py' tests/test_host_sync.py tests/measure/test_flops.py
  fi
}

# What people wait for, by counts: launches of an update, products of the loss. The same on any machine.
run_waiting() {
  limited "$python" scripts/bench/waiting.py --only launches positions products lines --out "$out/waiting.csv"
}

run_step() {
  local common=(--data "$data" "${half[@]}" --tokens "$(size 512 32)" --steps "$(size 15 2)" --turns "$(size 4 2)"
    --part-steps "$(size 8 2)" --out "$out/step_gpu.csv" $(size "" --no-memory))
  local status=0
  rm -f "$out/step_gpu.csv"
  bench step "${common[@]}" --arch "$base" --rows "$(size 64 4)" --systems fairseq_masking+eager fairseq_masking \
    fairseq_masking+fused_adamw $(size fairseq_masking+fused_adamw+compile_full "") stock_fairseq || status=$?
  bench step "${common[@]}" --append --arch "$large" --rows "$(size 32 4)" \
    --systems fairseq_masking+fused_adamw stock_fairseq || status=$?
  return "$status"
}

run_operations() {
  bench operations "${half[@]}" --masked $(size "1024 4096 20480" 64) --vocabulary $(size "30522 65536" 500) \
    --width "$(size 768 32)" --rows "$(size 64 2)" --tokens $(size "128 512" 16) --steps "$(size 10 2)" \
    --turns "$(size 3 2)" --out "$out/operations_gpu.csv" $(size "" --no-memory)
}

run_huggingface() {
  bench huggingface "${half[@]}" --arch "$base" --tokens "$(size 512 32)" --rows "$(size 64 2)" \
    --vocabulary "$vocabulary" --steps "$(size 15 2)" --turns "$(size 3 2)" \
    $(size "" "--systems fairseq_masking bert roberta --no-memory") --out "$out/huggingface_gpu.csv"
}

loss_fell() {
  grep -oE '"loss": "[0-9.]+"' "$1" | awk -F'"' 'NR == 1 { first = $4 } { last = $4 } END { exit !(last + 0 < first + 0) }'
}

# The real command in each precision: the loss must fall, the run must end well.
run_train() {
  local precision method model criterion splits failed=0
  for precision in $(size "bf16 fp16 fp32" "fp32 bf16"); do
    for method in "mlm mlm 1" "mlm fully_explored_mlm 4" "map_net map_net 1" "three_ml mlm 1" "amos amos 1"; do
      read -r model criterion splits <<<"$method"
      echo "-- train $precision $criterion"
      fairseq_train "$data" --user-dir fairseq_masking --task masked_pretraining --arch "${model}_$base" \
        --criterion "$criterion" --mask-splits "$splits" --tokens-per-sample "$(size 512 32)" \
        --batch-size "$(size 32 8)" --optimizer fused_adamw --adam-betas '(0.9,0.98)' --clip-norm 1.0 \
        --lr-scheduler polynomial_decay --lr 2e-4 --warmup-updates 10 --total-num-update "$(size 60 6)" \
        --max-update "$(size 60 6)" --log-format json --log-interval "$(size 20 2)" --num-workers 2 \
        --disable-validation --no-save --save-dir "$work/$precision-$criterion" \
        $([ "$precision" = fp32 ] || echo "--$precision") $(size "" --cpu) >"$work/train.log" 2>&1 || failed=1
      grep -oE '"(num_updates|loss|wps|gnorm)": "[^"]*"|.*[Ee]rror.*' "$work/train.log" | paste -sd' ' || true
      [ -n "$dry" ] || loss_fell "$work/train.log" || { echo "the loss did not fall"; failed=1; }
    done
  done
  return "$failed"
}

run_scaling() {
  bench scaling --data "$data" "${half[@]}" --arch $(size "base large" tiny) \
    --tokens $(size "128 512 2048 256 1024" 32) --batch-tokens "$(size 32768 128)" \
    --steps "$(size 8 2)" --turns 2 --systems fairseq_masking+fused_adamw stock_fairseq \
    --out "$out/scaling_gpu.csv" $(size "" --no-memory)
}

# Curves with and without compilation, fused optimizer, Triton, CUDA graphs, in bf16 and fp16.
run_agreement() {
  bench agreement --data "$data" --updates "$(size 1000 2)" --dropout $(size "0.0 0.1" 0.0) --parallel "$(size 6 2)" \
    $(size "" "--only fused_adamw") --work "$work/agreement" --out "$out/agreement_gpu.csv"
}

run_profile() {
  bench profiling --data "$data" "${half[@]}" --arch "$base" --tokens "$(size 512 32)" --rows "$(size 64 4)" \
    --steps "$(size 50 3)" --workers "$(size 4 1)" --systems fairseq_masking+fused_adamw \
    $(size fairseq_masking+eager "") stock_fairseq --out "$out/profile_gpu.csv"
}

run_loading() {
  limited "$python" scripts/bench/loading.py --data "$data" --tokens "$(size 512 32)" --rows "$(size 32 4)" \
    --workers $(size "0 1 2 4 8" "0 1") --batches "$(size 30 3)" --turns "$(size 3 1)" --out "$out/loading_gpu.csv"
}

# 3ML against MLM at 15%: its exit status says whether the computed gain is there.
run_three_ml() {
  bench three_ml_speed --data "$data" "${half[@]}" --arch "$base" --tokens "$(size 512 32)" --rows "$(size 64 4)" \
    --mask-prob $(size "0.4 0.5" 0.3) --steps "$(size 10 2)" --turns "$(size 4 2)" --out "$out/three_ml_speed_gpu.csv"
}

# AMOS against MLM of the same encoder, and with one head as ELECTRA.
run_amos() {
  bench amos_cost --data "$data" "${half[@]}" --arch "$base" --tokens "$(size 512 32)" --rows "$(size 64 4)" \
    --variants fused_adamw --steps "$(size 10 2)" --turns "$(size 4 2)" --out "$out/amos_cost_gpu.csv" \
    $(size "" --no-memory)
}

# Seconds each part is expected to take on an H200, compilation included (estimates until it has run there);
# one that takes half as much again is ended.
declare -A expected=([tests]=90 [waiting]=20 [step]=180 [operations]=90 [huggingface]=130 [train]=150 [scaling]=120
  [agreement]=240 [profile]=60 [loading]=30 [three_ml]=90 [amos]=120)
failed=() skipped=()
run_parts() {
  make_data
  for part in ${only//,/ }; do
    local left=$((started + budget - SECONDS))
    if [ "${expected[$part]}" -gt "$left" ]; then
      skipped+=("$part")
      continue
    fi
    local most=$((expected[$part] * 3 / 2))
    [ -z "$dry" ] || most=$left
    deadline=$((SECONDS + (most < left ? most : left)))
    echo "== $part"
    local status=0
    "run_$part" || status=$?
    case "$status" in
      0) ;;
      124 | 137) failed+=("$part (ended for want of time)") ;;
      *) failed+=("$part (status $status)") ;;
    esac
    echo "== $part: $((SECONDS - started)) s since the start"
  done
  [ ${#skipped[@]} -eq 0 ] || echo "skipped for want of time: ${skipped[*]}"
  [ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; return 1; }
}

# Not in a pipeline's condition: its exit status is the script's, through pipefail.
run_parts 2>&1 | tee "$out/gpu.log"
