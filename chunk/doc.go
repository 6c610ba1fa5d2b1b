// Package chunk cuts a stream of bytes into chunks at places that its content
// decides, so that an insertion moves only the cuts next to it. It knows no
// files, no goroutines and no repository: a slice goes in, cuts come out.
//
// A repository names its splitter ("rabin:13"), and never changes it silently:
// the same bytes cut elsewhere are other objects. What follows is therefore a
// format. It may be added to under a new name, and not be altered.
//
// # Common rules
//
// A chunk has a length and a level. The level says how many levels of the tree
// over the chunks of a file end with it; package repo has the rule. N is the
// number in the splitter's name. Bits are numbered from 0, the least
// significant.
//
//	splitter       N          min size   max size   mean on random data
//	rabin:N        10 to 20   2^(N-2)    2^(N+3)    10.0 KiB at N = 13
//	gear:N         10 to 20   2^(N-2)    2^(N+3)     9.1 KiB
//	rollsum:N      13 to 21   none       2^(N+2)     7.9 KiB
//
// Chunks are cut one after the other, from the first byte of the input on. A
// chunk ends at the first position where it has a hit; where it has none, at
// max size or at the end of the input, whichever is first. Each splitter defines
// what a hit is; one at max size or at the end of the input is a hit like any
// other. A chunk that does not end with a hit has level 0. An empty input has
// no chunks.
//
// For rabin and gear only, chunks of nothing but zeros are then merged: going
// from left to right, a chunk that is wholly zero is joined to the one before
// it if that is wholly zero too and the sum of both is not above max size. Both
// hashes are 0 for 64 zeros, which is a hit, so a run of zeros would be
// thousands of chunks of min size otherwise. All-zero chunks, merged or alone,
// have level 0.
//
// # rabin
//
// The hits are those of github.com/restic/chunker v0.4.0 with the boundaries
// above, average bits N and the polynomial 0x3DA3358B4DC173.
//
// Let P be that polynomial over GF(2), of degree 53: bit i of the number is the
// coefficient of x^i. The digest of the 64 bytes b0 … b63 is
//
//	b0·x^504 + b1·x^496 + … + b62·x^8 + b63   mod P
//
// where a byte is the polynomial of its bits, and the sum is exclusive or. A
// position is a hit if the chunk has at least min size there and the lowest N
// bits of the digest of the last 64 bytes are 0.
//
// Level: 0 if the digest is 0; else the number of zero bits from bit N upward to
// the first 1, divided by 4, rounded down, and at most 4.
//
// # gear
//
// The table G has 256 words of 64 bits. G[0] is 0. For b from 1 to 255, G[b] is
// the first eight bytes, read as a big-endian number, of the SHA-256 of the
// ASCII string "kedge gear table " and b in two lower-case hexadecimal digits:
//
//	G[0x01] = 73b0c4ec82184d34   SHA-256 of "kedge gear table 01"
//	G[0x02] = 39999e0184ca014f
//	G[0xff] = 6b93867f6bacbd6c
//
// The hash of the 64 bytes b0 … b63 is, modulo 2^64,
//
//	G[b0]·2^63 + G[b1]·2^62 + … + G[b62]·2 + G[b63]
//
// A position is a hit if, of the hash of the last 64 bytes,
//
//	the highest N+2 bits are 0 and the chunk has at least min size there, or
//	the highest N-2 bits are 0 and the chunk has at least 2^N bytes there.
//
// That it is hard to be a hit below 2^N bytes and easy from there on keeps most
// chunks near that size, so that a change costs one chunk of common size and
// not, as it does where any length is as likely as another, a chunk of above
// common size. For scattered changes it saves a quarter to a third of what rabin
// stores.
//
// Level: 0 if the hash is 0; else the number of zero bits from bit 61-N
// downward to the first 1 (0 bits have no 1: then it is 62-N), divided by 4,
// rounded down, and at most 4. These bits have no part in the hit.
//
// A run of one byte value other than 0 has no hits: it makes chunks of max size.
//
// # rollsum
//
// This is bup's split method legacy:N, with which other programs share chunks,
// its oddities included. It has a window of 64 bytes, of zeros at the start of
// every chunk, and two counters modulo 2^32, which start at s1 = 64·31 and
// s2 = 64·63·31. For each byte c of the chunk, where d is the byte that leaves
// the window,
//
//	s1 += c - d
//	s2 += s1 - 64·(d + 31)      with the new s1
//	digest = (s1 mod 65536)·65536 + s2 mod 65536
//
// A position is a hit if the lowest N bits of the digest are all 1. Level: the
// number of consecutive 1 bits from bit N+1 upward, divided by 4, rounded down;
// bit N is passed over.
//
// # Vectors
//
// S is the concatenation of the SHA-1 digests, 20 bytes each, of the ASCII
// strings "0", "1", "2" and so on. An input is S:n, the first n bytes of S, or
// vv:n, the byte with hexadecimal value vv n times, or several of these in a
// row, joined by +. A chunk is written as its length, *level unless that is 0,
// and z if it is all zeros. After "count" stand the number of chunks and the
// SHA-1 of their list as it would stand here.
//
//	rabin:10 S:16384 = 479 426 1206 4134 303 2727 3221 2878 1010
//	rabin:10 S:5000000 = count 3967 1551be574684980be9454055589509f99157a690
//	rabin:10 01:20000 = 8192 8192 3616
//	rabin:13 S:100000 = 2170 4075 42170 6021 6560 2323 4166 9725 12335 10455
//	rabin:13 S:5000000 = count 474 554a0043e5b68ae395110fa80754a0fabeb7a363
//	rabin:13 00:300000 = 65536z 65536z 65536z 65536z 37856z
//	rabin:13 S:5000+00:70000+S:5000 = 2170 2894 65536z 4096z 2474 2830
//	rabin:13 S:1000+00:3000 = 2048 1952z
//	rabin:20 S:4000000 = 682035 1698930*1 1619035
//	gear:10 S:16384 = 1055*1 1031 1137 1378 1344 1321 661 1177 470 1311*1 1713 1157 1362 1267
//	gear:10 S:5000000 = count 4275 a347b1f877752c90aa4f5be13dc2ca53cefb3396
//	gear:10 01:20000 = 8192 8192 3616
//	gear:13 S:100000 = 9574 8632 4500 3412 11534 10231 9473 17268 9148 8471 7757
//	gear:13 S:5000000 = count 530 33e921b930071551ebc7214bf9dee22d45f739da
//	gear:13 00:300000 = 65536z 65536z 65536z 65536z 37856z
//	gear:13 S:5000+00:70000+S:5000 = 5064 65536z 4096z 5304
//	gear:20 S:4000000 = 1132590 1104010 1523516 239884
//	rollsum:13 S:100000 = 5649 24823 5080 409 1617 8233 359 609 32768 3085 1958 499 8229 5087 1595
//	rollsum:13 00:100000 = 32768z 32768z 32768z 1696z
//
// Hashes of the bytes 00 01 … 3f, and of c0 c1 … ff:
//
//	rabin digest 44b76cac5cee3     653481da7cf27
//	gear hash    ce4c732e03b1a87e  4401022e42166c76
package chunk
