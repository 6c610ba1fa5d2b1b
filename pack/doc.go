// Package pack reads and writes git objects in pack files: ids, the encoding of
// one object, pack v2, idx v2. It knows no repository, no refs and no trees.
//
// # Objects
//
// An object is a type (commit, tree, blob, tag) and a body. Its id is the SHA-1
// of the type's name, a blank, the length of the body in decimal, a zero byte
// and the body. Ids are 20 bytes; nothing outside this package depends on that.
//
// # Pack
//
// All numbers are big-endian where nothing else is said.
//
//	byte 0   "PACK"
//	     4   2: version
//	     8   number of objects, 4 bytes
//	    12   the entries, without gaps
//	   -20   SHA-1 of all before it, which is also the pack's name
//
// An entry is a header and a zlib stream (RFC 1950, no preset dictionary):
//
//	        bit  7      6 5 4   3 2 1 0
//	byte 0       more   kind    size, lowest four bits
//	byte 1…      more   size, seven further bits each, lower ones first
//	             for a delta: where its base is
//	             zlib stream of exactly size bytes; its last four are the
//	             Adler-32 of them
//
// Kinds are 1 commit, 2 tree, 3 blob, 4 tag, 6 delta with a base by offset, 7
// delta with a base by id; 0 and 5 are errors. A size has at most 63 bits and
// takes at most 10 bytes. The length of an entry is written nowhere: it ends
// where its zlib stream ends.
//
// After the header of a delta of kind 6 follows how many bytes before its own
// first byte its base begins, seven bits a byte, highest first, bit 7 set in all
// but the last; each byte but the last counts one more than it says, so 128 is
// 80 00 and not 81 00. After that of kind 7 follow the 20 bytes of the base's
// id; the base is in the same pack. The stream of a delta holds two lengths and
// instructions (see delta.go). The type of what it makes is the type of the
// object at the end of its chain of bases.
//
// Writer writes whole objects only. Pack reads deltas as well, because git
// makes them when it repacks; Decoder refuses them with ErrDelta, because none
// may come from a client.
//
// # Encoding
//
// Encoder writes zlib streams of window 32 KiB (first bytes 78 01). A body that
// deflate would shrink by less than 1 in 64 is stored: readers copy it at the
// speed of memory. So an entry is never larger than EncodedLimit says.
//
// # Idx v2
//
// N is the number of objects, K of offsets from 2^31 on.
//
//	byte 0        ff 74 4f 63
//	     4        2: version
//	     8        fan-out: 256 × 4 bytes, how many ids have a first byte ≤ i
//	  1032        N ids of 20 bytes, strictly ascending
//	  1032+20N    N × CRC-32 (IEEE) of the entries, header included
//	  1032+24N    N × offset of the entry in the pack, 4 bytes; if bit 31 is
//	              set the rest is a place in the next table
//	  1032+28N    K offsets of 8 bytes
//	   -40        checksum of the pack, as its last 20 bytes have it
//	   -20        SHA-1 of all before it
//
// Idx v1, which is read only, has no magic: the fan-out at 0, N × (offset 4
// bytes, id 20 bytes) at 1024, and the same two checksums.
//
// # Limits
//
// 2^32-1 objects in a pack; offsets and sizes below 2^63. Readers refuse objects
// above the size their caller names, and more than 50 deltas upon each other.
// They allocate what the bytes at hand can make (deflate makes at most 1032 of
// one), whatever a header claims. What a file has wrong is a *CorruptError with
// file, place and reason. A version number other than the ones above is an error.
//
// # Example
//
// A pack with the one blob "hello\n", as ExampleWriter prints it, and its idx
// without the fan-out:
//
//	5041434b 00000002 00000001                   PACK, version 2, one object
//	36                                           kind 3 (blob), 6 bytes
//	7801                                         zlib, window 32 KiB
//	01 0600 f9ff 68656c6c6f0a                    last block, stored, 6 bytes: hello\n
//	084b021f                                     Adler-32
//	007b4413ed03c6c9a5aa33859e2ae7d4d74449fc     SHA-1 of the 30 bytes before it
//
//	ff744f63 00000002                            idx, version 2
//	00000000 × 206, 00000001 × 50                one object, its id begins with ce
//	ce013625030ba8dba906f756967f9e9ca394464a     its id
//	1ea9c370                                     CRC-32 of the 18 bytes of its entry
//	0000000c                                     the entry begins at byte 12
//	007b4413ed03c6c9a5aa33859e2ae7d4d74449fc     the pack
//	f10a0c87d99912d14b00e957d3554adce8d8f0e0     SHA-1 of all before it
package pack
