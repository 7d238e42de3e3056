# Sourced by scripts that train many variants of a recipe and make one table of them.
#
# They define usage() and: parts (all that --only takes, with commas), updates (the default). read_options sets
# data, out, updates, only, dry_run and overrides.

fail() {
    echo "$(basename "$0"): error: $1 (see --help)" >&2
    exit 2
}

read_options() {
    data='' out='' only=$parts dry_run='' overrides=()
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
    [ "$updates" -ge 100 ] || fail "--updates $updates is below 100: the table is of logs written every 100"
    local part
    for part in ${only//,/ }; do
        [[ ,$parts, == *",$part,"* ]] || fail "unknown part $part"
    done
    mkdir -p "$out" && out=$(cd "$out" && pwd)
    repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    [ ! -x "$repo/.venv/bin/fairseq-hydra-train" ] || PATH=$repo/.venv/bin:$PATH
}

asked_for() { [[ ,$only, == *",$1,"* ]]; }

# Runs a command quietly, or prints it.
run() {
    if [ -n "$dry_run" ]; then
        printf '%q ' "$@" && echo
        return
    fi
    "$@" >>"$out/output.txt" 2>&1 || { tail -n 5 "$out/output.txt" >&2 && return 1; }
}

# sweep RECIPE FOLDER KEY=VALUES...: folders are named after what the runs differ in.
sweep() {
    run fairseq-hydra-train --multirun --config-dir "$repo/configs/pretrain" --config-name "$1" \
        "task.data='$data'" "checkpoint.save_dir='$out/$2'" "hydra.sweep.dir='$out'" "hydra.sweep.subdir='$2'" \
        "optimization.max_update=$updates" "${@:3}" ${overrides[@]+"${overrides[@]}"}
}

make_table() {
    [ -z "$dry_run" ] || return 0
    PYTHONPATH="$repo${PYTHONPATH:+:$PYTHONPATH}" python -m fairseq_masking table "$out" \
        --out "$out/table.csv"
}
