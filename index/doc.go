// Package index keeps the file-system index: every path that kedge was told to
// watch, what lstat said of it, and the id of what was last saved from it.
//
// Update walks directory trees and notes what is there; a save reads what is not
// Valid and notes, through Rewrite, what it stored. The index knows nothing of
// repositories: one index serves any number of them, and its ids are hints that
// a save must hold against the repository it writes to. All of it may be lost at
// any time; then everything is read once more.
//
// # The file
//
// The index is one file, NAME. Whoever makes a new version holds an exclusive
// flock on NAME.lock, writes NAME.tmp, syncs it and renames it to NAME. So NAME
// is always one complete version, and readers take no lock. If nothing changed
// nothing is written.
//
// Numbers of fixed width are little-endian. A uvarint is a number in base 128,
// the low seven bits first, each byte but the last with the top bit set, at most
// 64 bits, and never with a last byte of 0 but for the number 0. A zigzag is a
// signed number n as the uvarint of 2n, or of -2n-1 if it is negative; it is the
// difference of two numbers of 64 bits, without regard to overflow. A CRC is
// CRC-32C (Castagnoli).
//
//	0     12   magic, "kedge index\n"
//	12    4    version of the format, 1
//	16    …    blocks, one right after another
//	T     …    block table
//	-32   8    T
//	-24   8    number of blocks
//	-16   8    number of records
//	-8    4    CRC of the block table
//	-4    4    CRC of the first 16 bytes of the file and of the 28 before this field
//
// A reader refuses every version but its own. There is no way to carry an index
// over to another version, because none is needed: a program that knows newer
// ones makes an older one anew. One that is newer than itself it leaves alone: the
// program that wrote it is still in use. (A file whose last CRC is right if the
// version is taken for 1 is damaged, and no newer one.)
//
// A damaged index is renamed to NAME.damaged, in the place of one that may be
// there, and made anew by the next Update.
//
// The block table has an entry for each block:
//
//	uvarint   size of the block in bytes, not 0
//	uvarint   number of records, not 0
//	4         CRC of the block
//	uvarint   length of the key of its last record
//	…         that key
//
// The key of a record is its path, absolute and without "." and "..", or
// nothing if the path is "/". Keys are not cut short here as they are in
// records: a table can't claim more memory than it has bytes.
//
// # Records
//
// Records stand in post-order: the names of a directory in byte order, each
// directory after everything below it. Two keys differ first at some byte; there
// a '/' comes before every other byte; the key that is at its end there comes
// after the other if that goes on with '/' (it is an ancestor), else before it.
// No key stands twice.
//
// A writer ends a block with the record that makes it 64 KiB or more. It may
// end one earlier, so that it can take over blocks of the old version unchanged:
// that is the one thing in the file that is not determined by its records. In a
// block all is relative to the record before; before the first there is one of
// zeros with an empty key.
//
//	uvarint   how many bytes of the key are those of the key before: as many as can be
//	uvarint   how many follow
//	…         the rest of the key
//	1         state
//	2         abbreviations
//	…         stat data, below
//	[uvarint  git mode]
//	[20       id, in its binary form]
//	[1, …     chunker: 0 if the one that was named last in this block, else the
//	          length of its name and the name]
//	[uvarint, …  length of the symbolic link's target, not 0, and the target]
//	[uvarint, …  length of the extras, not 0, and the extras]
//	[uvarint  number of records below this one, not 0]
//	[uvarint, uvarint  what the id of a directory holds: items that are no
//	          directories, not 0, and the sum of their sizes]
//
// The chunkers have no table for the whole file, because it would have to be
// carried along, and grow, as long as one block is taken over from old versions.
//
// Bits of the state:
//
//	0x01   the path existed at the last run
//	0x02   valid: the id is what a save would store; only together with 0x01
//	0x04   an id follows, and it is not all zeros
//	0x08   a chunker follows
//	0x10   a target follows
//	0x20   extras follow
//	0x40   the number of records below follows
//	0x80   what the id holds follows
//
// Abbreviations; each bit is set if what it says is true, and the field is
// left out then:
//
//	0x0001 device     the same as before
//	0x0002 mode       the same as before
//	0x0004 owner      user and group the same as before
//	0x0008 git mode   the same as before
//	0x0010 links      1
//	0x0020 rdev       0
//	0x0040 blocks     8 for each 4096 bytes of size begun
//	0x0080 ctime      the same as the mtime
//	0x0100 atime      the same as the mtime
//	0x0200 mtime      whole seconds: no nanoseconds follow
//	0x0400 ctime      whole seconds; never set with 0x0080
//	0x0800 atime      whole seconds; never set with 0x0100
//
// Stat data:
//
//	[uvarint]  device
//	zigzag     inode, less the inode before
//	[uvarint]  mode, with the bits of the type
//	[uvarint, uvarint]  user, group
//	[uvarint]  number of links
//	[uvarint]  rdev
//	uvarint    size
//	[uvarint]  blocks of 512 bytes
//	zigzag [4] mtime: seconds, less those of the mtime before; nanoseconds
//	zigzag [4] ctime, the same way
//	zigzag [4] atime, the same way
//
// Limits: 8 MiB for a path (less than), 64 KiB for a target, 16 MiB for extras,
// 255 bytes for the name of a chunker, 2⁶³-4096 for sizes, 999,999,999 for
// nanoseconds.
//
// A valid record has none but valid ones below it. Records that do not exist any
// more stay until a save has dropped them from what it stores.
//
// # Example
//
// Three paths: /a/b, a saved file; /a/l, a link to b; /a, their directory.
//
//	0000  6b 65 64 67 65 20 69 6e 64 65 78 0a   magic
//	000c  01 00 00 00                           version 1
//	0010  00 04 2f 61 2f 62                     nothing shared, 4 bytes: "/a/b"
//	0016  0f                                    exists, valid, id, chunker
//	0017  f4 01                                 owner, links, rdev, blocks, ctime, atime
//	0019  81 10                                 device 2049
//	001b  18                                    inode 12
//	001c  a4 83 02                              mode 0100644
//	001f  05                                    size 5
//	0020  80 c4 9f d5 0c 80 b2 e6 0e            mtime 1700000000.250000000
//	0029  a4 83 02                              git mode 0100644
//	002c  e6 9d e2 9b b2 d1 d6 43 4b 8b         id
//	0036  29 ae 77 5a d8 c2 e4 8c 53 91
//	0040  08 72 61 62 69 6e 3a 31 33            chunker "rabin:13"
//	0049  03 01 6c                              3 bytes shared, 1 byte: "/a/l"
//	004c  11                                    exists, target
//	004d  b5 08                                 device, owner, links, rdev, ctime; atime whole
//	004f  02                                    inode 13
//	0050  ff c3 02                              mode 0120777
//	0053  01                                    size 1
//	0054  00                                    no blocks
//	0055  00 80 b2 e6 0e                        mtime: the same second
//	005a  02                                    atime: one second more
//	005b  00                                    git mode 0
//	005c  01 62                                 target "b"
//	005e  02 00                                 2 bytes shared: "/a"
//	0060  41                                    exists, records below
//	0061  ed 01                                 device, owner, git mode, rdev, blocks, ctime, atime
//	0063  03                                    inode 11
//	0064  ed 83 01                              mode 040755
//	0067  02                                    2 links
//	0068  80 20                                 size 4096
//	006a  00 80 b2 e6 0e                        mtime
//	006f  02                                    2 records below
//	0070  60 03 75 21 b5 c9                     table: 96 bytes, 3 records, CRC
//	0076  02 2f 61                              2 bytes: "/a"
//	0079  70 00 00 00 00 00 00 00               the table is at 0x70
//	0081  01 00 00 00 00 00 00 00               1 block
//	0089  03 00 00 00 00 00 00 00               3 records
//	0091  c4 3f af 93                           CRC of the table
//	0095  ea cc 75 17                           CRC of header and trailer
//
// # What is trusted
//
// A reader checks every length against the bytes there are, every checksum, and
// the order of the keys, before it gives a record out. File.Check reads
// everything, and also verifies that each block is encoded in the one way
// described here, the counts of records below, and that nothing below a valid
// record is not valid.
//
// When a record may be marked valid, in spite of clocks that tick slowly or are
// set back, is the matter of Racy.
package index
