package fsx

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

// dirent encodes a record of getdents64.
func dirent(ino uint64, typ uint8, name string) []byte {
	b := binary.NativeEndian.AppendUint64(nil, ino)
	b = binary.NativeEndian.AppendUint64(b, 99)
	size := (direntName + len(name) + 1 + 7) &^ 7
	b = binary.NativeEndian.AppendUint16(b, uint16(size))
	b = append(b, typ)
	b = append(b, name...)
	return append(b, make([]byte, size-len(b))...)
}

func TestDirents(t *testing.T) {
	good := append(append(append(dirent(1, 4, "."), dirent(2, 4, "..")...), dirent(3, 8, "name")...), dirent(4, 0, strings.Repeat("x", 255))...)
	var got []DirName
	l := new(listing)
	if err := l.each(good, func(n DirName) error { got = append(got, n); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0] != (DirName{"name", 8, 3}) || got[1] != (DirName{strings.Repeat("x", 255), 0, 4}) {
		t.Errorf("got %v", got)
	}
	bad := map[string][]byte{
		"cut":            good[:len(good)-1],
		"short":          good[:10],
		"length 0":       func() []byte { b := dirent(1, 0, "a"); b[direntLen], b[direntLen+1] = 0, 0; return b }(),
		"too long":       func() []byte { b := dirent(1, 0, "a"); b[direntLen], b[direntLen+1] = 200, 200; return b }(),
		"no end of name": func() []byte { b := dirent(1, 0, "aaaa"); return b }()[:],
		"no name":        dirent(1, 0, ""),
	}
	b := bad["no end of name"]
	for i := direntName; i < len(b); i++ {
		b[i] = 'a'
	}
	for name, raw := range bad {
		if err := l.each(raw, func(DirName) error { return nil }); !errors.Is(err, errDirent) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDirents(f *testing.F) {
	f.Add(append(dirent(1, 4, "."), dirent(2, 8, "file")...))
	f.Add(dirent(3, 0, strings.Repeat("n", 255)))
	f.Add([]byte("\x00\x01garbage garbage garbage"))
	l := new(listing)
	f.Fuzz(func(t *testing.T, raw []byte) {
		size := 0
		l.each(raw, func(n DirName) error {
			if n.Name == "" || n.Name == "." || n.Name == ".." || strings.IndexByte(n.Name, 0) >= 0 {
				t.Errorf("name %q", n.Name)
			}
			size += len(n.Name)
			return nil
		})
		if size > len(raw) {
			t.Errorf("%d bytes of names in %d", size, len(raw))
		}
	})
}
