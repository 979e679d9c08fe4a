#!/usr/bin/env bash
# One-node Ceph (mon, osd in memory, radosgw) under DIR, on loopback only, without systemd.
# usage: gateway.sh DIR PORT MONITOR_PORT. Runs until standard input ends or a part dies, so that nothing
# is left behind when the tests are killed.
set -euo pipefail
trap 'kill -9 $(jobs -p) 2>/dev/null || true; wait || true' EXIT
D=${1:?directory}; PORT=${2:?port}; MONITOR_PORT=${3:?port of the monitor}
mkdir -p "$D"/{mon,osd,log,run,rgw}
cat > "$D/ceph.conf" <<C
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon host = v1:127.0.0.1:$MONITOR_PORT
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
run dir = $D/run
admin socket = $D/run/\$cluster-\$name.\$pid.asok
log file = $D/log/\$name.log
log to stderr = false
err to stderr = true
crash dir = $D/run
mon allow pool size one = true
mon data avail warn = 1
# A monitor stops itself when the disk is nearly full, and disks of test machines do get full.
mon data avail crit = 0
mon max pg per osd = 2000
mon warn on pool no redundancy = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 4294967296
osd memory target = 939524096
osd scrub load threshold = 0.01
ms bind ipv6 = false
# Each new pool is a round of paxos; the default makes a cold start last 12 s.
paxos propose interval = 0.05
paxos min wait = 0.01
ms tcp nodelay = true
[mon.a]
mon data = $D/mon
[osd.0]
osd data = $D/osd
[client.rgw]
auth client required = none
ms mon client mode = crc
# Without tcp_nodelay a small GET takes 48 ms.
rgw frontends = beast endpoint=127.0.0.1:$PORT tcp_nodelay=1
rgw data = $D/rgw
rgw thread pool size = 64
rgw enable usage log = false
rgw dynamic resharding = false
rgw lc debug interval = -1
# Quotas and revoked users shall show at once.
rgw bucket quota ttl = 0
rgw user quota bucket sync interval = 1
C
export CEPH_CONF="$D/ceph.conf"
FSID=$(sed -n 's/^fsid = //p' "$D/ceph.conf")
monmaptool --create --fsid "$FSID" --addv a "[v1:127.0.0.1:$MONITOR_PORT]" "$D/monmap" >/dev/null
ceph-mon --mkfs -i a --monmap "$D/monmap" -c "$CEPH_CONF"
ceph-mon -f -i a -c "$CEPH_CONF" >"$D/log/mon.out" 2>&1 &
OSD_UUID=$(cat /proc/sys/kernel/random/uuid)
ceph -c "$CEPH_CONF" --connect-timeout 30 osd new "$OSD_UUID" >/dev/null
ceph-osd -i 0 --mkfs --osd-uuid "$OSD_UUID" -c "$CEPH_CONF" >"$D/log/osdmkfs.out" 2>&1
ceph-osd -f -i 0 -c "$CEPH_CONF" >"$D/log/osd.out" 2>&1 &
radosgw -f -n client.rgw -c "$CEPH_CONF" >"$D/log/rgw.out" 2>&1 &
while [ "$(jobs -pr | wc -l)" = 3 ]; do
  answer=0; read -r -t 1 || answer=$?
  [ "$answer" -gt 128 ] || exit 0
done
echo "a part of the gateway died: $(tail -n 3 "$D"/log/*.out)" >&2
exit 1
