#!/usr/bin/env bash
# FLOPs of pre-training with 3ML beside plain masking (2211.04898, Appendix D); --help lists the options.
set -euo pipefail

# shellcheck source=command.bash
. "$(dirname "${BASH_SOURCE[0]}")/command.bash" three_ml_flops "$@"
