#!/usr/bin/env bash
# Scores of the majority class and of TF-IDF with logistic regression on prepared data; --help lists the options.
set -euo pipefail

# shellcheck source=command.bash
. "$(dirname "${BASH_SOURCE[0]}")/command.bash" finetune_baselines "$@"
