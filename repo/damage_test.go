package repo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

// spoil changes a file of a repository, which nobody may write to.
func spoil(t *testing.T, file string, change func(b []byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := firstErr(os.Remove(file), os.WriteFile(file, change(slices.Clone(b)), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func flip(at int) func([]byte) []byte {
	return func(b []byte) []byte { b[at] ^= 0x10; return b }
}

// TestFlippedByte flips every byte of the packs and idx files of a save: what
// comes back is right or an error that names a file.
func TestFlippedByte(t *testing.T) {
	ctx := context.Background()
	p, dir := newRepo(t, InitOptions{})
	s := makeSave("a", 6)
	if _, err := s.save(ctx, p); err != nil {
		t.Fatal(err)
	}
	p.Close()
	files, _ := filepath.Glob(filepath.Join(dir, dirPacks, "pack-*"))
	if len(files) != 4 {
		t.Fatal(files)
	}
	for _, file := range files {
		good, _ := os.ReadFile(file)
		step := 1
		if strings.HasSuffix(file, ".idx") {
			step = 3
		}
		noticed := 0
		for i := 0; i < len(good); i += step {
			spoil(t, file, flip(i))
			if p, err := OpenDir(ctx, dir, DirOptions{ReadOnly: true}); err == nil {
				_, err = closure(ctx, p)
				if err == nil {
					_, err = p.Missing(ctx, nil, s.all())
				}
				if err != nil {
					noticed++
				}
				if err != nil && !isNamed(err) {
					t.Errorf("%s, byte %d: %v", file, i, err)
				}
				p.Close()
			}
			spoil(t, file, func([]byte) []byte { return good })
		}
		if noticed == 0 {
			t.Error("no damage noticed in", file)
		}
	}
}

// isNamed reports whether an error says that bytes are wrong or gone.
func isNamed(err error) bool {
	return errors.As(err, new(*pack.CorruptError)) || errors.As(err, new(*MissingError)) || errors.Is(err, pack.ErrTooLarge)
}

// TestDamageNamed: the error says which pack and where.
func TestDamageNamed(t *testing.T) {
	ctx := context.Background()
	p, dir := newRepo(t, InitOptions{})
	s := makeSave("a", 3)
	if err := s.store(ctx, p); err != nil {
		t.Fatal(err)
	}
	at, ok, err := p.find(p.table.Load(), s.blobs[1], nil)
	if err != nil || !ok {
		t.Fatal(err)
	}
	p.Close()
	spoil(t, filepath.Join(dir, at.file.packName()), flip(int(at.off)+6))
	p = openRepo(t, dir, DirOptions{})
	for _, ids := range [][]pack.ID{{s.blobs[1]}, s.blobs} {
		err = checkGet(ctx, p, ids)
		if c := new(pack.CorruptError); !errors.As(err, &c) || c.File != at.file.packName() || c.Off < at.off || c.Off > at.off+20 {
			t.Fatal(err)
		}
	}
	if err := checkGet(ctx, p, []pack.ID{s.blobs[0], s.blobs[2], s.tree}); err != nil {
		t.Fatal("objects beside the damaged one:", err)
	}
}

// plant publishes a pack as git or bup would, behind kedge's back.
func plant(t *testing.T, p *Packs, entries []pack.Entry) *packFile {
	t.Helper()
	out, err := p.dir.Create(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	w := pack.NewWriter(out)
	if err := w.Add(entries); err != nil {
		t.Fatal(err)
	}
	name, index, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	idx, err := p.dir.Create(context.Background())
	if err == nil {
		_, err = index.WriteTo(idx)
	}
	f := &packFile{name: "pack-" + name.String()}
	if err := firstErr(err, out.Commit(f.packName()), idx.Commit(f.idxName())); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestPoisoned: an object that is well encoded, but not what its id says, is
// neither read nor counted on.
func TestPoisoned(t *testing.T) {
	ctx := context.Background()
	p, _ := newRepo(t, InitOptions{})
	s := makeSave("a", 3)
	lie := entry(pack.Blob, []byte("poison"))
	lie.ID = s.blobs[1]
	// The first entry of a pack is a sample that its writer looks at.
	plant(t, p, []pack.Entry{s.entries[Data][0], lie, s.entries[Data][2], s.entries[Trees][0], s.entries[Trees][1]})
	for _, ids := range [][]pack.ID{{s.blobs[1]}, s.blobs} {
		if err := checkGet(ctx, p, ids); !errors.As(err, new(*pack.CorruptError)) {
			t.Fatal(err)
		}
	}
	missingOf(t, p, s.all(), s.blobs[1], s.tree, s.commit)
	if _, err := s.save(ctx, p); err != nil {
		t.Fatal(err)
	}
	missingOf(t, p, s.all())
	if err := checkGet(ctx, p, s.all()); err != nil {
		t.Fatal("the good copy is not read:", err)
	}
}

// TestOtherCopy: an object whose bytes are wrong in one pack is taken from
// another one.
func TestOtherCopy(t *testing.T) {
	ctx := context.Background()
	p, dir := newRepo(t, InitOptions{})
	a := makeSave("a", 3)
	if err := a.store(ctx, p); err != nil {
		t.Fatal(err)
	}
	// Two more packs with all three blobs and some more.
	for _, extra := range []string{"x", "y"} {
		plant(t, p, append([]pack.Entry{entry(pack.Blob, []byte(extra))}, a.entries[Data]...))
	}
	p.Close()
	p = openRepo(t, dir, DirOptions{})
	var packs []place
	for _, f := range p.table.Load().packs {
		if at, ok, err := p.findIn(f, a.blobs[1]); err != nil {
			t.Fatal(err)
		} else if ok {
			packs = append(packs, at)
		}
	}
	if len(packs) != 3 {
		t.Fatal(len(packs), "packs have the blob")
	}
	for i, at := range packs {
		p.Close()
		spoil(t, filepath.Join(dir, at.file.packName()), flip(int(at.off)+5))
		p = openRepo(t, dir, DirOptions{})
		err := checkGet(ctx, p, a.blobs)
		if i < 2 && err != nil {
			t.Fatalf("%d of 3 copies are damaged: %v", i+1, err)
		} else if i == 2 && err == nil {
			t.Fatal("all copies are damaged")
		}
	}
}

// TestOddPacks: files that do not belong together are passed over, with a warning.
func TestOddPacks(t *testing.T) {
	ctx := context.Background()
	for _, test := range []struct {
		name string
		odd  func(t *testing.T, dir, stem string)
	}{
		{"idx without a pack", func(t *testing.T, dir, stem string) { os.Remove(stem + ".pack") }},
		{"pack of length 0", func(t *testing.T, dir, stem string) {
			spoil(t, stem+".pack", func([]byte) []byte { return nil })
		}},
		{"truncated pack", func(t *testing.T, dir, stem string) {
			spoil(t, stem+".pack", func(b []byte) []byte { return b[:len(b)-3] })
		}},
		{"pack with another trailer", func(t *testing.T, dir, stem string) {
			spoil(t, stem+".pack", func(b []byte) []byte { return flip(len(b) - 1)(b) })
		}},
		{"pack that claims more objects", func(t *testing.T, dir, stem string) { spoil(t, stem+".pack", flip(10)) }},
		{"truncated idx", func(t *testing.T, dir, stem string) {
			spoil(t, stem+".idx", func(b []byte) []byte { return b[:len(b)-3] })
		}},
		{"idx of another pack", func(t *testing.T, dir, stem string) {
			files, _ := filepath.Glob(filepath.Join(dir, dirPacks, "*.idx"))
			for _, f := range files {
				if f != stem+".idx" {
					other, _ := os.ReadFile(f)
					spoil(t, stem+".idx", func([]byte) []byte { return other })
				}
			}
		}},
		{"idx that is no idx", func(t *testing.T, dir, stem string) {
			spoil(t, stem+".idx", func(b []byte) []byte { return []byte(strings.Repeat("x", len(b))) })
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, dir := newRepo(t, InitOptions{})
			s := makeSave("a", 3)
			if err := s.store(ctx, p); err != nil {
				t.Fatal(err)
			}
			at, _, _ := p.find(p.table.Load(), s.blobs[0], nil)
			test.odd(t, dir, filepath.Join(dir, dirPacks, at.file.name))
			p = openRepo(t, dir, DirOptions{})
			missingOf(t, p, s.all(), s.all()...) // the tree has lost its children
			if err := checkGet(ctx, p, s.blobs); !errors.As(err, new(*MissingError)) {
				t.Error("Get:", err)
			}
			warnings := p.Warnings()
			if test.name != "pack of length 0" && len(warnings) == 0 {
				t.Error("no warning")
			}
			for _, w := range warnings {
				if !strings.Contains(w.Error(), at.file.name) {
					t.Error(w)
				}
			}
			// The same save again makes all good, although a damaged file may
			// have the name of its pack, and although a process that asks for
			// the tree alone has not met the damage.
			q := openRepo(t, dir, DirOptions{})
			sess, err := q.Begin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer sess.Close()
			for _, class := range []Class{Trees, Data} {
				if err := sess.Add(ctx, class, s.entries[class]); err != nil && class == Data {
					t.Fatal(err)
				}
			}
			if err := sess.Commit(ctx); err != nil {
				t.Fatal(err)
			}
			for _, r := range []*Packs{p, q, openRepo(t, dir, DirOptions{})} {
				if _, err := s.save(ctx, r); err != nil {
					t.Fatal(err)
				}
				missingOf(t, r, s.all())
				if _, err := closure(ctx, r); err != nil {
					t.Fatal(err)
				}
			}
			fsck(t, dir)
		})
	}
}

// TestManyPacksOfOneSession wants a multi-pack-index before a session of many
// packs is over, and no pack of its own out of sight.
func TestManyPacksOfOneSession(t *testing.T) {
	ctx := context.Background()
	p, dir := newRepo(t, InitOptions{})
	small(p, 5, 0)
	sess, err := p.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer sess.Close()
	var all []pack.ID
	for i := range 3 * coverPacksMin {
		s := makeSave(fmt.Sprint(i), 5)
		if err := sess.Add(ctx, Data, s.entries[Data]); err != nil {
			t.Fatal(err)
		}
		for _, e := range s.entries[Data] {
			all = append(all, e.ID)
		}
		if got, err := sess.Missing(ctx, nil, all); err != nil || len(got) > 0 {
			t.Fatalf("after %d packs %d objects are missing: %v", i, len(got), err)
		}
	}
	if m := p.table.Load().midx; m == nil {
		t.Error("no multi-pack-index yet")
	}
	if err := sess.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	missingOf(t, p, all)
	git(t, dir, "multi-pack-index", "verify")
	if w := p.Warnings(); len(w) != 0 {
		t.Error(w)
	}
}

// TestManyPacks makes enough packs for a multi-pack-index, and lets it be
// wrong in several ways afterwards.
func TestManyPacks(t *testing.T) {
	ctx := context.Background()
	p, dir := newRepo(t, InitOptions{})
	file := filepath.Join(dir, fileMidx)
	var all, parents []pack.ID
	for i := range coverPacksMin {
		s := makeSave(fmt.Sprint(i), 5, parents...)
		if _, err := s.save(ctx, p); err != nil {
			t.Fatal(err)
		}
		parents = []pack.ID{s.commit}
		all = append(all, s.all()...)
	}
	if w := p.Warnings(); len(w) != 0 {
		t.Fatal(w)
	}
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal("no multi-pack-index:", err)
	}
	git(t, dir, "multi-pack-index", "verify")
	fsck(t, dir)
	check := func(what string) {
		t.Helper()
		for _, p := range []*Packs{p, openRepo(t, dir, DirOptions{})} {
			got, err := p.Missing(ctx, nil, all)
			if err != nil || len(got) != 0 {
				t.Fatal(what, len(got), err)
			}
			if err := checkGet(ctx, p, all); err != nil {
				t.Fatal(what, err)
			}
		}
	}
	check("fresh")
	if m := p.table.Load().midx; m == nil || len(p.table.Load().midxPacks) < coverPacksMin {
		t.Fatal("it is not used")
	}
	for i := 0; i < len(first); i += 13 {
		spoil(t, file, flip(i))
		q := openRepo(t, dir, DirOptions{})
		if got, err := q.Missing(ctx, nil, all); err != nil {
			t.Fatalf("byte %d of the multi-pack-index: %d missing, %v", i, len(got), err)
		}
		if err := checkGet(ctx, q, all); err != nil && !errors.As(err, new(*MissingError)) {
			t.Fatalf("byte %d of the multi-pack-index: %v", i, err)
		}
		q.Close()
		spoil(t, file, func([]byte) []byte { return first })
	}
	spoil(t, file, func([]byte) []byte { return nil })
	check("empty")
	os.Remove(file)
	check("gone")

	// One that names a pack which is gone is written anew by the next session.
	if err := os.WriteFile(file, first, 0o600); err != nil {
		t.Fatal(err)
	}
	lone := makeSave("lone", 2)
	if err := lone.store(ctx, p); err != nil {
		t.Fatal(err)
	}
	git(t, dir, "repack", "-adq")
	if err := os.WriteFile(file, first, 0o600); err != nil {
		t.Fatal(err)
	}
	check("stale")
	s := makeSave("after", 2)
	if err := s.store(ctx, p); err != nil {
		t.Fatal(err)
	}
	check("written anew")
	git(t, dir, "multi-pack-index", "verify")
}

// TestNoRoomForDerived: a multi-pack-index that cannot be written is no reason
// for a save to fail.
func TestNoRoomForDerived(t *testing.T) {
	ctx := context.Background()
	p, dir := newRepo(t, InitOptions{})
	p.Close()
	fs := &fsx.FS{Intercept: func(op fsx.Op, do func() error) error {
		if op.Kind == fsx.KindRename && strings.HasSuffix(op.To, "multi-pack-index") {
			return errors.New("no room")
		}
		return do()
	}}
	p = openRepo(t, dir, DirOptions{FS: fs})
	for i := range coverPacksMin {
		s := makeSave(fmt.Sprint(i), 2)
		if err := s.store(ctx, p); err != nil {
			t.Fatal(err)
		}
	}
	if w := p.Warnings(); len(w) != 1 || !strings.Contains(w[0].Error(), "no room") {
		t.Fatal(w)
	}
}

// TestOpenFiles: however many packs there are, only so many files are open.
func TestOpenFiles(t *testing.T) {
	ctx := context.Background()
	p, dir := newRepo(t, InitOptions{})
	small(p, 1, 0)
	sess, err := p.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s := makeSave("a", 150)
	if err := sess.Add(ctx, Data, s.entries[Data]); err != nil {
		t.Fatal(err)
	}
	if err := sess.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	sess.Close()
	p.Close()
	before := openDescriptors(t)
	q := openRepo(t, dir, DirOptions{})
	for range 2 {
		missingOf(t, q, s.blobs)
		if err := checkGet(ctx, q, s.blobs); err != nil {
			t.Fatal(err)
		}
		if n := openDescriptors(t) - before; n > maxOpenFiles+1 {
			t.Fatal(n, "files are open")
		}
	}
	q.Close()
	if n := openDescriptors(t) - before; n > 0 {
		t.Fatal(n, "files are open after Close")
	}
}

func openDescriptors(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(list)
}
