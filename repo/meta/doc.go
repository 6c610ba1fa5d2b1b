// Package meta encodes, parses, reads and applies the metadata of files: mode,
// owner, times, link targets, ACLs, attributes, extended attributes.
//
// The encoding is bup's. A saved directory holds a file ".bupm", which is a
// sequence of entries as they are described here: first the directory's own,
// then one for every name in it that is no directory, in the byte order of the
// names. The package knows neither trees nor .bupm files: it takes one entry
// off the front of a slice (Parse) or appends one (Meta.Append).
//
// # Primitives
//
// Everything is a byte string; there is no alignment and no magic.
//
//	vuint  7 bits a byte, least significant group first; bit 7: more follow.
//	       0 = 00, 127 = 7f, 300 = ac 02
//	vint   first byte: bit 7 more follow, bit 6 negative, bits 5–0 the lowest six
//	       bits of the absolute value; then groups as in vuint.
//	       0 = 00, -1 = 41, 63 = 3f, 64 = 80 01, 0100644 = a4 86 04
//	bvec   vuint length, then that many bytes
//
// Numbers stand in the shortest form there is and there is no negative zero:
// Parse refuses anything else. It also refuses numbers that do not fit the
// field they are for, and nanoseconds above 999,999,999 (which utimensat would
// take for an order to use the present time).
//
// # Entry
//
// An entry is a sequence of records and a final byte 00. A record is a vuint
// tag and a bvec payload:
//
//	tag  name             payload
//	  1  path             bvec path (length twice); only in metadata archives
//	 10  common, v3       vint mode, vint uid, bvec user, vint gid, bvec group, vint rdev,
//	                      vint+vuint atime, vint+vuint mtime, vint+vuint ctime, vint size
//	  3  symlink          the target
//	  8  hard link        absolute path of one member of the link set, in all members the same
//	 11  POSIX ACL, v2    4 bvecs: access with names, access with numbers,
//	                      default with names, default with numbers
//	  6  attributes       vuint: what FS_IOC_GETFLAGS says, if that is not 0
//	  7  xattrs           vuint count, then bvec name and bvec value of each, in listxattr order
//
// Records are written in this order, and only where there is something to say.
// The bare byte 00 is the empty entry: metadata unknown.
//
// Mode is the whole st_mode. User and group are empty if unknown. rdev is
// st_rdev for devices and 0 for all else. Times are seconds, rounded down, and
// nanoseconds; ctime is recorded and never restored. Size is the number of
// bytes that were read from a regular file, the length of a symlink's target,
// and -1 for everything else.
//
// ACLs are in the short text form, "u::rw-,u:nobody:rw-,g::r--,m::rw-,o::r--",
// entries ordered by kind and then by id. In names a backslash is doubled and
// colon, comma, blank, tab, newline and carriage return become a backslash and
// three octal digits. An id without a name stands as its number. The record is
// there only if an ACL says more than the mode does. Its xattr forms,
// system.posix_acl_access and system.posix_acl_default, stand among the xattrs
// all the same; when both are there the record wins, because it has the names.
//
// # What else is read
//
// Older writers used three other records. Parse understands them, Append never
// writes them:
//
//	tag  name             payload
//	  2  common, v1       as v3, but mode, uid, gid, rdev as vuint, and no size
//	  9  common, v2       as v3, but no size
//	  4  POSIX ACL, v1    as v2, the entries of a list separated by newlines; a list
//	                      that holds a comma cannot be converted and is dropped
//
// Tags that Parse does not know are skipped: that is how a new kind of record
// comes into the format. Tag 5 is reserved for NFSv4 ACLs and counts as unknown.
//
// Parse takes the records in any order, but not one kind twice, and nothing
// behind the last field of a payload. What it takes of the current form, Append
// gives back byte for byte.
//
// # Limits
//
//	entry                     16 MiB
//	symlink target            65,535 bytes
//	user, group                4,096 bytes
//	name of an xattr             255 bytes
//
// # Example
//
// A file of 6 bytes of root's, with the extents flag and two extended attributes:
//
//	0a                        tag 10, common v3
//	2d                        45 bytes
//	  a48604                  mode 0100644
//	  00 04"root" 00 04"root" uid, user, gid, group
//	  00                      rdev
//	  80c49fd50c 959aef3a     atime 1700000000, 123456789
//	  80c49fd50c 959aef3a     mtime
//	  a48287b00d d48df2e302   ctime 1795219620, 746358484
//	  06                      size 6
//	06 03 808020              tag 6, 3 bytes: 0x80000
//	07 17                     tag 7, 23 bytes
//	  02                      two of them
//	  07"user.k1" 02"v1"   07"user.k2" 02 00ff
//	00                        end
package meta
