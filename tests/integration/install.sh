#!/usr/bin/env bash
# Installs what the integration tests need beside .venv: Debian packages, where it may, axe, and
# lm-evaluation-harness.
# What is missing is an error here and not a skipped test later.
set -euo pipefail
cd "$(dirname "$0")/../.."
PACKAGES=(ceph-common ceph-mon ceph-osd chromium fonts-dejavu-core iproute2 postgresql radosgw)

missing=()
for package in "${PACKAGES[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" != 0 ]; then
    echo "The integration tests need these Debian packages: ${missing[*]}" >&2
    echo "Install them: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  echo "[integration] installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
fi

# The checker of accessibility, a script that Chromium is given; no part of Perennial.
AXE_VERSION=4.14.1
AXE=.venv/share/axe-core
if ! grep -qs "\"version\": \"$AXE_VERSION\"" "$AXE/node_modules/axe-core/package.json"; then
  if ! command -v npm >/dev/null; then
    if [ "$(id -u)" != 0 ]; then
      echo "The integration tests need npm to install axe-core: sudo apt-get install --no-install-recommends npm" >&2
      exit 1
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends npm >/dev/null
  fi
  echo "[integration] installing axe-core $AXE_VERSION"
  npm install --silent --no-save --no-audit --no-fund --ignore-scripts --prefix "$AXE" "axe-core@$AXE_VERSION"
fi

# The peer of task definitions, in an environment of its own: it wants other versions than .venv has.
LM_EVAL_VERSION=0.4.13
LM_EVAL=.venv/share/lm-eval
if [ "$(cat "$LM_EVAL/.installed" 2>/dev/null)" != "$LM_EVAL_VERSION" ]; then
  echo "[integration] installing lm-eval $LM_EVAL_VERSION"
  .venv/bin/python -m venv "$LM_EVAL"
  "$LM_EVAL/bin/pip" install -q --disable-pip-version-check "lm-eval==$LM_EVAL_VERSION"
  echo "$LM_EVAL_VERSION" > "$LM_EVAL/.installed"
fi
