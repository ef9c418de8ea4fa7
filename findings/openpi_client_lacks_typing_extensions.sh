#!/usr/bin/env bash
# openpi-client 0.1.2 cannot be imported after `pip install openpi-client==0.1.2`.
#
# Expected: openpi_client.websocket_client_policy, the module that a robot imports.
# Seen:     ModuleNotFoundError: No module named 'typing_extensions'. The client imports it, but its
#           requirements (dm-tree, msgpack, numpy<2, pillow, websockets) neither name it nor bring it.
# Exits non-zero if that has changed. Needs Python 3.8 to 3.12 (PYTHON=...), for NumPy 1.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
python="$work/venv/bin/python"
"$python" -m pip install -q 'openpi-client==0.1.2' 'dm-tree==0.1.10' 'websockets==17.4' 2>/dev/null
"$python" -m pip list --format freeze 2>/dev/null | grep -iE '^(openpi|numpy|websockets|dm-tree|typing)'
look() { # how often the import should say that the module lacks
  "$python" -c 'import openpi_client.websocket_client_policy' 2>"$work/err" || true
  tail -n 1 "$work/err"
  [ "$(grep -c "No module named 'typing_extensions'" "$work/err")" = "$1" ]
}
status=0
look 1 || status=1
"$python" -m pip install -q 'typing_extensions==4.15.0' 2>/dev/null
echo "with typing_extensions:"
look 0 || status=1
exit $status
