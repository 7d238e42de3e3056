#!/usr/bin/env bash
# AMOS's ablations at tiny scale (2204.03243, Fig. 3, Tables 6 and 7): what training logs, no fine-tuning.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/amos_mixtures.sh --data DIR --out DIR [options] [KEY=VALUE ...]

Trains amos_tiny in its variants through fairseq-hydra-train --multirun, two of them through fairseq-train as well;
writes one table, OUT/table.csv. A run that is finished is not trained again.
  --data DIR      prepared corpus
  --out DIR       folder of all runs
  --updates N     of each run (default: 500)
  --only PARTS    some of: mixture,generator,depths,command (default: all)
  --dry-run       print the commands and stop
  --help          this text

mixture: adversarial, uniform, random_layer, layer_switch, fixed, adversarial MLM, the gradient's sign flipped;
generator: no stop-gradient, separate generators of 1, 2, 3 and of 1, 1, 1 layers; depths: one head at layer 1, 2
or 3 (ELECTRA with a shallow generator), heads at 1 and 3; command: uniform and separate generators once more
through fairseq-train, which must give the same numbers.
KEY=VALUE goes to every run of Hydra's, for example dataset.batch_size=64 common.seed=2; model.init_from=CHECKPOINT,
from which a discriminator learns something in so few updates, goes to fairseq-train's, too.
TEXT
}

parts=mixture,generator,depths,command updates=500
# shellcheck source=sweep.bash
. "$(dirname "${BASH_SOURCE[0]}")/sweep.bash"
read_options "$@"

amos() { sweep amos_tiny "$@" "dataset.validate_interval_updates=$updates"; }

init_from=()
for override in ${overrides[@]+"${overrides[@]}"}; do
    [[ $override != model.init_from=* ]] || init_from=(--init-from "${override#*=}")
done

# The recipe's options once more; its log stands where Hydra's would.
amos_by_options() {
    [ -n "$dry_run" ] || mkdir -p "$out/$1"
    run fairseq-train "$data" --user-dir "$repo/fairseq_masking" --task masked_pretraining --arch amos_tiny \
        --criterion amos --tokens-per-sample 32 --mask-prob 0.25 --leave-unmasked-prob 0.1 --random-token-prob 0 \
        --normalize-before --dropout 0 --attention-dropout 0 \
        --batch-size 16 --batch-size-valid 256 --num-workers 1 --validate-interval-updates "$updates" \
        --optimizer fused_adamw --adam-betas '(0.9, 0.98)' --adam-eps 1e-6 --weight-decay 0.01 --clip-norm 2.0 \
        --lr 1e-3 --lr-scheduler polynomial_decay --warmup-updates 200 --total-num-update "$updates" \
        --max-update "$updates" --no-epoch-checkpoints --cpu --log-format json --log-interval 100 \
        --save-dir "$out/$1" --log-file "$out/$1/hydra_train.log" ${init_from[@]+"${init_from[@]}"} "${@:2}"
}

if asked_for mixture; then
    amos "mixture_\${model.mixture}" model.mixture=adversarial,uniform,random_layer,layer_switch
    amos mixture_fixed model.mixture=fixed "model.mixture_weights=[0.2,0.3,0.5]"
    amos mixture_adversarial_mlm model.adversarial_mlm_scale=0.1
    amos mixture_not_reversed model.adversarial_scale=1
fi
if asked_for generator; then
    amos generator_no_stop_grad model.no_generator_stop_grad=true
    amos generator_separate "model.separate_generators=[1,2,3]"
    amos generator_separate_equal "model.separate_generators=[1,1,1]"
fi
if asked_for depths; then
    amos depths_1 "model.generator_layers=[1]"
    amos depths_2 "model.generator_layers=[2]"
    amos depths_3 "model.generator_layers=[3]"
    amos depths_1_3 "model.generator_layers=[1,3]"
fi
if asked_for command; then
    amos_by_options command_uniform --mixture uniform
    amos_by_options command_separate --separate-generators 1,2,3
fi
make_table
