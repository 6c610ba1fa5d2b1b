package s3sync

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
)

// testID returns an id that begins with four bytes.
func testID(first uint32, rest byte) pack.ID {
	b := []byte{byte(first >> 24), byte(first >> 16), byte(first >> 8), byte(first)}
	id, _, _ := pack.CutID(append(b, bytes.Repeat([]byte{rest}, idWidth-4)...))
	return id
}

// memoryFile is a file in memory that is written anywhere.
type memoryFile []byte

func (m *memoryFile) WriteAt(p []byte, off int64) (int, error) {
	if n := int(off) + len(p); n > len(*m) {
		*m = append(*m, make([]byte, n-len(*m))...)
	}
	return copy((*m)[off:], p), nil
}

// segmentOf writes a segment of rows that are sorted.
func segmentOf(t testing.TB, packs []segmentPack, ids []pack.ID, at func(i int) (k int, off int64)) []byte {
	t.Helper()
	var f memoryFile
	h := &segmentHead{rows: int64(len(ids)), packs: packs}
	w := &segmentWriter{w: &f, head: h}
	_, w.at = headBytes(len(packs), h.rows)
	for i, id := range ids {
		k, off := at(i)
		if err := w.add(id, k, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.finish(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(h.append(nil), 0); err != nil {
		t.Fatal(err)
	}
	return f
}

// The bytes that the package's documentation shows.
func TestSegmentExample(t *testing.T) {
	packs := []segmentPack{{testID(0xaaaaaaaa, 0xaa), 0}, {testID(0xaaaaaaaa, 0xaa), 1}}
	ids := []pack.ID{testID(0x01020304, 1), testID(0xfffefdfc, 2)}
	b := segmentOf(t, packs, ids, func(i int) (int, int64) { return i, 12 + int64(i) })
	if int64(len(b)) != segmentBytes(2, 2) {
		t.Fatalf("%d bytes, not %d", len(b), segmentBytes(2, 2))
	}
	n, at := headBytes(2, 2)
	var text strings.Builder
	dump := func(from, to int64) {
		for ; from < to; from += 16 {
			fmt.Fprintf(&text, "//\t%05x  %s\n", from, spaced(b[from:min(to, from+16)]))
		}
	}
	dump(0, n)
	text.WriteString("//\t…\n")
	dump(at, int64(len(b)))
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), text.String()) {
		t.Errorf("doc.go does not show these bytes:\n%s", text.String())
	}
	if strings.Trim(string(b[n:at]), "\x00") != "" {
		t.Error("what stands before the pages is not zero")
	}
}

func spaced(b []byte) string {
	var words []string
	for part := range slices.Chunk(b, 4) {
		words = append(words, hex.EncodeToString(part))
	}
	return strings.Join(words, " ")
}

// Every id is found in the pages that the head names, whatever the number of rows, and also
// where many ids begin alike or one is in several packs.
func TestSegmentPages(t *testing.T) {
	packs := []segmentPack{{testID(1, 1), 0}, {testID(2, 2), 0}, {testID(2, 2), 1}}
	for _, n := range []int{1, 2, rowsPerPage - 1, rowsPerPage, rowsPerPage + 1, 5*rowsPerPage + 7} {
		for _, spread := range []uint32{1 << 31, 100, 1} {
			var ids []pack.ID
			for i := range n {
				ids = append(ids, testID(uint32(uint64(i)*uint64(spread)/uint64(n)), byte(i%251)))
			}
			slices.SortFunc(ids, pack.ID.Compare)
			b := segmentOf(t, packs, ids, func(i int) (int, int64) { return i % 3, int64(i) })
			h, err := parseSegmentHead(b, int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			find := func(id pack.ID) (all []spot) {
				lo, hi := h.pagesOf(id)
				for p := lo; p < hi; p++ {
					off, n := h.page(p)
					rows, err := checkPage(b[off:][:n])
					if err != nil {
						t.Fatal(err)
					}
					if _, err := h.spots(rows, id, func(s spot) bool { all = append(all, s); return false }); err != nil {
						t.Fatal(err)
					}
				}
				return all
			}
			for i, id := range ids {
				want := spot{packs[i%3].id, int64(packs[i%3].base)<<32 + int64(i)}
				if got := find(id); !slices.Contains(got, want) {
					t.Fatalf("%d rows, %v: %v, want %v", n, id, got, want)
				}
			}
			for _, id := range []pack.ID{testID(0, 255), testID(1<<32-1, 255), testID(spread/2, 254)} {
				if got := find(id); len(got) > 0 {
					t.Fatalf("%v, which is not there: %v", id, got)
				}
			}
		}
	}
}

// A head is read only as it is written, and no bytes make it fail in another way.
func FuzzSegment(f *testing.F) {
	packs := []segmentPack{{testID(1, 1), 0}, {testID(2, 2), 3}}
	ids := []pack.ID{testID(3, 1), testID(4, 2), testID(5, 3)}
	f.Add(segmentOf(f, packs, ids, func(i int) (int, int64) { return i % 2, 12 }))
	f.Add([]byte(segmentMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseSegmentHead(b, int64(len(b)))
		if err != nil {
			return
		}
		n, at := headBytes(len(h.packs), h.rows)
		if got := h.append(nil); !bytes.Equal(got[:n], b[:n]) || int64(len(got)) != at {
			t.Fatal("written again it is another head")
		}
		for _, v := range h.first {
			lo, hi := h.pagesOf(testID(v, 0))
			for p := lo; p < hi; p++ {
				off, n := h.page(p)
				if rows, err := checkPage(b[off:][:n]); err == nil {
					_, _ = h.spots(rows, testID(v, 0), func(spot) bool { return false })
				}
			}
		}
	})
}
