#!/bin/sh
# Runs TestFleet: four nodes of minio in a network namespace, gateways and clients of kedge, one
# node and one gateway killed amid it.
#
#	fleet.sh MINIO TESTS
#
# MINIO is the server, TESTS the compiled tests of internal/e2e. It needs root and ip(8). Nothing
# outside a fresh directory and the namespace is touched.
set -eu
minio=$1 tests=$2
dir=$(mktemp -d)
ns=kfleet$$
pids=
stop() {
	for p in $pids; do kill "$p" 2>/dev/null || :; done
	ip netns del "$ns" 2>/dev/null || :
	rm -rf "$dir"
}
trap stop EXIT INT TERM
export MINIO_ROOT_USER=kedge MINIO_ROOT_PASSWORD=kedgesecret MINIO_BROWSER=off MINIO_CI_CD=1 MINIO_UPDATE=off

ip netns add "$ns"
inside="ip netns exec $ns"
$inside ip link set lo up
$inside ip link add v0 type veth peer name v1
$inside ip link set v0 up
$inside ip link set v1 up
nodes=
for i in 1 2 3 4; do
	$inside ip addr add 10.231.1.$i/24 dev v0
	nodes="$nodes http://10.231.1.$i:910$i$dir/d$i"
done
for i in 1 2 3 4; do
	# shellcheck disable=SC2086 # a list
	HOME="$dir" $inside "$minio" server --quiet --address 10.231.1.$i:910$i $nodes >"$dir/d$i.log" 2>&1 &
	pids="$pids $!"
	last=$!
done
n=0
until $inside curl -fs -o /dev/null http://10.231.1.1:9101/minio/health/cluster; do
	n=$((n + 1))
	if [ $n -gt 240 ]; then
		echo "minio does not answer" >&2
		exit 1
	fi
	sleep 0.25
done
cd internal/e2e
KEDGE_FLEET="http://10.231.1.1:9101 http://10.231.1.2:9102 $last" $inside "$tests" -test.run 'TestFleet$' -test.v -test.timeout 20m
