package index

import (
	"encoding/binary"
	"math/bits"
	"strings"
	"unsafe"
)

// A key is a path as the order and the file see it: the path itself, but for
// the root, which is empty. So each component of a key begins with '/', and a
// directory's key is a prefix of those of what lies below it.
func keyOf(path string) string {
	if path == "/" {
		return ""
	}
	return path
}

// pathOf is the reverse of keyOf. It allocates nothing.
func pathOf(key string) string {
	if key == "" {
		return "/"
	}
	return key
}

// Compare orders absolute, cleaned paths as records stand in a file: by the
// bytes of their components, and a directory after everything below it.
func Compare(a, b string) int { return compareKeys(keyOf(a), keyOf(b)) }

// Within reports whether path is dir, or lies below it.
func Within(path, dir string) bool { return within(keyOf(path), keyOf(dir)) }

func within(key, dir string) bool {
	return strings.HasPrefix(key, dir) && (len(key) == len(dir) || key[len(dir)] == '/')
}

// compareKeys is Compare for keys. Both are the same up to byte n; what comes
// next decides. An end there is an end of the component, or, if the other goes
// on with '/', of an ancestor.
func compareKeys(a, b string) int {
	n := commonPrefix(a, b)
	switch {
	case n == len(a) && n == len(b):
		return 0
	case n == len(a):
		if b[n] == '/' {
			return 1
		}
		return -1
	case n == len(b):
		if a[n] == '/' {
			return -1
		}
		return 1
	case a[n] == '/':
		return -1
	case b[n] == '/' || a[n] > b[n]:
		return 1
	}
	return -1
}

// commonPrefix returns how many bytes a and b have in common at their front. It
// goes by words, because paths of deep trees are long.
func commonPrefix(a, b string) int {
	n := min(len(a), len(b))
	x, y := bytesOf(a)[:n], bytesOf(b)[:n]
	i := 0
	for ; i+8 <= n; i += 8 {
		if d := binary.LittleEndian.Uint64(x[i:]) ^ binary.LittleEndian.Uint64(y[i:]); d != 0 {
			return i + bits.TrailingZeros64(d)/8
		}
	}
	for i < n && x[i] == y[i] {
		i++
	}
	return i
}

// stringOf and bytesOf look at the same memory in the other form. Iterators use
// them to hand out a million paths without a million allocations; what they
// give is therefore valid only until its owner changes the bytes.
func stringOf(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// checkOrder returns what is wrong with the place of a path, "" if nothing is.
// It shares its first bytes with the path before, prev, and goes on with suffix.
func checkOrder(prev string, shared int, suffix string) string {
	switch {
	case suffix == "": // an ancestor
		if shared < len(prev) && prev[shared] == '/' {
			return ""
		}
	case suffix[0] == '/': // below prev, or cut short after less than is the same
	case shared == len(prev) || prev[shared] == '/' || prev[shared] < suffix[0]:
		return ""
	}
	return "records out of order"
}

// checkClean returns what is wrong with the components of a key that end at or
// after byte from, "" if nothing is.
func checkClean(key string, from int) string {
	for i := from; i < len(key); i++ {
		if key[i] == 0 {
			return "NUL byte in a path"
		}
		if key[i] == '/' && i > 0 && badComponent(key[:i]) {
			return "path is not clean"
		}
	}
	if key != "" && (key[0] != '/' || badComponent(key)) {
		return "path is not clean"
	}
	return ""
}

// badComponent reports whether the last component of a key is empty, "." or "..".
func badComponent(key string) bool {
	return key[len(key)-1] == '/' || strings.HasSuffix(key, "/.") || strings.HasSuffix(key, "/..")
}

// parentKey returns the key of the directory that a key other than the root's
// lies in.
func parentKey(key string) string { return key[:strings.LastIndexByte(key, '/')] }
