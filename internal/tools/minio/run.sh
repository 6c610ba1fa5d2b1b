#!/bin/sh
# Runs the tests of s3sync against minio: one node, then four nodes in a network namespace,
# one of which is killed while they run, and once more with the three that are left.
#
#	run.sh MINIO TESTS
#
# MINIO is the server, TESTS the compiled tests. The second half needs root and ip(8). Nothing
# outside a fresh directory and the namespace is touched.
set -eu
minio=$1 tests=$2
pattern=${PATTERN:-'Gateway|TestMirror$|TestPull$|TestVault|TestDeleteMarkers|TestPruneServer|TestValidate/gateway'}
dir=$(mktemp -d)
ns=kminio$$
pids=
stop() {
	for p in $pids; do kill "$p" 2>/dev/null || :; done
	ip netns del "$ns" 2>/dev/null || :
	rm -rf "$dir"
}
trap stop EXIT INT TERM
export MINIO_ROOT_USER=kedge MINIO_ROOT_PASSWORD=kedgesecret MINIO_BROWSER=off MINIO_CI_CD=1 MINIO_UPDATE=off HOME="$dir"

ready() { # URL, and what to run curl with
	url=$1
	shift
	for _ in $(seq 240); do
		if "$@" curl -fs -o /dev/null "$url"; then return 0; fi
		sleep 0.25
	done
	echo "minio does not answer at $url" >&2
	return 1
}

echo "== one node"
mkdir "$dir/one"
"$minio" server --address 127.0.0.1:9190 --quiet "$dir/one" >"$dir/one.log" 2>&1 &
pids="$pids $!"
ready http://127.0.0.1:9190/minio/health/ready
(cd s3sync && KEDGE_TEST_S3=http://127.0.0.1:9190 "$tests" -test.run "$pattern" -test.timeout 20m)

echo "== four nodes, one of them killed"
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
	$inside "$minio" server --quiet --address 10.231.1.$i:910$i $nodes >"$dir/d$i.log" 2>&1 &
	pids="$pids $!"
	last=$!
done
ready http://10.231.1.1:9101/minio/health/cluster $inside
(
	cd s3sync
	KEDGE_TEST_S3=http://10.231.1.1:9101 $inside "$tests" -test.run "$pattern" -test.timeout 20m &
	tested=$!
	sleep 2
	kill -9 "$last" # amid the tests: the others go on after a second
	wait "$tested"
	echo "== three nodes"
	KEDGE_TEST_S3=http://10.231.1.1:9101 $inside "$tests" -test.run "$pattern" -test.timeout 20m
)
