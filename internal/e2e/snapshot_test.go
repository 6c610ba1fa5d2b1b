package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A snapshot describes a tree as far as a restore must bring it back. It shares
// no code with what it tests.
type snapshot map[string]string

// take describes everything at and below root. Hard links are described by the
// first path of their set.
func take(t testing.TB, root string) snapshot {
	t.Helper()
	s := snapshot{}
	links := map[[2]uint64]string{}
	s.add(t, root, ".", links)
	return s
}

func (s snapshot) add(t testing.TB, dir, rel string, links map[[2]uint64]string) {
	path := dir + "/" + rel
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("lstat %q: %v", path, err)
	}
	d := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		key := [2]uint64{st.Dev, st.Ino}
		if first, ok := links[key]; ok {
			s[rel] = "hard link to " + first
			return
		}
		links[key] = rel
	}
	d += fmt.Sprintf(" mtime %d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
	switch kind {
	case unix.S_IFREG:
		d += fmt.Sprintf(" size %d sha256 %s", st.Size, hashFile(t, path))
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			t.Fatal(err)
		}
		d += fmt.Sprintf(" -> %q", target)
	case unix.S_IFCHR, unix.S_IFBLK:
		d += fmt.Sprintf(" dev %d", st.Rdev)
	}
	d += attributes(t, path, kind)
	s[rel] = d
	if kind == unix.S_IFDIR {
		for _, n := range names(t, path) {
			s.add(t, dir, rel+"/"+n, links)
		}
	}
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ns, err := f.Readdirnames(-1)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(ns)
	return ns
}

// hashFile hashes where a file has bytes that are not zero, and which: a hole and
// zeros that were written are the same, and a terabyte of holes costs nothing.
func hashFile(t testing.TB, path string) string {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NOATIME, 0)
	if err == unix.EPERM {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	}
	if err != nil {
		t.Fatalf("open %q: %v", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	h, buf, zero := sha256.New(), make([]byte, 1<<12), make([]byte, 1<<12)
	for off := int64(0); ; {
		data, err := unix.Seek(fd, off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		if err == nil && data > off {
			off = data &^ (1<<12 - 1)
		}
		n, err := f.ReadAt(buf, off)
		if n > 0 && string(buf[:n]) != string(zero[:n]) {
			fmt.Fprintf(h, "%d:", off)
			h.Write(buf[:n])
		}
		off += int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// userFlags are the inode flags that a user can set and a restore brings back.
const userFlags = 0x00000001 | 0x00000004 | 0x00000008 | 0x00000010 | 0x00000020 | 0x00000040 | 0x00000080

// attributes returns extended attributes, ACLs among them, and inode flags.
func attributes(t testing.TB, path string, kind uint32) (d string) {
	t.Helper()
	buf := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, buf)
	if err != nil && err != unix.ENOTSUP {
		t.Fatalf("llistxattr %q: %v", path, err)
	}
	keys := strings.Split(strings.TrimSuffix(string(buf[:max(n, 0)]), "\x00"), "\x00")
	slices.Sort(keys)
	for _, k := range keys {
		if k == "" {
			continue
		}
		v := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(path, k, v)
		if err != nil {
			t.Fatalf("lgetxattr %q %s: %v", path, k, err)
		}
		d += fmt.Sprintf(" %s=%x", k, v[:n])
	}
	if kind == unix.S_IFREG || kind == unix.S_IFDIR {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
		if err != nil {
			t.Fatalf("open %q: %v", path, err)
		}
		defer unix.Close(fd)
		if flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS); err == nil && flags&userFlags != 0 {
			d += fmt.Sprintf(" flags %x", flags&userFlags)
		}
	}
	return d
}

// same fails the test with the first differences between two snapshots.
func same(t testing.TB, want, got snapshot) {
	t.Helper()
	if diff := want.diff(got); len(diff) > 0 {
		t.Fatalf("%d paths differ:\n%s", len(diff), strings.Join(diff[:min(len(diff), 12)], "\n"))
	}
}

func (s snapshot) diff(got snapshot) (diff []string) {
	for p, w := range s {
		if g, ok := got[p]; !ok {
			diff = append(diff, fmt.Sprintf("%q is not there", p))
		} else if g != w {
			diff = append(diff, fmt.Sprintf("%q\n   is %s\n  not %s", p, g, w))
		}
	}
	for p := range got {
		if _, ok := s[p]; !ok {
			diff = append(diff, fmt.Sprintf("%q should not be there", p))
		}
	}
	slices.Sort(diff)
	return diff
}
