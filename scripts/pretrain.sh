#!/usr/bin/env bash
# Pre-trains from a recipe: on the CPU, on one GPU or several, or on several machines.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/pretrain.sh --data DIR [options] [KEY=VALUE ...]

  --data DIR         prepared corpus, or several with ':' between
  --config NAME      recipe in --config-dir, without .yaml (default: mlm_base)
  --config-dir DIR   folder of recipes (default: configs/pretrain of this repository)
  --save-dir DIR     checkpoints; an interrupted run goes on from there (default: the recipe's)
  --gpus N           GPUs of this machine; 0 trains on the CPU (default: 1)
  --dry-run          print the command, check recipe, data and devices, say batch, memory and hours, and stop
  --print            print the command and stop
  --help             this text

Several machines, through torchrun: start the same command on each of them, with the same paths.
  --nodes N               number of machines, each with --gpus N (default: 1)
  --rendezvous HOST:PORT  one of the machines, and a free port there
  --rendezvous-id NAME    tells jobs on one HOST:PORT apart (default: fairseq_masking)

Everything else of the form KEY=VALUE goes to fairseq-hydra-train as it is, for example
  scripts/pretrain.sh --data corpus --config mlm_base --gpus 8 optimization.update_freq='[8]' model.dropout=0.0
The global batch is dataset.batch_size x optimization.update_freq x GPUs of all machines: with fewer GPUs raise
update_freq. V100: common.bf16=false common.fp16=true
TEXT
}

fail() {
    echo "pretrain.sh: error: $1 (see --help)" >&2
    exit 2
}

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
data= config=mlm_base config_dir=$repo/configs/pretrain save_dir= gpus=1 dry_run= print=
nodes=1 rendezvous= rendezvous_id=fairseq_masking
overrides=()
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage && exit 0 ;;
        --dry-run) dry_run=1 print=1 && shift ;;
        --print) print=1 && shift ;;
        --data | --config | --config-dir | --save-dir | --gpus | --nodes | --rendezvous | --rendezvous-id)
            [ $# -ge 2 ] || fail "$1 needs a value"
            name=${1#--} && printf -v "${name//-/_}" %s "$2" && shift 2 ;;
        -*) fail "unknown option $1" ;;
        *=*) overrides+=("$1") && shift ;;
        *) fail "'$1' is neither an option nor KEY=VALUE" ;;
    esac
done
[ -n "$data" ] || fail "--data is missing"
[[ $gpus =~ ^[0-9]+$ ]] || fail "--gpus $gpus is not a number"
[[ $nodes =~ ^[1-9][0-9]*$ ]] || fail "--nodes $nodes is not a number above 0"
[ "$nodes" -eq 1 ] || [ -n "$rendezvous" ] || fail "--nodes $nodes needs --rendezvous HOST:PORT"
[ -z "$rendezvous" ] || [ "$gpus" -gt 0 ] || fail "--rendezvous needs --gpus above 0"
[ -f "$config_dir/$config.yaml" ] || fail "no recipe $config_dir/$config.yaml"

[ ! -x "$repo/.venv/bin/fairseq-hydra-train" ] || PATH=$repo/.venv/bin:$PATH
program=(fairseq-hydra-train) devices=()
if [ -n "$rendezvous" ]; then
    # torchrun takes a path; the number of GPUs is its own.
    path=$(command -v fairseq-hydra-train) || fail "fairseq-hydra-train is not on the PATH: make environment"
    program=(torchrun --nnodes "$nodes" --nproc_per_node "$gpus"
        --rdzv_backend c10d --rdzv_endpoint "$rendezvous" --rdzv_id "$rendezvous_id" "$path")
elif [ "$gpus" -eq 0 ]; then
    devices=(common.cpu=true common.bf16=false common.fp16=false distributed_training.distributed_world_size=1)
else
    devices=(distributed_training.distributed_world_size="$gpus")
fi
command=("${program[@]}" --config-dir "$config_dir" --config-name "$config" "task.data='$data'"
    ${devices[@]+"${devices[@]}"})
[ -z "$save_dir" ] || command+=("checkpoint.save_dir='$save_dir'")
command+=(${overrides[@]+"${overrides[@]}"})

if [ -n "$print" ]; then
    printf '%q ' "${command[@]}" && echo
    [ -z "$dry_run" ] || python -m fairseq_masking plan --config-dir "$config_dir" --config "$config" \
        "${command[@]:${#program[@]}+4}" ${rendezvous:+distributed_training.distributed_world_size=$((gpus * nodes))} >&2
    exit
fi
if [ "$gpus" -gt 0 ]; then
    here=$(python -c 'import torch; print(torch.cuda.device_count())')
    [ "$gpus" -le "$here" ] || fail "--gpus $gpus, but this machine has $here; --gpus 0 trains on the CPU"
fi
export PYTHONWARNINGS="ignore::UserWarning:fairseq_cli.hydra_train${PYTHONWARNINGS:+,$PYTHONWARNINGS}" # Hydra on its own versions
[ -n "$rendezvous" ] || exec "${command[@]}"

# torchrun gives its ranks half a minute after a signal, and dies of SIGUSR1: here they get it themselves, and save.
"${command[@]}" &
torchrun=$! told=0
pass_on() {
    told=$2
    kill "-$1" $(cat "/proc/$torchrun/task/$torchrun/children") 2>/dev/null || kill "-$1" "$torchrun" || true
}
trap 'pass_on USR1 138' USR1
trap 'pass_on TERM 143' TERM
trap 'pass_on INT 130' INT
status=0
wait "$torchrun" || status=$?
while kill -0 "$torchrun" 2>/dev/null; do # a signal ends the waiting, not the ranks
    status=0
    wait "$torchrun" || status=$?
done
[ "$status" -eq 0 ] || [ "$told" -eq 0 ] || status=$told
exit "$status"
