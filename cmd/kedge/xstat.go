package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/repo/meta"
)

const xstatHelp = `Xstat shows all that a save would record of each PATH, a symbolic link itself and not
where it leads, in the form of 'meta -tvv'. The fields are

    path mode link-target rdev size uid gid user group atime mtime ctime linux-attr
    linux-xattr posix1e-acl

--include-fields and --exclude-fields count in their order; if the first is the former,
only what is included is shown. A resolution is s, ms, us, ns or a power of ten of one,
10ns: times are cut to it.`

// metaFields are the fields of a block, in their order.
var metaFields = []string{"path", "mode", "link-target", "rdev", "size", "uid", "gid", "user", "group",
	"atime", "mtime", "ctime", "linux-attr", "linux-xattr", "posix1e-acl"}

// metaFormat says how metadata are shown in blocks of lines. The zero value shows all.
type metaFormat struct {
	fields     map[string]bool  // nil: all
	resolution map[string]int64 // of atime, mtime, ctime, in nanoseconds
}

func (a *app) xstatCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "xstat [OPTION...] PATH...",
		Short:   "show what would be recorded of a file",
		Long:    xstatHelp,
		Example: "  kedge xstat --include-fields mode,mtime --mtime-resolution s /etc/passwd",
	}
	o := metaFormat{resolution: make(map[string]int64)}
	f := cmd.Flags()
	o.fieldFlags(f)
	for _, t := range []string{"atime", "mtime", "ctime"} {
		f.Var(&resolution{o.resolution, t}, t+"-resolution", "cut "+t+" to multiples of `UNIT`")
	}
	return a.command(cmd, func(ctx context.Context, args []string) error {
		var names meta.Names
		failed, said := int64(0), false
		for _, path := range args {
			if err := ctx.Err(); err != nil {
				return err
			}
			m, err := readMeta(path, &names)
			if err != nil {
				a.ui.warn(path, err)
				failed++
				continue
			}
			if a.common.quiet && a.name == "bup" { // there it only finds out whether all can be read
				continue
			}
			m.Path = path
			var b []byte
			if said {
				b = append(b, '\n')
			}
			said = true
			if err := a.print(o.append(b, a, &m)); err != nil {
				return err
			}
		}
		return unreadable(failed)
	})
}

// fieldFlags defines --include-fields and --exclude-fields.
func (o *metaFormat) fieldFlags(f *pflag.FlagSet) {
	f.Var(&fieldSet{o, true}, "include-fields", "show these `FIELDS`, with commas between them")
	f.Var(&fieldSet{o, false}, "exclude-fields", "do not show these `FIELDS`")
}

// fieldSet is the value of an option that adds fields or takes them away.
type fieldSet struct {
	o       *metaFormat
	include bool
}

// Set adds or takes away the fields of a list.
func (s *fieldSet) Set(list string) error {
	if s.o.fields == nil {
		s.o.fields = make(map[string]bool)
		for _, f := range metaFields {
			s.o.fields[f] = !s.include
		}
	}
	for f := range strings.SplitSeq(list, ",") {
		if !slices.Contains(metaFields, f) {
			return fmt.Errorf("there is no field %q", f)
		}
		s.o.fields[f] = s.include
	}
	return nil
}

// Type says what kind of value it is.
func (s *fieldSet) Type() string { return "string" }

func (s *fieldSet) String() string { return "" }

// resolution is the value of --atime-resolution and its like.
type resolution struct {
	of   map[string]int64
	time string
}

// Set reads 10ns, ms, 100s.
func (r *resolution) Set(s string) error {
	units := map[string]int64{"s": 1e9, "ms": 1e6, "us": 1e3, "ns": 1}
	digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
	unit, ok := units[s[digits:]]
	n := int64(1)
	if digits > 0 {
		var err error
		n, err = strconv.ParseInt(s[:digits], 10, 32)
		ok = ok && err == nil && strings.Trim(s[1:digits], "0") == "" && s[0] == '1'
	}
	if !ok {
		return fmt.Errorf("%q is no resolution: s, ms, us and ns are, with a power of ten in front", s)
	}
	r.of[r.time] = n * unit
	return nil
}

// Type says what kind of value it is.
func (r *resolution) Type() string { return "string" }

func (r *resolution) String() string { return "" }

// readMeta reads all metadata of what a path names.
func readMeta(path string, names *meta.Names) (m meta.Meta, err error) {
	abs, err := sourcePath(path)
	if err != nil {
		return m, err
	}
	parent, base := filepath.Split(abs)
	dir, err := fsx.OpenDir(parent)
	if err != nil {
		return m, err
	}
	defer dir.Close()
	return metaIn(dir, base, names)
}

// metaIn is readMeta for a name in a directory, "" for the directory itself.
func metaIn(dir *fsx.Dir, name string, names *meta.Names) (m meta.Meta, err error) {
	if name == "" {
		st, err := dir.Stat()
		if err != nil {
			return m, err
		}
		return metaOf(dir.Fd(), st, names)
	}
	st, err := dir.Lstat(name)
	if err != nil {
		return m, err
	}
	switch st.Mode & meta.TypeMask {
	case meta.TypeDir:
		sub, err := dir.Open(name)
		if err != nil {
			return m, err
		}
		defer sub.Close()
		return metaIn(sub, "", names)
	case meta.TypeFile:
		file, st, err := dir.OpenFile(name)
		if err != nil {
			return m, err
		}
		defer file.Close()
		return metaOf(file.Fd(), st, names)
	}
	node, st, err := dir.OpenNode(name)
	if err != nil {
		return m, err
	}
	defer node.Close()
	if m, err = metaOf(node.Fd(), st, names); err == nil && m.Type() == meta.TypeSymlink {
		m.Symlink, err = dir.Readlink(name)
	}
	return m, err
}

// metaOf is what a descriptor tells. Archives of metadata record the size of everything.
func metaOf(fd int, st fsx.Stat, names *meta.Names) (m meta.Meta, err error) {
	m = meta.FromStat(st, names)
	m.Size = st.Size
	m.Extras, err = meta.ReadExtras(fd, st, names)
	return m, err
}

// append appends a block of lines.
func (o *metaFormat) append(dst []byte, a *app, m *meta.Meta) []byte {
	line := func(field, format string, args ...any) {
		if o.fields == nil || o.fields[field] {
			dst = append(fmt.Appendf(append(dst, field+": "...), format, args...), '\n')
		}
	}
	raw := func(s string) string { return string(a.appendName(nil, s)) }
	line("path", "%s", raw(m.Path))
	line("mode", "%o (%s)", m.Mode, modeString(m.Mode))
	if m.Type() == meta.TypeSymlink {
		line("link-target", "%s", raw(m.Symlink))
	}
	if m.Rdev != 0 {
		major, minor := splitDevice(m.Rdev)
		line("rdev", "%d,%d", major, minor)
	} else {
		line("rdev", "0")
	}
	if m.Size >= 0 {
		line("size", "%d", m.Size)
	}
	line("uid", "%d", m.UID)
	line("gid", "%d", m.GID)
	line("user", "%s", raw(m.User))
	line("group", "%s", raw(m.Group))
	line("atime", "%s", o.time("atime", m.Atime))
	line("mtime", "%s", o.time("mtime", m.Mtime))
	line("ctime", "%s", o.time("ctime", m.Ctime))
	if m.Extras.Attr != 0 {
		line("linux-attr", "%x", m.Extras.Attr)
	}
	for _, x := range m.Extras.Xattrs {
		line("linux-xattr", "%s -> %s", raw(x.Name), raw(x.Value))
	}
	if acl := m.Extras.ACL; acl != nil && (o.fields == nil || o.fields["posix1e-acl"]) {
		dst = fmt.Appendf(dst, "posix1e-acl: %s\n\n", raw(acl.Access))
		if acl.Default != "" {
			dst = fmt.Appendf(dst, "posix1e-acl-default: %s\n\n", raw(acl.Default))
		}
	}
	return dst
}

// time writes seconds and, unless the resolution is coarser, nanoseconds.
func (o *metaFormat) time(which string, t fsx.Time) string {
	sec, nsec := t.Sec, int64(t.Nsec)
	if r := o.resolution[which]; r >= 1e9 {
		n := r / 1e9
		if sec %= n; sec < 0 {
			sec += n
		}
		return strconv.FormatInt(t.Sec-sec, 10)
	} else if r > 0 {
		nsec -= nsec % r
	}
	sign := ""
	if sec < 0 && nsec > 0 { // seconds are rounded down, the fraction counts up from there
		sec, nsec = sec+1, 1e9-nsec
		if sec == 0 {
			sign = "-"
		}
	}
	return fmt.Sprintf("%s%d.%09d", sign, sec, nsec)
}
