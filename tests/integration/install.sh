#!/usr/bin/env bash
# Installs the Debian packages that the integration tests need beside .venv, where it may.
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
