#!/usr/bin/env bash
# Makes the virtual environment in which worker/tests/data_megatron.rs runs Megatron's own reader. About 100 MB; PyTorch is not needed.
set -euo pipefail
environment="${FATHOM_MEGATRON_ENV:-$HOME/.cache/fathom/megatron}"
python3 -m venv "$environment"
"$environment/bin/pip" install --quiet --no-deps megatron-core==0.16.1 numpy==2.4.6
