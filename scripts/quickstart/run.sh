#!/usr/bin/env bash
# The quickstart: prepares the bundled corpus, trains mlm_tiny with one mask a sequence and with four masks that
# never overlap, and reports. What is already done is not done again.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/quickstart/run.sh [options]        (make quickstart makes the environment first)

  --out DIR      folder for everything that is made (default: .quickstart in the repository)
  --updates N    updates of each of the two runs (default: 8000)
  --help         this text
TEXT
}

fail() {
    echo "quickstart: error: $1" >&2
    exit "${2:-1}"
}

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
out=$repo/.quickstart updates=8000
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage && exit 0 ;;
        --out | --updates)
            [ $# -ge 2 ] || fail "$1 needs a value (see --help)" 2
            printf -v "${1#--}" %s "$2" && shift 2 ;;
        *) fail "unknown option $1 (see --help)" 2 ;;
    esac
done
[[ $updates =~ ^[1-9][0-9]*$ ]] || fail "--updates $updates is not a number above 0 (see --help)" 2
[ ! -x "$repo/.venv/bin/python" ] || PATH=$repo/.venv/bin:$PATH
mkdir -p "$out" && out=$(cd "$out" && pwd)
data=$out/data
tokens_per_sample=40

# The same work in both runs: rows of an update, updates, learning rate. They differ in the masks alone: 8 tokens of
# each row are predicted, and four disjoint masks cover most of a sequence. (Validation keeps to one mask of 15%.)
# A masked language model starts on a plateau, the unigram, which it leaves once attention finds the neighbours. Short
# rows, small batches and relative positions bring that forward: with 32 rows of 64 tokens and lr 3e-3 it had not come
# after 1,000 updates. So do predicted tokens that stay unchanged, of which a row has to have at least one.
common_options=(
    --user-dir "$repo/fairseq_masking" --cpu --seed 1
    --task masked_pretraining --tokens-per-sample "$tokens_per_sample"
    --mask-prob 0.2 --arch mlm_tiny --normalize-before --relative-position t5 --dropout 0.0 --attention-dropout 0.0
    --batch-size 16 --batch-size-valid 256 --num-workers 1
    --optimizer adam --adam-betas "(0.9, 0.98)" --adam-eps 1e-6 --weight-decay 0.01 --clip-norm 1.0
    --lr 1e-3 --lr-scheduler polynomial_decay --warmup-updates 100
    --total-num-update "$updates" --max-update "$updates"
    --validate-interval-updates 250 --save-interval-updates 1000 --keep-interval-updates 1 --no-epoch-checkpoints
    --log-format json --log-interval 50
)

# train NAME OPTIONS...: a run in $out/NAME, or nothing if the same run is finished there.
train() {
    local folder=$out/$1 settings
    settings=$(printf '%s\n' "${@:2}" "${common_options[@]}" && cat "$data/manifest.json")
    if [ -f "$folder/finished" ] && [ "$settings" = "$(cat "$folder/settings")" ]; then
        echo "$1: trained before"
        return
    fi
    if [ ! -f "$folder/settings" ] || [ "$settings" != "$(cat "$folder/settings")" ]; then
        rm -rf "$folder" && mkdir -p "$folder"
        printf '%s' "$settings" >"$folder/settings"
    fi
    # One thread a run: the two share the machine, and a third process would only get in their way.
    OMP_NUM_THREADS=1 fairseq-train "$data" "${common_options[@]}" --save-dir "$folder" \
        --log-file "$folder/train.log" "${@:2}" >"$folder/output.txt" 2>&1
    touch "$folder/finished"
}

echo "== corpus: State of the Union addresses, 1790-2021 (scripts/quickstart/SOURCE.md)"
export PYTHONPATH=$repo${PYTHONPATH:+:$PYTHONPATH}
python -m fairseq_masking prepare corpus --train "$repo/scripts/quickstart/sotu.txt.xz" --out "$data" \
    --vocab-size 4000 --split-sentences --valid-fraction 0.02 --workers 2

echo "== training: $updates updates of mlm_tiny with one mask, and the same with four disjoint masks, side by side"
train mlm --criterion mlm &
mlm=$!
train fully_explored --criterion fully_explored_mlm --mask-splits 4 &
fully_explored=$!
trap 'kill "$mlm" "$fully_explored" 2>/dev/null || true' INT TERM
wait "$mlm" || fail "the run mlm failed: $(tail -n 1 "$out/mlm/output.txt") (all of it: $out/mlm/output.txt)"
wait "$fully_explored" ||
    fail "the run fully_explored failed: $(tail -n 1 "$out/fully_explored/output.txt") (all: $out/fully_explored/output.txt)"

echo "== report"
python "$repo/scripts/quickstart/report.py" \
    --data "$data" --tokens-per-sample "$tokens_per_sample" --figure "$out/learning_curves.png" \
    --run "one mask=$out/mlm" --run "four disjoint masks=$out/fully_explored" 2>"$out/report_messages.txt" |
    tee "$out/report.txt" || fail "the report failed: $(tail -n 1 "$out/report_messages.txt")"

cat <<TEXT

Written to $out:
  report.txt            what stands above
  learning_curves.png   validation perplexity and accuracy by update
  data/                 the prepared corpus: dictionary, tokeniser, binarised text, manifest.json
  mlm/, fully_explored/ checkpoints, train.log (JSON), output.txt

Next:
  scripts/quickstart/run.sh --updates 20000                    train longer
  fairseq-masking prepare corpus --help                        prepare a corpus of your own
  scripts/pretrain.sh --data DIR --config fully_explored_base  a recipe of configs/pretrain
TEXT
