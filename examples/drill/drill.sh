#!/bin/sh
# drill.sh s3://BUCKET/PREFIX [IDENTITY]
#
# Rehearses the loss of a backup server: on a machine that has nothing but kedge and
# credentials for the bucket (and a private key, if the mirror is encrypted) it brings back all
# repositories, checks them, restores the newest save of each name once from what came back
# and once straight from the bucket, compares the two, and says how long it took. Nothing is
# written to the bucket. It needs room for all of that in TMPDIR; with OUT=DIR the results stay
# in DIR, which must not be there yet.
set -eu

from=${1:?usage: drill.sh s3://BUCKET/PREFIX [IDENTITY]}
from=${from%/}
identity=${2:-}
kedge=${KEDGE:-kedge}
if [ -n "${OUT:-}" ]; then
	mkdir "$OUT"
else
	OUT=$(mktemp -d)
	trap 'rm -rf "$OUT"' EXIT
fi
export KEDGE_CACHE_DIR="$OUT/cache" # nothing that this machine knows already is of use

# far runs a command that reads the mirror.
far() {
	if [ -n "$identity" ]; then
		"$kedge" "$@" --identity "$identity"
	else
		"$kedge" "$@"
	fi
}

# digest tells trees apart: names, contents, owners, modes and times.
digest() {
	(cd "$1" && tar -c --format=gnu --sort=name --numeric-owner . | sha256sum)
}

begin=$(date +%s)
far mirror --pull -q --root "$OUT/root" "$from"
pulled=$(date +%s)
repositories=0 saves=0
for repo in "$OUT"/root/*/; do
	name=$(basename "$repo")
	"$kedge" -d "$repo" fsck -q
	list=$("$kedge" -d "$repo" ls)
	for save in $list; do
		"$kedge" -d "$repo" restore -q -C "$OUT/pulled/$name/$save" "$save/latest/."
		far restore -q -r "$from/$name" -C "$OUT/straight/$name/$save" "$save/latest/."
		if [ "$(digest "$OUT/pulled/$name/$save")" != "$(digest "$OUT/straight/$name/$save")" ]; then
			echo "$name: what was restored of $save from what came back, and straight from the bucket, is not the same" >&2
			exit 1
		fi
		saves=$((saves + 1))
	done
	repositories=$((repositories + 1))
done
end=$(date +%s)
echo "everything is back: $repositories repositories in $((pulled - begin)) s," \
	"checked, and $saves saves restored and compared in $((end - pulled)) s"
