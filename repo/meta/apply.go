package meta

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"

	"github.com/kedgebackup/kedge/internal/fsx"
	"golang.org/x/sys/unix"
)

// Options says how metadata is applied.
type Options struct {
	// Numeric takes owners by their recorded numbers, not by their names.
	Numeric bool
	// MapUser and MapGroup replace recorded names, before they are looked up;
	// "" makes the number count. MapUID and MapGID replace recorded numbers.
	MapUser, MapGroup map[string]string
	MapUID, MapGID    map[uint32]uint32
	// System also applies what would give rights away in a tree that is not the
	// administrator's alone: set-id bits, security.* and trusted.* attributes.
	// Without it they are left off and named in Outcome.Withheld.
	System bool
}

// Outcome says what Apply did not do. The zero value: it did everything.
type Outcome struct {
	Withheld []string // left off for want of Options.System: "setuid", "setgid", "security.capability"
	Errs     []error  // tried and failed, or not to be tried; each is a *PartError
}

func (o *Outcome) withhold(what string) { o.Withheld = append(o.Withheld, what) }

func (o *Outcome) fail(part string, err error) {
	if err != nil {
		o.Errs = append(o.Errs, &PartError{Part: part, Err: err})
	}
}

// PartError says which part of the metadata could not be applied.
type PartError struct {
	Part string // "owner", "mode", "ACL", "times", "attributes", or the name of an extended attribute
	Err  error
}

// Error names the part and the cause.
func (e *PartError) Error() string { return fmt.Sprintf("%s: %v", e.Part, e.Err) }

// Unwrap returns the cause.
func (e *PartError) Unwrap() error { return e.Err }

// Applier applies metadata to objects that are held by descriptor. It is used
// by one goroutine at a time.
type Applier struct {
	opts   Options
	names  *Names
	root   bool  // the process may give files away
	groups []int // which an ordinary user may give files to
	acl    []byte
}

// NewApplier fails if a map leads to a user or group that does not exist: found
// out later, the files would have the wrong owner already.
func NewApplier(o Options, n *Names) (*Applier, error) {
	for _, name := range o.MapUser {
		if _, ok := n.UID(name); name != "" && !ok {
			return nil, fmt.Errorf("no such user: %q", name)
		}
	}
	for _, name := range o.MapGroup {
		if _, ok := n.GID(name); name != "" && !ok {
			return nil, fmt.Errorf("no such group: %q", name)
		}
	}
	a := &Applier{opts: o, names: n, root: os.Geteuid() == 0}
	if !a.root {
		groups, err := os.Getgroups()
		if err != nil {
			return nil, fmt.Errorf("groups of this process: %w", err)
		}
		a.groups = append(groups, os.Getegid())
	}
	return a, nil
}

// Apply gives the object behind fd the metadata m: a regular file or a
// directory that is open, or anything else held with O_PATH. Size, type and
// targets are the caller's business; an empty entry (Mode 0) changes nothing.
//
// The order matters. A change of owner clears set-id bits and capabilities, so
// it comes first; an ACL rewrites the group bits of the mode, so it follows the
// mode; whoever may write into the tree must never see set-id bits on a file
// that is not yet what it will be, so these and capabilities come last:
//
//	chown → mode without set-id bits → ACL → xattrs → attributes → times
//	→ set-id bits → security.*
//
// On an ordinary file that is chown, chmod, flistxattr and utimensat: four calls.
// Immutable and append-only are left to Seal, because with them the object can
// be neither named nor linked.
func (a *Applier) Apply(fd int, m *Meta) (out Outcome) {
	if m.Mode == 0 {
		return out
	}
	o := hold(fd, m.Mode)
	uid, gid := a.chown(fd, m, &out)
	perm := m.Mode & 0o7777
	if m.Type() != TypeSymlink {
		out.fail("mode", fsx.Fchmod(fd, perm&^0o6000))
	}
	a.applyExtended(&o, m, &out, false)
	if m.Extras.Attr&settable&^sealing != 0 {
		out.fail("attributes", addFlags(&o, m.Extras.Attr&settable&^sealing))
	}
	out.fail("times", fsx.Futimens(fd, m.Atime, m.Mtime))
	if m.Type() != TypeSymlink && perm&0o6000 != 0 {
		if bits := a.setIDBits(m, uid, gid, &out); bits != 0 {
			out.fail("mode", fsx.Fchmod(fd, perm&^0o6000|bits))
		}
	}
	a.applyExtended(&o, m, &out, true)
	return out
}

// Seal adds the immutable and append-only attributes that m has, when nothing
// else is left to be done to the object.
func (a *Applier) Seal(fd int, m *Meta) error {
	if !Sealed(m) {
		return nil
	}
	o := hold(fd, m.Mode)
	if err := addFlags(&o, m.Extras.Attr&sealing); err != nil {
		return &PartError{Part: "attributes", Err: err}
	}
	return nil
}

// Sealed reports whether Seal has anything to do.
func Sealed(m *Meta) bool {
	return m.Extras.Attr&sealing != 0 && (m.Type() == TypeFile || m.Type() == TypeDir)
}

// Prepare sets the attributes that a file must have before its first byte,
// because they decide how it is stored: no copy on write, compression. Not
// every file system has them; a refusal is no error, Apply will tell.
func (a *Applier) Prepare(fd int, m *Meta) {
	if want := m.Extras.Attr & (flagNoCow | flagCompress); want != 0 {
		o := hold(fd, m.Mode)
		_ = addFlags(&o, want)
	}
}

// Owner returns the owner and group that m asks for here, by names, numbers and
// maps. An id that cannot be had is an error, and the id -1.
func (a *Applier) Owner(m *Meta) (uid, gid int, err error) {
	uid, err = resolve(m.UID, m.User, a.opts.MapUID, a.opts.MapUser, a.opts.Numeric, a.names.UID)
	gid, gerr := resolve(m.GID, m.Group, a.opts.MapGID, a.opts.MapGroup, a.opts.Numeric, a.names.GID)
	return uid, gid, errors.Join(err, gerr)
}

// resolve finds one id. The maps come first; then the name counts before the
// number, but for id 0, which is root everywhere. A name that the map gave
// counts there too: it was chosen on purpose, and NewApplier knows that it
// exists. Only such a name, a recorded 0 and the map of numbers lead to 0: a
// save that says "uid 1000, name toor" must not make root of anyone.
func resolve(id int64, name string, ids map[uint32]uint32, names map[string]string,
	numeric bool, lookup func(string) (uint32, bool)) (int, error) {
	mapped := false
	if to, ok := names[name]; ok && name != "" {
		name, mapped = to, to != ""
	}
	valid := id >= 0 && id < math.MaxUint32 // the last one would mean "leave as it is"
	if valid {
		if to, ok := ids[uint32(id)]; ok {
			id = int64(to)
		}
	}
	if !numeric && (mapped || id != 0) {
		if found, ok := lookup(name); ok && (found != 0 || mapped) {
			return int(found), nil
		}
	}
	if !valid {
		return -1, fmt.Errorf("no such id: %d", id)
	}
	return int(id), nil
}

// chown gives the object its owner, and returns those ids that it has now for
// sure, -1 for others. An ordinary user cannot give files away: the owner stays,
// and so does a group that the user is not in.
func (a *Applier) chown(fd int, m *Meta, out *Outcome) (uid, gid int) {
	uid, gid, err := a.Owner(m)
	out.fail("owner", err)
	if !a.root {
		uid = -1
		if !slices.Contains(a.groups, gid) {
			gid = -1
		}
	}
	if uid < 0 && gid < 0 {
		return -1, -1
	}
	if err := fsx.Fchown(fd, uint32(uid), uint32(gid)); err != nil {
		out.fail("owner", err)
		return -1, -1
	}
	return uid, gid
}

// setIDBits returns those set-id bits of m that may be set. On a file they give
// the rights of its owner to whoever runs it: never without System, and never
// where the owner is not the one they were meant for. On a directory setgid
// only says which group new files get.
func (a *Applier) setIDBits(m *Meta, uid, gid int, out *Outcome) (bits uint32) {
	dir := m.Type() == TypeDir
	if m.Mode&unix.S_ISUID != 0 {
		switch {
		case !a.opts.System && !dir:
			out.withhold("setuid")
		case uid < 0 && a.root:
			out.fail("mode", errors.New("no setuid bit without the right owner"))
		case uid < 0 && !a.isSelf(m):
			out.withhold("setuid")
		default:
			bits |= unix.S_ISUID
		}
	}
	if m.Mode&unix.S_ISGID != 0 {
		switch {
		case !a.opts.System && !dir:
			out.withhold("setgid")
		case gid < 0:
			out.fail("mode", errors.New("no setgid bit without the right group"))
		default:
			bits |= unix.S_ISGID
		}
	}
	return bits
}

// isSelf reports whether m is meant to belong to the user of this process.
func (a *Applier) isSelf(m *Meta) bool {
	uid, _, _ := a.Owner(m)
	return uid == os.Geteuid()
}

// Differs reports whether Apply and Seal would change anything about an object
// of which st is known; fd is as for Apply. Access and change times do not
// count, nor does what would be withheld.
func (a *Applier) Differs(fd int, st fsx.Stat, m *Meta) (bool, error) {
	if m.Mode == 0 {
		return false, nil
	}
	perm := m.Mode & 0o7777
	if m.Type() != TypeSymlink && st.Mode&0o7777 != perm &&
		(a.opts.System || m.Type() == TypeDir || st.Mode&0o7777 != perm&^0o6000) {
		return true, nil
	}
	uid, gid, _ := a.Owner(m)
	if a.root && uid >= 0 && uint32(uid) != st.UID {
		return true, nil
	}
	if gid >= 0 && uint32(gid) != st.GID && (a.root || slices.Contains(a.groups, gid)) {
		return true, nil
	}
	if m.Mtime != st.Mtime {
		return true, nil
	}
	o := hold(fd, m.Mode)
	if differs, err := a.extendedDiffer(&o, m); differs || err != nil {
		return differs, err
	}
	if want := m.Extras.Attr & settable; want != 0 && (m.Type() == TypeFile || m.Type() == TypeDir) {
		flags, err := readFlags(&o)
		return err == nil && want&^flags != 0, err
	}
	return false, nil
}

// Withholds names what Apply would leave off for want of Options.System.
func (a *Applier) Withholds(m *Meta) (what []string) {
	if a.opts.System || m.Mode == 0 {
		return nil
	}
	if m.Type() != TypeSymlink && m.Type() != TypeDir {
		if m.Mode&unix.S_ISUID != 0 {
			what = append(what, "setuid")
		}
		if m.Mode&unix.S_ISGID != 0 {
			what = append(what, "setgid")
		}
	}
	for _, x := range m.Extras.Xattrs {
		if !ordinary(x.Name) && !covered(m, x.Name) {
			what = append(what, x.Name)
		}
	}
	return what
}
