package restore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// snapshot describes everything below a directory, and the directory itself as
// ".", so that two trees can be compared. Links are told by the first name of
// their set.
func snapshot(t testing.TB, top string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	inodes := make(map[uint64]string)
	err := filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		out[rel] = describe(t, path, rel, inodes)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func describe(t testing.TB, path, rel string, inodes map[uint64]string) string {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	s := fmt.Sprintf("mode=%o owner=%d:%d mtime=%d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			t.Fatal(err)
		}
		return s + " -> " + target
	case syscall.S_IFCHR, syscall.S_IFBLK:
		s += fmt.Sprintf(" rdev=%#x", st.Rdev)
	case syscall.S_IFREG:
		s += fmt.Sprintf(" size=%d sha=%x", st.Size, hashFile(t, path))
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFDIR && st.Nlink > 1 {
		first, ok := inodes[st.Ino]
		if !ok {
			first = rel
			inodes[st.Ino] = rel
		}
		s += " link=" + first
	}
	return s + xattrs(t, path)
}

func hashFile(t testing.TB, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return h.Sum(nil)[:8]
}

// xattrs lists extended attributes; ACLs are among them.
func xattrs(t testing.TB, path string) string {
	t.Helper()
	var buf [64 << 10]byte
	n, err := syscall.Listxattr(path, buf[:])
	if err != nil {
		if errors.Is(err, syscall.ENOTSUP) {
			return ""
		}
		t.Fatal(err)
	}
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	var s strings.Builder
	for _, name := range names {
		if name == "" || name == "security.selinux" {
			continue
		}
		n, err := syscall.Getxattr(path, name, buf[:])
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&s, " %s=%x", name, buf[:n])
	}
	return s.String()
}

// sameTrees compares two snapshots.
func sameTrees(t testing.TB, got, want map[string]string) {
	t.Helper()
	for path, w := range want {
		if g, ok := got[path]; !ok {
			t.Errorf("%q is missing", path)
		} else if g != w {
			t.Errorf("%q is\n  %s, should be\n  %s", path, g, w)
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok {
			t.Errorf("%q should not be there", path)
		}
	}
}

// events is what the functions of Options were told.
type events struct {
	seen []string
	warn []string
}

func (e *events) list() []string {
	slices.Sort(e.seen)
	return e.seen
}

// restored runs a restore and fails the test if it stops.
func restored(t testing.TB, o Options) (Result, *events) {
	t.Helper()
	res, e, err := try(o)
	if err != nil {
		t.Fatalf("restore of %v: %v\n%s", o.Paths, err, strings.Join(e.warn, "\n"))
	}
	return res, e
}

func try(o Options) (Result, *events, error) {
	e := &events{}
	o.Warn = func(path string, err error) { e.warn = append(e.warn, fmt.Sprintf("%s: %v", path, err)) }
	o.Seen = func(path string, what byte) { e.seen = append(e.seen, string(what)+" "+path) }
	res, err := Run(context.Background(), o)
	return res, e, err
}

// clean fails the test if anything was not restored.
func clean(t testing.TB, res Result, e *events) {
	t.Helper()
	if res.Errors != 0 || res.Withheld != 0 || len(e.warn) > 0 {
		t.Errorf("%+v\n%s", res, strings.Join(e.warn, "\n"))
	}
}

// scratch returns a directory on a file system with extended attributes.
func scratch(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if syscall.Setxattr(dir, "user.kedge", []byte("x"), 0) != nil {
		var err error
		if dir, err = os.MkdirTemp(".", "scratch-"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		if dir, err = filepath.Abs(dir); err != nil {
			t.Fatal(err)
		}
		if syscall.Setxattr(dir, "user.kedge", []byte("x"), 0) != nil {
			t.Skip("no file system with extended attributes at hand")
		}
	}
	syscall.Removexattr(dir, "user.kedge")
	return dir
}

func write(t testing.TB, path, body string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
		t.Fatal(err)
	}
}

func content(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
