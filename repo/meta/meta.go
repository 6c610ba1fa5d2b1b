package meta

import "github.com/kedgebackup/kedge/internal/fsx"

// The types of files, as they stand in Meta.Mode under TypeMask.
const (
	TypeMask    = 0o170000
	TypeSocket  = 0o140000
	TypeSymlink = 0o120000
	TypeFile    = 0o100000
	TypeBlock   = 0o060000
	TypeDir     = 0o040000
	TypeChar    = 0o020000
	TypeFIFO    = 0o010000
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

// Type returns the type bits of the mode, one of the Type constants.
func (m *Meta) Type() uint32 { return m.Mode & TypeMask }

// FromStat fills in what stat tells. The size of a regular file is what stat
// says; who reads the file puts in the number of bytes that there really were.
func FromStat(st fsx.Stat, n *Names) Meta {
	m := Meta{
		Mode:  st.Mode,
		UID:   int64(st.UID),
		GID:   int64(st.GID),
		User:  n.User(st.UID),
		Group: n.Group(st.GID),
		Atime: st.Atime,
		Mtime: st.Mtime,
		Ctime: st.Ctime,
		Size:  -1,
	}
	switch m.Type() {
	case TypeFile, TypeSymlink:
		m.Size = st.Size
	case TypeBlock, TypeChar:
		m.Rdev = st.Rdev
	}
	return m
}
