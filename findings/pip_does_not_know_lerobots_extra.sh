#!/usr/bin/env bash
# pip 23.2.1, which Python 3.12.1 puts into every new environment, installs
# "lerobot[multi_task_dit]==0.6.1" WITHOUT what the extra is for (diffusers), and exits with 0.
#
# Expected: the extra's requirements, as LeRobot's documentation writes the command; or an error.
# Seen:     a warning among the other lines, "lerobot 0.6.1 does not provide the extra
#           'multi_task_dit'", because the wheel's metadata call it multi-task-dit. The policy then
#           fails when it is made: it needs diffusers. pip 23.3 compares the normalised names.
# Exits non-zero if that has changed. Needs Python 3.12 or later (PYTHON=...); nothing of the
# requirements is downloaded: with --no-index pip stops after it has looked at the extra.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3.12}" -m venv "$work/venv"
python="$work/venv/bin/python"
"$python" -m pip install -q --no-deps 'lerobot==0.6.1' 2>"$work/err"
status=0
look() { # pip's version, the extra's name, and how often pip should say that there is none
  "$python" -m pip install -q "pip==$1" 2>"$work/err"
  "$python" -m pip install --dry-run --no-index "lerobot[$2]==0.6.1" >"$work/out" 2>&1 || true
  local seen; seen=$(grep -c "does not provide the extra '$2'" "$work/out" || true)
  echo "pip $1: lerobot[$2]: said to be no extra $seen time(s)"
  [ "$((seen > 0))" = "$3" ] || status=1
}
look 23.2.1 multi_task_dit 1
look 23.2.1 multi-task-dit 0
look 23.3 multi_task_dit 0
exit $status
