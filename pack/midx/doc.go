// Package midx reads and writes git's multi-pack-index: one sorted table of the
// objects of many packs, so that a look-up costs one search instead of one per
// pack. It knows idx files through package pack, and no repository.
//
// The file is objects/pack/multi-pack-index. All numbers are big-endian. In
// the rulers below P is the number of packs, N of objects, K of offsets that
// do not fit the small table, C of chunks.
//
//	byte 0   "MIDX"
//	     4   1: version
//	     5   1: ids are SHA-1 (20 bytes; 2 would be SHA-256)
//	     6   C
//	     7   0: files this one builds on; git never writes another number
//	     8   P, 4 bytes
//	    12   C+1 entries of 12 bytes: chunk name 4, its place in the file 8;
//	         the last has the name 0 and says where the trailer begins
//	   ...   the chunks, each beginning where the one before ends
//	  -20    SHA-1 of all before it
//
//	PNAM     names of the P idx files ("pack-….idx"), ascending, each followed
//	         by a zero byte; zero bytes up to a multiple of four
//	OIDF     fan-out: 256 × 4 bytes, how many ids have a first byte ≤ i
//	OIDL     N ids of 20 bytes, strictly ascending
//	OOFF     N × (number of the pack 4, offset in it 4)
//	LOFF     K offsets of 8 bytes; there only if an offset needs more than 32
//	         bits. Then an OOFF offset with bit 31 set is, without that bit, a
//	         place in LOFF, and offsets from 2^31 on stand there. In a file
//	         without LOFF bit 31 is a bit like others.
//
// Chunks of other names are passed over. An object that several packs hold is
// listed once; Write takes the pack whose name sorts first.
//
// Limits: 2^32-1 objects, as the fan-out counts them; 2^31 large offsets; names
// of idx files up to 16 MiB together.
//
// The file is derived: whoever removes a pack removes it first, and whoever
// finds it damaged or naming a pack that is gone ignores it.
package midx
