#!/usr/bin/env bash
# A fine-tuned checkpoint's predictions (GLUE submission files, SQuAD's JSON) and scores; --help lists the options.
set -euo pipefail

# shellcheck source=command.bash
. "$(dirname "${BASH_SOURCE[0]}")/command.bash" predict "$@"
