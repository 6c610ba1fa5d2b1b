// Package s3sync keeps repositories in an object store that speaks S3: it mirrors them
// there, reads them there by ranges, and brings them back.
//
// # Layout
//
// Under prefix/REPO/ of a bucket:
//
//	objects/pack/pack-*.pack, *.idx   git's own files under git's own names
//	kedge/segments/<class>-<32 hex>   index segments, by the first digits of their SHA-256
//	state/<sha256>                    config, receipts and other files that change: a copy of
//	                                  each version that a manifest names
//	manifests/<16 hex digits>         generation n, as 2^64-1-n, so that the newest is the
//	                                  first key of a listing
//	RESTORE.txt                       how to get the data back with stock tools
//	bases/<16 hex digits>             a second copy of each manifest that lists everything
//	probe                             written by the first run, to see whether it can be
//	                                  written twice
//
// The second copy is what counts if the first is damaged or lost, and warned of. That the first
// copy of the newest manifest is lost shows in a listing of bases/ alone, which all look at but
// who wants to list a directory; who makes the next generation puts it back.
//
// Every key is created exclusively (If-None-Match: *) and never written again. A file whose
// key is taken by other bytes gets the key <name>~<n>. What a repository is, is said by a
// manifest alone: a key that none names means nothing.
//
// Under prefix/.kedge/ the same, without packs, for the files that a server has of its own.
//
// Packs of several parts of 16 MiB are sent as such (a multipart upload), each part with its
// SHA-256. What a run has begun stands in a journal in its state directory, which journal.go
// describes.
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
//	drop 16 objects/pack/pack-….pack
//	drop 12 15-16 state/9f86…0a08
//	freed 1-9 11
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
// name that the base has and this generation has not. "drop 16 KEY", after these and not in a
// diff, is a key that generation 16 was the first to let go of: nobody names it again. In
// "drop 12 15-16 KEY" the prunes from 15 to 16 were allowed to delete it ("15" if that is one).
// "freed 1-9 11", not in a diff, are numbers of which prunes may have deleted the manifests. What stands between "refs" and
// "end" is a packed-refs file, for people with stock tools. The signature (SSHSIG,
// namespace kedge-manifest) is over all that stands before it, and may be missing.
//
// The line prev is compared by who lists generations, verifies one, or makes the next; chain.go
// says how far back. It is - if the manifest before was no good when this one was made.
//
// Order of a mirror run: packs, their indexes, segments, the files that change, the manifest. So a
// manifest that is there names only what is there.
//
// # Pruning
//
// A manifest of kind prune is the generation before it once more, with what is to be deleted.
// Manifests of mirrors that are full repeat its "drop" lines, and a diff has those of its base;
// a manifest of kind prune is nobody's base. Three days after the generation that a line names,
// by the time that the store gives its manifest, another prune may delete the key. It makes a
// manifest first that still has the line, with its own number in it. Who commits a manifest has
// read the one before it, as the number was free, and sends again what it was to name and finds
// dropped or gone, under another key. So no generation that can be found names what is deleted.
//
// Two things must not come back to somebody who stood still meanwhile. A number that is free
// because its manifest was deleted stands in "freed": what is found there is no generation, and
// who put it there finds out by reading the newest manifest after its own, and begins again. A
// key that is gone is forgotten if one prune was allowed to delete it. If there were several, as
// one died or was slow, its line stays for 180 days after the last of them; a prune deletes no
// more when it has been under way for 90.
//
// # Versions
//
// Where a bucket keeps versions, files are read by the version that the manifest names, and
// manifests by the oldest version that is good, whatever was put on top of them since.
//
// # Index segments
//
// Where an object is, the idx of its pack tells; but a year has hundreds of packs, and a
// look into each costs two requests. So the ids of many packs are merged into segments:
// class trees for packs with trees or commits, which are all that browsing needs, class data
// for packs of nothing but the data of files. A run gathers the ids of the packs that are in
// no segment yet, together with those of every segment of the class that is not eight times
// larger than what has been gathered, and those of segments with packs that are gone. So
// there is at most one for each power of eight, and nothing is read back from the bucket but
// heads: the ids come from the idx files at the source.
//
// Manifests name segments with lines "+" like all files. They are derived and can be lost at
// any time: then, and for packs that none of them has, readers take idx files. What they say
// is believed only as far as a place to look at: an object read there is compared with its id.
//
// A segment is a head, zeros up to a multiple of 16 KiB, and pages. Numbers are big-endian.
//
//	   0   8  "kedgeSEG"
//	   8   4  version, 1
//	  12   4  P, entries of the pack table, 1 to 65536
//	  16   8  N, rows, 1 to 2^40
//	  24 24P  pack table: 20 bytes of the pack's name, 4 bytes b: the entry stands for the
//	          4 GiB from b*2^32 on
//	      4G  page table, G = N/630 rounded up: the first four bytes of each page's first id
//	       4  CRC-32C of all before it
//
//	page: up to 630 rows, all pages but the last one have as many
//	       20  id
//	        2  entry of the pack table
//	        4  offset in that stretch
//	page end: 4  CRC-32C of the rows
//
// Rows are sorted by their bytes; an id that is in several packs has a row for each. The size
// of the file follows from P and N, and any other is an error, as is another version. A
// look-up needs the head, which stays in memory (four bytes for 630 objects), and one page,
// two where the first four bytes of the id are those of a page's first. A filter would spare
// the pages of vain look-ups, at ten bits for each id, 20 times as much as the page table: it
// does not pay, as the small segments are read as a whole and there is seldom more than one
// large one. Two objects, in the first and the second 4 GiB of one pack:
//
//	00000  6b656467 65534547 00000001 00000002
//	00010  00000000 00000002 aaaaaaaa aaaaaaaa
//	00020  aaaaaaaa aaaaaaaa aaaaaaaa 00000000
//	00030  aaaaaaaa aaaaaaaa aaaaaaaa aaaaaaaa
//	00040  aaaaaaaa 00000001 01020304 74c17954
//	…
//	04000  01020304 01010101 01010101 01010101
//	04010  01010101 00000000 000cfffe fdfc0202
//	04020  02020202 02020202 02020202 02020001
//	04030  0000000d 5e7908de
//
// # Encryption
//
// A mirror can be encrypted to public keys of age (age-encryption.org/v1). Whoever makes it
// holds no key that opens it, and what stands in the bucket reveals counts, sizes and times, and
// nothing else. Then below prefix/ stands
//
//	<32 hex digits>/                  one repository; PlaceOf says how the digits come about
//	    name.age                      an age file: its name and a newline, written once
//	    data/<32 random hex digits>   age files: packs, indexes, segments, files that change
//	    manifests/…, bases/…          as above, but with what is sealed
//	    RESTORE.txt, probe            not encrypted
//	.kedge/                           what the server has of its own, with its host key
//
// A manifest has a clear part and a sealed part:
//
//	kedge-sealed-manifest 1
//	n 17
//	time 2026-11-21T03:00:12Z
//	repo 3c5e…                        32 hex digits: half of the SHA-256 of "kedge-repo", the
//	                                  id, and a newline after each; - if it has none
//	kind diff
//	prev 9f86d081…0a08
//	base 16
//	+ data/5f2e…c1 1264 fcde2b…0eb9 v1
//	- data/91ab…07
//	-----BEGIN AGE ENCRYPTED FILE-----
//	…
//	-----END AGE ENCRYPTED FILE-----
//	-----BEGIN SSH SIGNATURE-----
//	…
//	-----END SSH SIGNATURE-----
//
// "+" has key, size and SHA-256 of the object as it is stored, and version and sums of parts as
// above, sorted by key; "-" is a key that the base has and this generation has not. "drop" lines
// follow as above. What is sealed, in age's armor, is a manifest as above without signature,
// versions and drops: real names, sizes and SHA-256, refs, HEAD, id. It must have the same n,
// time, kind, prev, base and id, and name the same keys, or the manifest is no good. A file that
// has the same size and SHA-256 in both parts is not encrypted: RESTORE.txt. Who prunes
// cannot seal anything, so a manifest of kind prune has the messages of the generation that it
// follows, two if that is a diff: that of its base in front. What is in them has a lower n then.
//
// The server plans the next generation from the clear part and from the file of names in its
// state directory, which cryptnames.go describes. Without that file, all is sent anew and the
// manifest lists everything. A ciphertext cannot be made again: it is spooled, noted with its
// SHA-256, and sent; what a run finds that comes after one that was killed is compared with
// that note. Ids of segments come from the idx files at the source, nothing is read back.
//
// Readers open an age file by its header and its last chunk, two reads at once, and decrypt the
// chunks of 64 KiB that they need. Their caches, in memory and on disk, hold what is stored.
//
// # Reading
//
// Files are read through a cache of blocks, in memory and on disk (DiskCache): 128 KiB of a
// pack, more around a place that is read again and again, 16 KiB of a segment; large reads of
// packs go past it. Of a pack of which many objects are wanted the idx is loaded, which has
// all the neighbours. Opening costs a listing, one or two manifests and the files that change.
package s3sync
