#!/usr/bin/env bash
# A labelled task's own files (GLUE, JSONL, SQuAD) to the data that fine-tuning takes; --help lists the options.
set -euo pipefail

# shellcheck source=command.bash
. "$(dirname "${BASH_SOURCE[0]}")/command.bash" prepare_finetune "$@"
