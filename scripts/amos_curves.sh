#!/usr/bin/env bash
# How AMOS's generator, mixture and discriminator learned (2204.03243, Fig. 1b and 5); --help lists the options.
set -euo pipefail

# shellcheck source=command.bash
. "$(dirname "${BASH_SOURCE[0]}")/command.bash" amos_curves "$@"
