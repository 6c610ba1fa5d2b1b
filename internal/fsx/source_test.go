package fsx_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kedgebackup/kedge/internal/fsx"
)

func TestNextData(t *testing.T) {
	const k = 64 << 10 // at least a block of any file system here
	tests := []struct {
		name   string
		size   int64
		data   []int64 // numbers of the blocks of 64 KiB that hold data
		extent string  // as found
	}{
		{"empty", 0, nil, "0-0"},
		{"all data", 2 * k, []int64{0, 1}, "0-131072 131072-131072"},
		{"all hole", 1 << 40, nil, "1099511627776-1099511627776"},
		{"hole first", 3 * k, []int64{2}, "131072-196608 196608-196608"},
		{"hole last", 3 * k, []int64{0}, "0-65536 196608-196608"},
		{"between", 5 * k, []int64{1, 3}, "65536-131072 196608-262144 327680-327680"},
		{"odd size", k + 1, []int64{0}, "0-65536 65537-65537"},
	}
	for _, dir := range []string{t.TempDir(), inMemory(t)} {
		d := openDir(t, fsx.OpenDir, dir)
		for _, tt := range tests {
			file, err := os.Create(dir + "/f")
			must(t, err)
			must(t, file.Truncate(tt.size))
			for _, block := range tt.data {
				_, err := file.WriteAt([]byte(strings.Repeat("x", k)), block*k)
				must(t, err)
			}
			must(t, file.Sync()) // some file systems allocate, and tell, only then
			must(t, file.Close())
			src, _, err := d.OpenFile("f")
			must(t, err)
			var got []string
			for off := int64(0); ; {
				data, hole, err := src.NextData(off)
				must(t, err)
				got = append(got, fmt.Sprintf("%d-%d", data, hole))
				if data == hole {
					break
				}
				off = hole
			}
			if got := strings.Join(got, " "); got != tt.extent {
				t.Errorf("%s in %s: %s, want %s", tt.name, dir, got, tt.extent)
			}
			if data, hole, err := src.NextData(tt.size + 5); data != tt.size || hole != tt.size || err != nil {
				t.Errorf("%s behind the end: %d-%d, %v", tt.name, data, hole, err)
			}
			// The search moves the descriptor's offset, which must not move Read.
			if n, _ := src.Read(make([]byte, 10)); tt.size >= 10 && n != 10 {
				t.Errorf("%s: read %d bytes", tt.name, n)
			}
			must(t, src.Close())
		}
	}
}

// Where holes can't be asked for there is data everywhere.
func TestNextDataUnsupported(t *testing.T) {
	d := openDir(t, fsx.OpenDir, "/proc/sys/kernel")
	src, _, err := d.OpenFile("ostype")
	must(t, err)
	defer src.Close()
	data, hole, err := src.NextData(0)
	if data != 0 || hole != 0 || err != nil { // its size is 0
		t.Errorf("%d-%d, %v", data, hole, err)
	}
	if text, err := io.ReadAll(src); string(text) != "Linux\n" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
}

func TestSourceReadsConcurrently(t *testing.T) {
	dir := t.TempDir()
	want := strings.Repeat("0123456789", 1000)
	write(t, dir+"/f", want)
	src, _, err := openDir(t, fsx.OpenDir, dir).OpenFile("f")
	must(t, err)
	defer src.Close()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for off := 0; off < len(want); off += 77 {
				buf := make([]byte, 100)
				n, err := src.ReadAt(buf, int64(off))
				if end := min(off+100, len(want)); string(buf[:n]) != want[off:end] || errors.Is(err, io.EOF) != (n < 100) {
					t.Errorf("at %d: %d bytes, %v", off, n, err)
				}
			}
		})
	}
	wg.Wait()
}

// An O_PATH descriptor can't be read, and says so.
func TestNodeHasNoBytes(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/f", "data")
	node, _, err := openDir(t, fsx.OpenDir, dir).OpenNode("f")
	must(t, err)
	defer node.Close()
	if _, err := node.Read(make([]byte, 4)); !errors.Is(err, unix.EBADF) || !strings.Contains(err.Error(), "f: ") {
		t.Errorf("read: %v", err)
	}
	if _, _, err := node.NextData(0); !errors.Is(err, unix.EBADF) {
		t.Errorf("next data: %v", err)
	}
	if _, err := node.Readlink(); err == nil {
		t.Error("a file has a target")
	}
}
