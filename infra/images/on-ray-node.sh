#!/bin/bash
# on-ray-node ADDRESS COMMAND...: a node of the Ray cluster at ADDRESS that offers no room, and beside
# it a command. Who starts a training needs a node on its own machine, where the process of Ray lives
# that watches the workers. When the node ends, the command is ended too, and the other way round:
# whoever restarts the container restarts both.
set -u
address=$1
shift
# On SIGTERM a node would wait for work that it has; this one has none.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
ray start --block --address="$address" --num-cpus=0 --num-gpus=0 --object-store-memory=268435456 \
  --dashboard-agent-listen-port=52365 --disable-usage-stats >&2 &
node=$!
command=

# SIGTERM, and SIGKILL to what ignores it for 100 s.
finish() {
  kill -TERM "$1" 2>/dev/null
  for _ in {1..200}; do
    kill -0 "$1" 2>/dev/null || return
    sleep 0.5
  done
  kill -KILL "$1"
}

end() {
  trap '' TERM INT
  [ -z "$command" ] || finish "$command"
  finish "$node"
  exit "$1"
}
trap 'end 143' TERM INT

# Ray gives a start up by itself.
until python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:52365/api/healthz', timeout=3)" 2>/dev/null; do
  if ! kill -0 "$node" 2>/dev/null; then
    echo "error: there must be a Ray cluster at $address that takes this machine's token, see above" >&2
    exit 1
  fi
  sleep 0.5
done
"$@" &
command=$!
wait -n "$node" "$command"
code=$?
if kill -0 "$command" 2>/dev/null; then
  echo "error: the Ray node beside '$1' ended with code $code" >&2
  code=1
fi
end "$code"
