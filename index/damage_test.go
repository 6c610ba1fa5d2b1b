package index

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

// fewRecords writes a small index with everything in it, and returns its records
// and bytes. Blocks are made as small as they can be.
func fewRecords(t testing.TB, n int) (recs []Record, file []byte) {
	recs = randomRecords(rand.New(rand.NewPCG(7, 8)), n, true)
	for i := range recs {
		recs[i].Extras = recs[i].Extras[:min(len(recs[i].Extras), 20)]
		if len(recs[i].Extras) == 0 {
			recs[i].Extras = nil
		}
	}
	settle(recs)
	name := filepath.Join(t.TempDir(), "index")
	w := &writer{fs: &fsx.FS{}, name: name}
	for i := range recs {
		if err := w.append(&recs[i]); err != nil {
			t.Fatal(err)
		}
		if i%4 == 3 {
			if err := w.flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	e, err := w.finish()
	if err != nil {
		t.Fatal(err)
	}
	e.file.Close()
	file, err = os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return recs, file
}

// readAll opens a file and reads it in every way there is. What is read must be
// a front part of what the sound file holds, and an error tell of the rest.
func readAll(t *testing.T, name string, file []byte, want []Record) error {
	t.Helper()
	os.Remove(name) // to write over a file makes ext4 wait for the disk
	if err := os.WriteFile(name, file, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(&fsx.FS{}, name)
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := collect(f, "/")
	for i := range got {
		if i >= len(want) || !reflect.DeepEqual(got[i], want[i]) {
			t.Fatalf("a damaged file gives record %d as\n%+v", i, got[i])
		}
	}
	if err == nil && len(got) != len(want) {
		t.Fatalf("a damaged file has %d records, and no error", len(got))
	}
	if checkErr := f.Check(); (checkErr == nil) != (err == nil) {
		t.Fatalf("Check says %v, reading %v", checkErr, err)
	}
	return err
}

// TestFlips: every flip of every byte is detected.
func TestFlips(t *testing.T) {
	want, file := fewRecords(t, 14)
	name := filepath.Join(t.TempDir(), "index")
	if err := readAll(t, name, file, want); err != nil {
		t.Fatal(err)
	}
	for i := range file {
		for _, change := range []func(byte) byte{
			func(b byte) byte { return b ^ 0x01 },
			func(b byte) byte { return b ^ 0x80 },
			func(byte) byte { return 0 },
			func(byte) byte { return 0xff },
		} {
			damaged := append([]byte(nil), file...)
			if damaged[i] = change(file[i]); damaged[i] == file[i] {
				continue
			}
			err := readAll(t, name, damaged, want)
			var corrupt *pack.CorruptError
			if !errors.As(err, &corrupt) {
				t.Fatalf("byte %d from %02x to %02x: %v", i, file[i], damaged[i], err)
			}
			if corrupt.File != name {
				t.Fatalf("the error names %s", corrupt.File)
			}
		}
	}
}

// TestCuts: files cut short, grown, or with a part left out or twice.
func TestCuts(t *testing.T) {
	want, file := fewRecords(t, 14)
	name := filepath.Join(t.TempDir(), "index")
	for i := range file {
		for what, damaged := range map[string][]byte{
			"cut":     file[:i],
			"dropped": append(append([]byte(nil), file[:i]...), file[i+1:]...),
			"doubled": append(append([]byte(nil), file[:i+1]...), file[i:]...),
			"begun":   file[len(file)-i:],
		} {
			if err := readAll(t, name, damaged, want); err == nil && string(damaged) != string(file) {
				t.Fatalf("%s at %d: not detected", what, i)
			}
		}
	}
}

// TestTable: tables whose checksums are right, and that lie.
func TestTable(t *testing.T) {
	rec := Record{Path: "/b", Flags: Exists}
	var e encoder
	if err := e.append(&rec); err != nil {
		t.Fatal(err)
	}
	sound := block{size: len(e.buf), count: 1, crc: checksum(e.buf), last: "/b"}
	for name, c := range map[string]struct {
		blocks          []block
		claims, records int
	}{
		"sound":            {[]block{sound}, 1, 1},
		"count of blocks":  {[]block{sound}, 2, 1},
		"count of records": {[]block{sound}, 1, 2},
		"no block":         {nil, 0, 0},
		"huge block":       {[]block{{size: blockLimit + 1, count: 1, last: "/b"}}, 1, 1},
		"empty block":      {[]block{{size: 0, count: 1, last: "/a"}, sound}, 2, 2},
		"no records":       {[]block{{size: sound.size, count: 0, last: "/b", crc: sound.crc}}, 1, 0},
		"many records":     {[]block{{size: sound.size, count: 1 << 60, last: "/b", crc: sound.crc}}, 1, 1 << 60},
		"more records":     {[]block{{size: sound.size, count: 2, last: "/b", crc: sound.crc}}, 1, 2},
		"wrong path":       {[]block{{size: sound.size, count: 1, last: "/c", crc: sound.crc}}, 1, 1},
		"bad path":         {[]block{{size: sound.size, count: 1, last: "/b/", crc: sound.crc}}, 1, 1},
		"order": {[]block{{size: sound.size - 5, count: 1, last: "/c", crc: sound.crc},
			{size: 5, count: 1, last: "/b", crc: sound.crc}}, 2, 2},
	} {
		file := append(header(), e.buf...)
		off := int64(len(file))
		var table []byte
		for i := range c.blocks {
			table = appendTableEntry(table, &c.blocks[i])
		}
		file = append(file, table...)
		file = appendTail(file, off, c.claims, uint64(c.records), table)
		err := readAll(t, filepath.Join(t.TempDir(), "index"), file, []Record{rec})
		var corrupt *pack.CorruptError
		if name == "sound" && err != nil || name != "sound" && !errors.As(err, &corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSwappedBlocks: two blocks of one size and count in each other's place.
func TestSwappedBlocks(t *testing.T) {
	name := filepath.Join(t.TempDir(), "index")
	w := &writer{fs: &fsx.FS{}, name: name}
	for _, p := range []string{"/a", "/b"} {
		if err := w.append(&Record{Path: p}); err != nil {
			t.Fatal(err)
		}
		if err := w.flush(); err != nil {
			t.Fatal(err)
		}
	}
	e, err := w.finish()
	if err != nil {
		t.Fatal(err)
	}
	defer e.file.Close()
	a, b := e.blocks[0], e.blocks[1]
	if a.size != b.size {
		t.Fatal("the blocks are not alike")
	}
	file, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	n := int64(a.size)
	swapped := append([]byte(nil), file...)
	copy(swapped[a.off:], file[b.off:b.off+n])
	copy(swapped[b.off:], file[a.off:a.off+n])
	if err := readAll(t, name, swapped, nil); err == nil {
		t.Error("not detected")
	}
}

// TestVersion: another version is named. That of a file which is ours in all else
// is damaged, and no older version than ours is there.
func TestVersion(t *testing.T) {
	_, file := fewRecords(t, 3)
	for _, c := range []struct {
		version byte
		seal    byte
		damage  bool
	}{{2, 0, true}, {2, 1, false}, {0, 0, true}, {0, 1, true}} {
		other := append([]byte(nil), file...)
		other[len(magic)] = c.version
		other[len(other)-1] ^= c.seal
		err := readAll(t, filepath.Join(t.TempDir(), "index"), other, nil)
		var corrupt *pack.CorruptError
		var newer *VersionError
		if errors.As(err, &corrupt) != c.damage || errors.As(err, &newer) == c.damage {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestCheckCounts: Check finds what checksums can't.
func TestCheckCounts(t *testing.T) {
	valid, exists := Exists|Valid, Exists
	for name, c := range map[string]struct {
		recs []Record
		ok   bool
	}{
		"right":         {[]Record{{Path: "/a/b/c", Flags: valid}, {Path: "/a/d", Flags: valid}, {Path: "/a", Flags: valid, Below: 2}, {Path: "/z"}, {Path: "/", Below: 4}}, true},
		"few":           {[]Record{{Path: "/a/b"}, {Path: "/a"}}, false},
		"many":          {[]Record{{Path: "/a/b"}, {Path: "/a", Below: 2}}, false},
		"neighbour":     {[]Record{{Path: "/a/b"}, {Path: "/a-", Below: 1}}, false},
		"cousins":       {[]Record{{Path: "/a/b/c"}, {Path: "/a/d/e"}, {Path: "/a/d", Below: 1}, {Path: "/a", Below: 3}}, true},
		"not its own":   {[]Record{{Path: "/a/b/c"}, {Path: "/a/d/e"}, {Path: "/a/d", Below: 2}}, false},
		"invalid":       {[]Record{{Path: "/a/b", Flags: exists}, {Path: "/a", Flags: valid, Below: 1}}, false},
		"gone":          {[]Record{{Path: "/a/b"}, {Path: "/a", Flags: valid, Below: 1}}, false},
		"deep":          {[]Record{{Path: "/a/b/c/d"}, {Path: "/a/b/c", Below: 1}, {Path: "/a/b/e", Flags: valid}, {Path: "/a", Flags: valid, Below: 3}}, false},
		"other invalid": {[]Record{{Path: "/a/b"}, {Path: "/a", Below: 1}, {Path: "/b/b", Flags: valid}, {Path: "/b", Flags: valid, Below: 1}}, true},
	} {
		path := filepath.Join(t.TempDir(), "index")
		writeIndex(t, path, c.recs)
		f, err := Open(&fsx.FS{}, path)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Check(); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		f.Close()
	}
}

// FuzzOpen: any bytes end in records or in an error, and what Check passes
// survives being written again.
func FuzzOpen(f *testing.F) {
	_, small := fewRecords(f, 5)
	_, more := fewRecords(f, 24)
	f.Add(small)
	f.Add(more)
	f.Add(appendTail(header(), int64(headerSize), 0, 0, nil))
	dir := f.TempDir()
	// The checksums are made right, or nothing behind them would ever be tried.
	f.Fuzz(func(t *testing.T, file []byte) {
		file = resealed(file)
		name := filepath.Join(dir, fmt.Sprintf("index.%d", os.Getpid()))
		if err := os.WriteFile(name, file, 0o600); err != nil {
			t.Fatal(err)
		}
		ix, err := Open(&fsx.FS{}, name)
		if err != nil {
			return
		}
		defer ix.Close()
		recs, err := collect(ix, "/")
		rev := ix.Reverse("/")
		n := 0
		for rev.Next() {
			n++
		}
		ix.Lookup("/a/b")
		ix.Records("/a").Next()
		if checkErr := ix.Check(); checkErr != nil {
			return
		}
		if err != nil || n != len(recs) || rev.Err() != nil {
			t.Fatalf("Check passes a file that gives %d records and %v, backwards %d and %v", len(recs), err, n, rev.Err())
		}
		writeIndex(t, name, recs)
		equalRecords(t, contents(t, openIndex(t, name)), recs)
	})
}

// resealed puts right all checksums of a file that can be found.
func resealed(file []byte) []byte {
	file = append([]byte(nil), file...)
	if len(file) < headerSize+tailSize {
		return file
	}
	copy(file, header())
	tail := file[len(file)-tailSize:]
	off := int64(uint32(tail[0]) | uint32(tail[1])<<8)
	if off < int64(headerSize) || off > int64(len(file)-tailSize) {
		return file
	}
	table := file[off : len(file)-tailSize]
	d := decoder{b: table}
	pos, records, blocks := int64(headerSize), uint64(0), 0
	for d.pos < len(table) {
		size, count := int64(d.uvarint()), d.uvarint()
		crc := d.bytes(4)
		d.bytes(d.uvarint())
		if d.why != "" || size < 0 || size > off-pos {
			break
		}
		sum := checksum(file[pos : pos+size])
		crc[0], crc[1], crc[2], crc[3] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
		pos, records, blocks = pos+size, records+count, blocks+1
	}
	return appendTail(file[:len(file)-tailSize], off, blocks, records, table)
}
