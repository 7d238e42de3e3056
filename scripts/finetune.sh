#!/usr/bin/env bash
# Checkpoints' scores on GLUE, SQuAD 2.0 and JSONL tasks, by a paper's grid and protocol; --help lists the options.
set -euo pipefail

# shellcheck source=command.bash
. "$(dirname "${BASH_SOURCE[0]}")/command.bash" finetune "$@"
