package index

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"math"
	"slices"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// names are the names of a directory, in byte order once sorted. A million of
// them, of 20 bytes, take 36 MB: bytes in one arena, and 16 bytes each.
type names struct {
	arena []byte
	list  []nameRef
}

// A nameRef is a name in the arena, and in front of it what is compared first.
type nameRef struct {
	head uint64 // the bytes after what all names have in common, big-endian
	off  uint32
	len  uint16
	typ  uint8 // DT_*
	hide bool  // excluded
}

var errTooManyNames = errors.New("more names than the walk can sort")

func (n *names) reset() { n.arena, n.list = n.arena[:0], n.list[:0] }

func (n *names) add(name string, typ uint8) error {
	if len(n.arena) > math.MaxUint32-math.MaxUint16 || len(name) > math.MaxUint16 {
		return errTooManyNames
	}
	n.list = append(n.list, nameRef{off: uint32(len(n.arena)), len: uint16(len(name)), typ: typ})
	n.arena = append(n.arena, name...)
	return nil
}

func (n *names) bytes(i int) []byte {
	r := &n.list[i]
	return n.arena[r.off : r.off+uint32(r.len)]
}

// at returns a name, which belongs to the arena.
func (n *names) at(i int) string { return stringOf(n.bytes(i)) }

// sort puts the names in byte order. Most comparisons end with the eight bytes
// kept beside each name; what all names begin with would make these useless.
func (n *names) sort() {
	if len(n.list) < 2 {
		return
	}
	first, common := n.at(0), int(n.list[0].len)
	for i := 1; i < len(n.list) && common > 0; i++ {
		common = min(common, commonPrefix(first, n.at(i)))
	}
	for i := range n.list {
		n.list[i].head = headOf(n.bytes(i)[common:])
	}
	slices.SortFunc(n.list, func(a, b nameRef) int {
		if a.head != b.head {
			return cmp.Compare(a.head, b.head)
		}
		return bytes.Compare(n.arena[a.off:a.off+uint32(a.len)], n.arena[b.off:b.off+uint32(b.len)])
	})
}

func headOf(b []byte) uint64 {
	if len(b) >= 8 {
		return binary.BigEndian.Uint64(b)
	}
	var head [8]byte
	copy(head[:], b)
	return binary.BigEndian.Uint64(head[:])
}

// find returns the place of a name among the sorted ones.
func (n *names) find(name string) (int, bool) {
	return slices.BinarySearchFunc(n.list, name, func(r nameRef, name string) int {
		return cmp.Compare(stringOf(n.arena[r.off:r.off+uint32(r.len)]), name)
	})
}

func (n *names) has(name string) bool {
	_, ok := n.find(name)
	return ok
}

// read fills in the names of a directory, sorted. A file system that lists
// something that can be no name, or lists one twice, is damaged.
func (n *names) read(dir *fsx.Dir) error {
	n.reset()
	err := dir.Read(func(d fsx.DirName) error {
		if bytes.IndexByte(bytesOf(d.Name), '/') >= 0 {
			return errBadName
		}
		return n.add(d.Name, d.Type)
	})
	if err != nil {
		return err
	}
	n.sort()
	n.dedup()
	return nil
}

var errBadName = errors.New("the directory lists a name with a '/' in it: its file system is damaged")

// dedup drops names listed twice, as happens when a directory changes while it
// is read.
func (n *names) dedup() {
	n.list = slices.CompactFunc(n.list, func(a, b nameRef) bool {
		return a.head == b.head && a.len == b.len &&
			bytes.Equal(n.arena[a.off:a.off+uint32(a.len)], n.arena[b.off:b.off+uint32(b.len)])
	})
}
