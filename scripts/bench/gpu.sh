#!/usr/bin/env bash
# Everything that needs a GPU, in order of importance, within a budget of seconds: tests, benchmarks, training.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: scripts/bench/gpu.sh --data DIR [--only PART[,PART]] [--budget SECONDS] [--out DIR]

Runs every GPU check and benchmark and writes their CSVs.
  --data DIR        prepared corpus (scripts/prepare_corpus.sh)
  --only PARTS      some of: tests,step,train,parity (default: all, in this order)
  --budget SECONDS  start no part that is not expected to fit (default 540)
  --out DIR         where CSVs and logs go (default scripts/bench/results)
PYTHON names the interpreter (default python3).
TEXT
}

data="" only="tests,step,train,parity" budget=540 out="scripts/bench/results"
while [ $# -gt 0 ]; do
  case "$1" in
    --data) data="$2"; shift 2 ;;
    --only) only="$2"; shift 2 ;;
    --budget) budget="$2"; shift 2 ;;
    --out) out="$2"; shift 2 ;;
    --help|-h) usage; exit 0 ;;
    *) echo "gpu.sh: unknown option $1 (--help lists them)" >&2; exit 2 ;;
  esac
done
[ -n "$data" ] || { usage >&2; exit 2; }
cd "$(dirname "$0")/../.."
python="${PYTHON:-python3}"
"$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' \
  || { echo "gpu.sh: PyTorch sees no CUDA GPU here" >&2; exit 1; }
mkdir -p "$out"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1
started=$SECONDS failed=() skipped=()

fairseq_train() { "$python" -c 'import sys; from fairseq_cli.train import cli_main; sys.exit(cli_main())' "$@"; }

run_tests() { "$python" -m pytest -q --device cuda tests/ops tests/modules tests/models tests/criterions; }

run_step() {
  "$python" scripts/bench/step.py --data "$data" --device cuda --precision bf16 --arch base \
    --tokens 512 128 --rows 64 256 --steps 20 --turns 4 --out "$out/step_gpu_base_bf16.csv"
  "$python" scripts/bench/step.py --data "$data" --device cuda --precision fp32 --arch small \
    --tokens 128 --rows 64 --steps 20 --turns 4 --out "$out/step_gpu_small_fp32.csv"
}

# The real command in each precision: the loss must fall, the run must end well.
run_train() {
  for precision in fp32 bf16 fp16; do
    for method in "mlm 1" "fully_explored_mlm 4"; do
      read -r criterion splits <<<"$method"
      fairseq_train "$data" --user-dir fairseq_masking --task masked_pretraining --arch mlm_base \
        --criterion "$criterion" --mask-splits "$splits" --tokens-per-sample 512 --batch-size 32 \
        --optimizer adam --adam-betas '(0.9,0.98)' --lr-scheduler polynomial_decay --lr 2e-4 --warmup-updates 10 \
        --total-num-update 60 --max-update 60 --log-format json --log-interval 20 --num-workers 2 \
        --no-epoch-checkpoints --no-save --save-dir "$work/$precision-$criterion" \
        $([ "$precision" = fp32 ] || echo "--$precision") 2>&1 \
        | grep -E '"(loss|valid_loss)"|Error|error' | sed "s/^/$precision $criterion /"
    done
  done | tee "$out/train_gpu.log"
}

run_parity() {
  "$python" scripts/bench/parity.py --data "$data" --device cuda --updates 2000 --seeds 1 2 3 --parallel 6 \
    --work "$work/parity" --out "$out/parity_gpu.csv"
}

declare -A expected=([tests]=60 [step]=90 [train]=120 [parity]=180)
for part in ${only//,/ }; do
  [ -n "${expected[$part]:-}" ] || { echo "gpu.sh: unknown part $part (--help lists them)" >&2; exit 2; }
  if [ $((SECONDS - started + expected[$part])) -gt "$budget" ]; then
    skipped+=("$part")
    continue
  fi
  echo "== $part"
  "run_$part" || failed+=("$part")
  echo "== $part done at $((SECONDS - started)) s"
done
[ ${#skipped[@]} -eq 0 ] || echo "skipped for want of time: ${skipped[*]}"
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}" >&2; exit 1; }
