#!/usr/bin/env bash
# All tests: every notebook from its first to its last cell, then the cross-checks in tests/. Used by the README and by .ci/run alike.
#   bash tools/test.sh                 everything
#   bash tools/test.sh imaging/04_projector    one notebook (its name in nbs/)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ $# -gt 0 ]; then
    for name in "$@"; do nbdev_test --path "nbs/$name.ipynb" --do_print; done
    exit
fi
# Tutorials at their small size, unless asked otherwise: CRYOFORMER_TUTORIAL_SIZE=full bash tools/test.sh
export CRYOFORMER_TUTORIAL_SIZE=${CRYOFORMER_TUTORIAL_SIZE:-small}
# One thread a worker: two workers with a thread pool each disturb one another badly.
OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 nbdev_test --n_workers 2
echo "notebooks: all passed"
exec python -m pytest -q tests
