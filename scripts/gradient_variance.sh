#!/usr/bin/env bash
# Variance of the gradient under masking (2010.06040, Theorem 1); --help lists the options.
set -euo pipefail

# shellcheck source=command.bash
. "$(dirname "${BASH_SOURCE[0]}")/command.bash" gradient_variance "$@"
