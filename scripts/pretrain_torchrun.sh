#!/usr/bin/env bash
# Pre-trains from a recipe on several machines with torchrun; start it once on each of them.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/pretrain_torchrun.sh --data DIR --nodes N --rendezvous HOST:PORT [options] [KEY=VALUE ...]

  --data DIR              prepared corpus, or several with ':' between; the same path on each machine
  --nodes N               number of machines (default: 1)
  --gpus N                processes on each machine, one for a GPU (default: 8)
  --rendezvous HOST:PORT  one of the machines, and a free port there (default: localhost:29500)
  --rendezvous-id NAME    tells jobs on one HOST:PORT apart (default: fairseq_masking)
  --config NAME           recipe in --config-dir, without .yaml (default: mlm_base)
  --config-dir DIR        folder of recipes (default: configs/pretrain of this repository)
  --save-dir DIR          checkpoints, on a disk that all machines see (default: the recipe's)
  --dry-run               print the command and stop
  --help                  this text

Everything else of the form KEY=VALUE goes to fairseq-hydra-train as it is. The global batch is
dataset.batch_size x optimization.update_freq x nodes x GPUs: with 32 instead of 8 GPUs divide update_freq by 4.
TEXT
}

fail() {
    echo "pretrain_torchrun.sh: error: $1 (see --help)" >&2
    exit 2
}

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
data= nodes=1 gpus=8 rendezvous=localhost:29500 rendezvous_id=fairseq_masking
config=mlm_base config_dir=$repo/configs/pretrain save_dir= dry_run=
overrides=()
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage && exit 0 ;;
        --dry-run) dry_run=1 && shift ;;
        --data | --nodes | --gpus | --rendezvous | --rendezvous-id | --config | --config-dir | --save-dir)
            [ $# -ge 2 ] || fail "$1 needs a value"
            name=${1#--} && printf -v "${name//-/_}" %s "$2" && shift 2 ;;
        -*) fail "unknown option $1" ;;
        *=*) overrides+=("$1") && shift ;;
        *) fail "'$1' is neither an option nor KEY=VALUE" ;;
    esac
done
[ -n "$data" ] || fail "--data is missing"
[[ $nodes =~ ^[1-9][0-9]*$ ]] || fail "--nodes $nodes is not a number above 0"
[[ $gpus =~ ^[1-9][0-9]*$ ]] || fail "--gpus $gpus is not a number above 0"
[ -f "$config_dir/$config.yaml" ] || fail "no recipe $config_dir/$config.yaml"

[ ! -x "$repo/.venv/bin/torchrun" ] || PATH=$repo/.venv/bin:$PATH
program=$(command -v fairseq-hydra-train) || fail "fairseq-hydra-train is not on the PATH: make environment"
command=(
    torchrun --nnodes "$nodes" --nproc_per_node "$gpus"
    --rdzv_backend c10d --rdzv_endpoint "$rendezvous" --rdzv_id "$rendezvous_id"
    "$program" --config-dir "$config_dir" --config-name "$config" "task.data='$data'"
)
[ -z "$save_dir" ] || command+=("checkpoint.save_dir='$save_dir'")
command+=(${overrides[@]+"${overrides[@]}"})

if [ -n "$dry_run" ]; then
    printf '%q ' "${command[@]}" && echo
    exit 0
fi
exec "${command[@]}"
