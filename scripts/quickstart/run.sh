#!/usr/bin/env bash
# The quickstart: prepares the bundled corpus, trains a tiny encoder by two objectives side by side, by four with
# --all, each for about the same time, and reports. What is already done is not done again.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/quickstart/run.sh [options]        (make quickstart makes the environment first)

  --out DIR      folder for everything that is made (default: .quickstart in the repository)
  --updates N    updates of a run; costlier and cheaper objectives: for the same time (default: 1700)
  --all          3ML and MAP-Net, too, for as long again
  --help         this text
TEXT
}

fail() {
    echo "quickstart: error: $1" >&2
    exit "${2:-1}"
}

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
out=$repo/.quickstart updates=1700 all=
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage && exit 0 ;;
        --all) all=1 && shift ;;
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

# The same work in all runs: rows of an update, predicted tokens, learning rates. They differ in the objective alone.
# (Validation keeps to one mask of 15%.) A masked language model starts on a plateau, the unigram, which it leaves once
# attention finds the neighbours. Short rows, small batches and predicted tokens that stay unchanged, of which a row has
# to have at least one, bring that forward; rotary positions and Muon do more than all of these together.
common_options=(
    --user-dir "$repo/fairseq_masking" --cpu --seed 1
    --task masked_pretraining --tokens-per-sample "$tokens_per_sample" --mask-prob 0.4
    --normalize-before --position-encoding rotary --dropout 0.0 --attention-dropout 0.0
    --batch-size 24 --batch-size-valid 256 --num-workers 1
    --optimizer muon --lr 0.02 --adamw-lr 3e-3 --adam-betas "(0.9, 0.98)" --adam-eps 1e-6 --weight-decay 0.01
    --clip-norm 1.0 --lr-scheduler polynomial_decay --warmup-updates 100
    --validate-interval-updates 425 --save-interval-updates 850 --keep-interval-updates 1 --no-epoch-checkpoints
    --log-format json --log-interval 20
)

# train NAME UPDATES OPTIONS...: a run in $out/NAME, or nothing if the same run is finished there.
train() {
    local folder=$out/$1 length=(--max-update "$2" --total-num-update "$2") settings
    settings=$(printf '%s\n' "${@:3}" "${length[@]}" "${common_options[@]}" && cat "$data/manifest.json")
    if [ -f "$folder/finished" ] && [ "$settings" = "$(cat "$folder/settings")" ]; then
        echo "  $1: trained before"
        return
    fi
    if [ ! -f "$folder/settings" ] || [ "$settings" != "$(cat "$folder/settings")" ]; then
        rm -rf "$folder" && mkdir -p "$folder"
        printf '%s' "$settings" >"$folder/settings"
    fi
    # One thread a run: the two share the machine, and a third process would only get in their way.
    OMP_NUM_THREADS=1 fairseq-train "$data" "${common_options[@]}" "${length[@]}" --save-dir "$folder" \
        --log-file "$folder/train.log" "${@:3}" >"$folder/output.txt" 2>&1 ||
        fail "the run $1 failed: $(tail -n 1 "$folder/output.txt") (all of it: $folder/output.txt)"
    touch "$folder/finished"
    echo "  $1: $2 updates, validation perplexity $(last valid_ppl "$folder"), accuracy $(last valid_accuracy "$folder")%"
}

# last KEY FOLDER: what the run there logged last under that name.
last() { grep -o "\"$1\": \"[^\"]*\"" "$2/train.log" 2>/dev/null | tail -n 1 | cut -d '"' -f 4 || true; }

# Says every 20 seconds, and no more than once the same, how far the runs are.
progress() {
    local shown= line name
    while sleep 20 >/dev/null 2>&1; do
        line=
        for name in "${names[@]}"; do
            [ -n "$(last ppl "$out/$name")" ] && [ ! -f "$out/$name/finished" ] || continue
            line+="  $name: $(last num_updates "$out/$name") updates, perplexity $(last ppl "$out/$name")"
        done
        [ -z "$line" ] || [ "$line" = "$shown" ] || echo "$line"
        shown=$line
    done
}

echo "== corpus: State of the Union addresses, 1790-2021 (scripts/quickstart/SOURCE.md)"
export PYTHONPATH=$repo${PYTHONPATH:+:$PYTHONPATH}
python -m fairseq_masking prepare corpus --train "$repo/scripts/quickstart/sotu.txt.xz" --out "$data" \
    --vocab-size 4000 --split-sentences --valid-fraction 0.02 --workers 2

names=(mlm fully_explored ${all:+three_ml map_net})
echo "== training: ${#names[@]} objectives, two at a time, each for about the time of $updates updates of plain masks"
# An update of 3ML is cheaper (its encoder does not see the masked tokens), one of MAP-Net costs a third more.
{
    train mlm "$updates" --arch mlm_tiny --criterion mlm
    [ -z "$all" ] || train three_ml $((updates * 5 / 4)) --arch three_ml_tiny --criterion mlm
} &
first=$!
{
    train fully_explored "$updates" --arch mlm_tiny --criterion fully_explored_mlm --mask-splits 2
    [ -z "$all" ] || train map_net $((updates * 3 / 4)) --arch map_net_tiny --criterion map_net
} &
second=$!
progress &
progress=$!
trap 'kill "$first" "$second" "$progress" 2>/dev/null || true' EXIT INT TERM
wait "$first"
wait "$second"
kill "$progress"

echo "== report"
python "$repo/scripts/quickstart/report.py" \
    --data "$data" --tokens-per-sample "$tokens_per_sample" --figure "$out/learning_curves.png" \
    --run "one mask=$out/mlm" --run "two disjoint masks=$out/fully_explored" \
    ${all:+--run "3ML=$out/three_ml" --run "MAP-Net=$out/map_net"} 2>"$out/report_messages.txt" |
    tee "$out/report.txt" || fail "the report failed: $(tail -n 1 "$out/report_messages.txt")"

cat <<TEXT

Written to $out:
  report.txt            what stands above
  learning_curves.png   validation perplexity and accuracy by update
  data/                 the prepared corpus: dictionary, tokeniser, binarised text, manifest.json
  mlm/, ...             of each run: checkpoints, train.log (JSON), output.txt

Next:
  scripts/quickstart/run.sh --all                              3ML and MAP-Net beside them
  fairseq-masking prepare corpus --help                        prepare a corpus of your own
  scripts/pretrain.sh --data DIR --config mlm_modern_base      a recipe of configs/pretrain
  make environment                                             transformers (Hugging Face's side) and the tests' tools
TEXT
