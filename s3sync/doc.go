// Package s3sync keeps repositories in an object store that speaks S3: it mirrors them
// there, reads them there by ranges, and brings them back.
//
// # Layout
//
// Under prefix/REPO/ of a bucket:
//
//	objects/pack/pack-*.pack, *.idx   git's own files under git's own names
//	state/<sha256>                    config, receipts and other files that change: a copy of
//	                                  each version that a manifest names
//	manifests/<16 hex digits>         generation n, as 2^64-1-n, so that the newest is the
//	                                  first key of a listing
//	bases/<16 hex digits>             a second copy of each manifest that lists everything
//	probe                             written by the first run, to see whether it can be
//	                                  written twice
//
// Every key is created exclusively (If-None-Match: *) and never written again. A file whose
// key is taken by other bytes gets the key <name>~<n>. What a repository is, is said by a
// manifest alone: a key that none names means nothing.
//
// # Manifest
//
// Lines of text, each ending in a newline:
//
//	kedge-manifest 1
//	n 17
//	time 2026-11-21T03:00:12Z
//	repo q1pky36gbwdvwxohnasgpmwref48uiw    the repository's id; - if it has none
//	kind full                               full, diff or prune
//	prev 9f86d081…0a08                      SHA-256 of manifest n-1; - if there is none
//	base 16                                 of a diff: the full manifest that it changes
//	head refs/heads/main                    what HEAD stands for; - if nothing
//	+ objects/pack/pack-….pack 1048 2c26b4…66e7 objects/pack/pack-….pack v1
//	- objects/pack/pack-….idx
//	refs
//	# pack-refs with: sorted
//	4b825dc642cb6eb9a060e54bf8d69288fbee4904 refs/heads/etc
//	end
//	-----BEGIN SSH SIGNATURE-----
//	…
//	-----END SSH SIGNATURE-----
//
// "+" has name, size, SHA-256, key (below prefix/REPO/) and, where the bucket keeps
// versions, the version; of an object that was sent in parts a sixth word, which is the
// SHA-256 of the SHA-256 of its parts (the version is - then if there is none). A diff has those that its base lacks or has otherwise. "-" is a
// name that the base has and this generation has not. What stands between "refs" and
// "end" is a packed-refs file, for people with stock tools. The signature (SSHSIG,
// namespace kedge-manifest) is over all that stands before it, and may be missing.
//
// Order of a mirror run: packs, their indexes, the files that change, the manifest. So a
// manifest that is there names only what is there.
package s3sync
