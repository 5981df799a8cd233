#!/usr/bin/env bash
# Submit a study to a Ray cluster that is up, and follow its output.
#
#   RUN_DIR=/shared/gpt2_small deploy/job_submit.sh experiment=gpt2_small
#
# Arguments are those of jobs/run.py. The same command again continues the run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

: "${RUN_DIR:?set it to a directory that every node sees}"

# The dashboard of this machine, or the end of an SSH tunnel to the head node's.
export RAY_ADDRESS="${RAY_ADDRESS:-http://127.0.0.1:8265}"
export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"

exec ray job submit --runtime-env deploy/runtime_env.yaml -- \
    python jobs/run.py cluster.address=auto run.dir="$RUN_DIR" "$@"
