// Package meta encodes, parses, reads and applies the metadata of a file: the
// records of which a .bupm is made.
package meta

import (
	"os"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// Meta is the metadata of one file-system object.
type Meta struct {
	Path                string // only in metadata archives
	Mode                uint32 // whole st_mode; 0: the entry is empty
	UID, GID            int64
	User, Group         string // "" if unknown
	Rdev                uint64
	Atime, Mtime, Ctime fsx.Time
	Size                int64  // -1: not recorded
	Symlink             string // target
	Hardlink            string // path of the first member of the link set, or ""
	Extras              Extras
}

// Extras are the rarer parts: ACLs, Linux attributes, extended attributes. The
// file index keeps them in encoded form.
type Extras struct {
	ACL    *ACL
	Attr   uint32 // FS_IOC_GETFLAGS
	Xattrs []Xattr
}

// ACL is a POSIX ACL in its short text form, with names and with numbers.
type ACL struct{ Access, AccessNum, Default, DefaultNum string }

// Xattr is one extended attribute.
type Xattr struct{ Name, Value string }

// Append appends the encoded entry, its end mark included.
func (m *Meta) Append(dst []byte) []byte { panic("stub") }

// AppendWith does the same with extras that are already encoded (AppendExtras).
func (m *Meta) AppendWith(dst, extras []byte) []byte { panic("stub") }

// AppendExtras appends the encoded records of the extras.
func (x *Extras) AppendExtras(dst []byte) []byte { panic("stub") }

// Parse takes one entry off the front of b. An entry of the single byte 0 gives
// a Meta with Mode 0.
func Parse(b []byte) (m Meta, rest []byte, err error) { panic("stub") }

// Names resolves numeric owners to names and back, with a cache, from the
// system's user database. It is used by one goroutine at a time.
type Names struct{}

// User returns the name of a user id, "" if there is none.
func (n *Names) User(uid uint32) string { panic("stub") }

// Group returns the name of a group id, "" if there is none.
func (n *Names) Group(gid uint32) string { panic("stub") }

// FromStat fills in what stat tells.
func FromStat(st fsx.Stat, n *Names) Meta { panic("stub") }

// ReadExtras reads ACLs, attributes and extended attributes of an open file or
// directory, or of an O_PATH descriptor (fsx.Dir.OpenNode). A part that the
// file system does not have is no error.
func ReadExtras(f *os.File, st fsx.Stat, n *Names) (Extras, error) { panic("stub") }
