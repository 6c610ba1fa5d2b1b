package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/kedgebackup/kedge/pack"
)

// memRepo is a Repo that can only be read, over objects in memory.
type memRepo struct {
	memObjects
	refs []Ref
	gets int // calls of Get
}

func (m *memRepo) Get(ctx context.Context, ids []pack.ID, fn func(int, pack.Type, []byte) error) error {
	m.gets++
	for _, i := range rand.Perm(len(ids)) {
		o, ok := m.memObjects[ids[i]]
		if !ok {
			return &MissingError{ids[i]}
		}
		// Bodies are valid until fn returns, and not a moment longer.
		body := slices.Clone(o.body)
		if err := fn(i, o.t, body); err != nil {
			return err
		}
		for k := range body {
			body[k] ^= 0xff
		}
	}
	return ctx.Err()
}

func (m *memRepo) Missing(_ context.Context, dst, ids []pack.ID) ([]pack.ID, error) {
	return dst, errors.ErrUnsupported
}

func (m *memRepo) Refs(_ context.Context, prefix string) (out []Ref, _ error) {
	for _, r := range m.refs {
		if strings.HasPrefix(r.Name, prefix) {
			out = append(out, r)
		}
	}
	return out, nil
}

func (m *memRepo) SetRef(context.Context, Move) (pack.ID, error) {
	return pack.ID{}, errors.ErrUnsupported
}

func (m *memRepo) Begin(context.Context) (Session, error) { return nil, errors.ErrUnsupported }

func (m *memRepo) Close() error { return nil }

func (m memObjects) blob(n int) pack.ID {
	id, _ := m.add(pack.Blob, streamS(n))
	return id
}

// treeOf stores a tree of "mode name" with ids, in the order given.
func (m memObjects) treeOf(list ...any) pack.ID {
	var e []TreeEntry
	for i := 0; i < len(list); i += 2 {
		var t TreeEntry
		fmt.Sscanf(list[i].(string), "%o %s", &t.Mode, &t.Name)
		t.ID = list[i+1].(pack.ID)
		e = append(e, t)
	}
	id, _ := m.addTree(AppendTree(nil, e))
	return id
}

func TestFileContent(t *testing.T) {
	ctx := context.Background()
	s := streamS(3000000)
	for _, v := range []struct {
		chunker string
		data    []byte
	}{
		{"rollsum:13", nil},
		{"rollsum:13", s[:1]},
		{"rollsum:13", s[:5650]},
		{"rollsum:13", s[:112867]},
		{"rollsum:13", s[:300000]},
		{"rollsum:13", s},
		{"rollsum:13", vectorE()},
		{"rollsum:13", make([]byte, 600*32768+5)},
		{"rollsum:20", append(make([]byte, 9<<20), s...)},
	} {
		m := memRepo{memObjects: memObjects{}}
		e := m.splitN(t, v.chunker, v.data)
		f := OpenFile(ctx, &m, e.ID, e.Mode == ModeDir)
		if size, err := f.Size(); err != nil || size != int64(len(v.data)) {
			t.Errorf("%s of %d: size %d, %v", v.chunker, len(v.data), size, err)
		}
		var out bytes.Buffer
		if n, err := f.WriteTo(&out); err != nil || n != int64(len(v.data)) || !bytes.Equal(out.Bytes(), v.data) {
			t.Errorf("%s of %d: wrote %d, %v", v.chunker, len(v.data), n, err)
		}
		for range 50 {
			off := rand.IntN(len(v.data) + 2)
			p := make([]byte, rand.IntN(100000))
			n, err := f.ReadAt(p, int64(off))
			want := v.data[min(off, len(v.data)):min(off+len(p), len(v.data))]
			if !bytes.Equal(p[:n], want) || (err == nil) != (n == len(p)) || err != nil && err != io.EOF {
				t.Fatalf("%s of %d: ReadAt(%d, %d) = %d, %v", v.chunker, len(v.data), len(p), off, n, err)
			}
			out.Reset()
			if n, err := f.WriteRange(&out, int64(off), int64(len(p))); err != nil || n != int64(len(want)) || !bytes.Equal(out.Bytes(), want) {
				t.Fatalf("%s of %d: WriteRange(%d, %d) = %d, %v", v.chunker, len(v.data), off, len(p), n, err)
			}
		}
	}
}

// TestFileReaderAt holds File to what io promises for a ReaderAt.
func TestFileReaderAt(t *testing.T) {
	m := memRepo{memObjects: memObjects{}}
	data := streamS(35000)
	e := m.splitN(t, "rollsum:13", data)
	f := OpenFile(context.Background(), &m, e.ID, true)
	if err := iotest.TestReader(io.NewSectionReader(f, 0, int64(len(data))), data); err != nil {
		t.Error(err)
	}
	if _, err := f.ReadAt(make([]byte, 1), -1); err == nil || err == io.EOF {
		t.Errorf("negative offset: %v", err)
	}
	if _, err := f.WriteRange(io.Discard, -1, 1); err == nil {
		t.Error("negative offset is taken")
	}
}

func TestFileChunks(t *testing.T) {
	m := memRepo{memObjects: memObjects{}}
	e := m.splitN(t, "rollsum:13", streamS(300000))
	f := OpenFile(context.Background(), &m, e.ID, true)
	var sizes []int64
	var next int64
	err := f.Chunks(0, func(c Chunk) error {
		if c.Off != next {
			t.Errorf("chunk at %d, want %d", c.Off, next)
		}
		next = c.Off + c.Size
		sizes = append(sizes, c.Size)
		return nil
	})
	want := []int64{5649, 24823, 5080, 409, 1617, 8233, 359, 609, 32768, 3085, 1958, 499, 8229, 5087,
		4414, 1697, 8351, 550, 1555, 2974, 2168, 4709, 2790, 4455, 3956, 23193, 4787, 13737, 2299, 3304, 1723, 6877, 15180, 4234, 16261, 16937,
		5555, 15008, 13063, 164, 6767, 3294, 2385, -1}
	if err != nil || !slices.Equal(sizes, want) {
		t.Errorf("%v, sizes %d", err, sizes)
	}
	var from int64 = -1
	stop := errors.New("stop")
	if err := f.Chunks(100000, func(c Chunk) error { from = c.Off; return stop }); err != stop || from > 100000 || from < 100000-32768 {
		t.Errorf("chunks from 100000 begin at %d: %v", from, err)
	}
}

// TestFileBatches: a large file takes few questions, not one for each chunk.
func TestFileBatches(t *testing.T) {
	m := memRepo{memObjects: memObjects{}}
	e := m.splitN(t, "rollsum:13", streamS(20000000)) // 2473 chunks in 161 trees
	m.gets = 0
	if _, err := OpenFile(context.Background(), &m, e.ID, true).WriteTo(io.Discard); err != nil {
		t.Fatal(err)
	}
	if m.gets > 50 {
		t.Errorf("%d calls of Get", m.gets)
	}
}

func TestFileHostile(t *testing.T) {
	m := memRepo{memObjects: memObjects{}}
	b4, b10 := m.blob(4), m.blob(10)
	empty := m.blob(0)
	sub := m.treeOf("100644 0", b4, "100644 4", b4)
	deep := sub
	for range 100 {
		deep = m.treeOf("40000 0", deep)
	}
	wide := make([]TreeEntry, 0, 10000)
	for i := range 10000 {
		wide = append(wide, TreeEntry{ModeFile, fmt.Sprintf("%04x", i), b4})
	}
	wideID, _ := m.addTree(AppendTree(nil, wide))
	commit, _ := m.add(pack.Commit, []byte(signedCommit))
	for _, c := range []struct {
		name, want string
		root       pack.ID
	}{
		{"no entries", "without a chunk", m.treeOf()},
		{"begins late", "begin at offset 0x1", m.treeOf("100644 1", b4)},
		{"no number", `"x" is no offset`, m.treeOf("100644 x", b4)},
		{"upper case", `"0A" is no offset`, m.treeOf("100644 00", b10, "100644 0A", b4)},
		{"widths", `"04" is no offset`, m.treeOf("100644 0", b4, "100644 04", b4)},
		{"too wide", "is no offset", m.treeOf("100644 00000000000000000", b4)},
		{"above 2^63", "is no offset", m.treeOf("100644 0000000000000000", b4, "100644 8000000000000000", b4)},
		{"huge chunk", "chunk of 9223372036854775807 bytes", m.treeOf("100644 0000000000000000", b4, "100644 7fffffffffffffff", b4)},
		{"link", "mode 120000", m.treeOf("100644 0", b4, "120000 4", b4)},
		{"executable", "mode 100755", m.treeOf("100755 0", b4)},
		{"gap", "has 4 bytes, not 5", m.treeOf("100644 0", b4, "100644 5", b4)},
		{"overlap", "has 10 bytes, not 4", m.treeOf("100644 0", b10, "100644 4", b4)},
		{"below overlaps", "lies behind the end", m.treeOf("40000 0", sub, "100644 4", b4)},
		{"below leaves a gap", "has 4 bytes, not 6", m.treeOf("40000 0", sub, "100644 a", b4)},
		{"empty chunk", "is empty", m.treeOf("100644 0", b4, "100644 4", empty)},
		{"too deep", "deeper than 64", deep},
		{"too wide a tree", "too large", wideID},
		{"blob for a tree", "is a blob, not a tree", m.treeOf("40000 0", b4)},
		{"tree for a blob", "is a tree, not a blob", m.treeOf("100644 0", sub)},
		{"root is a blob", "is a blob, not a tree", b4},
		{"root is a commit", "is a commit, not a tree", commit},
	} {
		f := OpenFile(context.Background(), &m, c.root, true)
		_, err := f.WriteTo(io.Discard)
		var corrupt *pack.CorruptError
		if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: WriteTo: %v, want %q", c.name, err, c.want)
		}
		if _, err := f.ReadAt(make([]byte, 100), 0); !errors.As(err, &corrupt) {
			t.Errorf("%s: ReadAt: %v", c.name, err)
		}
		if _, err := f.ReadAt(make([]byte, 100), 5); err == nil {
			t.Errorf("%s: ReadAt(5) found nothing wrong", c.name)
		}
	}
	over := m.treeOf("40000 0000000000000000", sub, "100644 7ffffffffffffffe", b4)
	if _, err := OpenFile(context.Background(), &m, over, true).Size(); err == nil || !strings.Contains(err.Error(), "more than 2^63-1") {
		t.Errorf("size of more than 2^63-1 bytes: %v", err)
	}
	var missing *MissingError
	if _, err := OpenFile(context.Background(), &m, someID(77), false).WriteTo(io.Discard); !errors.As(err, &missing) {
		t.Errorf("missing blob: %v", err)
	}
}

func TestFileWriteError(t *testing.T) {
	m := memRepo{memObjects: memObjects{}}
	e := m.splitN(t, "rollsum:13", make([]byte, 20<<20))
	stop := errors.New("disk full")
	_, err := OpenFile(context.Background(), &m, e.ID, true).WriteTo(iotestWriter{stop})
	if err != stop {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := OpenFile(ctx, &m, e.ID, true).WriteTo(io.Discard); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

type iotestWriter struct{ err error }

func (w iotestWriter) Write([]byte) (int, error) { return 0, w.err }

// FuzzChunkTree reads files of which every tree comes from the fuzzer: whatever
// WriteTo accepts, Size and ReadAt agree with.
func FuzzChunkTree(f *testing.F) {
	b4 := pack.Sum(pack.Blob, streamS(4))
	f.Add(AppendTree(nil, []TreeEntry{{ModeFile, "0", b4}, {ModeFile, "4", b4}}), []byte(nil))
	sub := AppendTree(nil, []TreeEntry{{ModeFile, "0", b4}, {ModeFile, "4", b4}})
	f.Add(AppendTree(nil, []TreeEntry{{ModeDir, "0", pack.Sum(pack.Tree, sub)}, {ModeFile, "8", b4}}), sub)
	f.Fuzz(func(t *testing.T, root, sub []byte) {
		m := memRepo{memObjects: memObjects{}}
		m.blob(4)
		m.addTree(sub)
		id, _ := m.addTree(root)
		file := OpenFile(context.Background(), &m, id, true)
		var out bytes.Buffer
		n, err := file.WriteTo(&out)
		if err != nil {
			return
		}
		if size, err := file.Size(); err != nil || size != n {
			t.Fatalf("size %d, %v; wrote %d", size, err, n)
		}
		p := make([]byte, n+1)
		if k, err := file.ReadAt(p, 0); err != io.EOF || !bytes.Equal(p[:k], out.Bytes()) {
			t.Fatalf("ReadAt %d, %v", k, err)
		}
	})
}
