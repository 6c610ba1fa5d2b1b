package repo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo/meta"
)

// writePack puts objects into a pack of a repository without any question asked.
func writePack(t testing.TB, dir string, objects memObjects) string {
	t.Helper()
	var entries []pack.Entry
	enc := pack.NewEncoder(1)
	for id, o := range objects {
		b, crc := enc.Append(nil, o.t, o.body)
		entries = append(entries, pack.Entry{ID: id, CRC: crc, Bytes: b})
	}
	slices.SortFunc(entries, func(a, b pack.Entry) int { return a.ID.Compare(b.ID) })
	f, err := os.CreateTemp(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := pack.NewWriter(f)
	if err := w.Add(entries); err != nil {
		t.Fatal(err)
	}
	name, idx, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	stem := filepath.Join(dir, dirPacks, "pack-"+name.String())
	out, err := os.Create(stem + ".idx")
	if err == nil {
		_, err = idx.WriteTo(out)
	}
	if err := firstErr(err, out.Close(), os.Rename(f.Name(), stem+".pack")); err != nil {
		t.Fatal(err)
	}
	return stem
}

// check runs Check and returns its findings as lines.
func check(t testing.TB, dir string, o CheckOptions) (CheckResult, []string) {
	t.Helper()
	p, err := OpenDir(context.Background(), dir, DirOptions{ReadOnly: true})
	if err != nil {
		return CheckResult{Damage: 1}, []string{err.Error()}
	}
	defer p.Close()
	var lines []string
	o.Zone = time.UTC
	res, err := Check(context.Background(), p, o, func(f Finding) { lines = append(lines, f.String()) })
	if err != nil {
		t.Fatalf("Check: %v, after %q", err, lines)
	}
	return res, lines
}

// wholeTree makes a save with all that a check looks at.
func (m memObjects) wholeTree(t testing.TB) pack.ID {
	rec := func(mode uint32) []byte { return (&meta.Meta{Mode: mode, Size: -1}).Append(nil) }
	s := streamS(1000000)
	big := m.splitN(t, "rollsum:13", s)
	w := m.dirWriter(t)
	sub, err := w.Write(rec(0o040755), []DirEntry{
		{Name: "inner", Mode: ModeFile, ID: m.blob(77), Meta: rec(0o100644)},
		{Name: "larger", Mode: big.Mode, Chunked: true, ID: m.splitN(t, "rollsum:13", s[:300000]).ID, Meta: rec(0o100644)}})
	if err != nil {
		t.Fatal(err)
	}
	var many []DirEntry
	for i := range 2000 {
		many = append(many, DirEntry{Name: fmt.Sprintf("f%04d", i), Mode: ModeFile, ID: m.blob(i % 40), Meta: rec(0o100600)})
	}
	manyID, err := w.Write(rec(0o040700), many)
	if err != nil {
		t.Fatal(err)
	}
	root, err := w.Write(rec(0o040755), []DirEntry{
		{Name: "big", Mode: big.Mode, Chunked: true, ID: big.ID, Meta: rec(0o100644)},
		{Name: "link", Mode: ModeSymlink, ID: m.link("big"), Meta: rec(0o120777)},
		{Name: "many", Mode: ModeDir, ID: manyID},
		{Name: "sub", Mode: ModeDir, ID: sub}})
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// checkedRepo is a repository of two names with three saves in all, its data in
// one pack and the rest in another, and what is in it.
func checkedRepo(t testing.TB) (dir string, m *memRepo, dataPack, treePack string) {
	t.Helper()
	_, dir = newRepo(t, InitOptions{})
	m = &memRepo{memObjects: memObjects{}}
	root := m.wholeTree(t)
	older := m.treeOf("100644 only", m.blob(4))
	old := m.commit(older, 1699999999)
	m.setRef("refs/heads/host", m.commit(root, 1700000000, old))
	m.setRef("refs/heads/other", m.commit(older, 1700000001))
	data, trees := memObjects{}, memObjects{}
	for id, o := range m.memObjects {
		if o.t == pack.Blob {
			data[id] = o
		} else {
			trees[id] = o
		}
	}
	dataPack, treePack = writePack(t, dir, data), writePack(t, dir, trees)
	for _, r := range m.refs {
		git(t, dir, "update-ref", r.Name, r.ID.String())
	}
	return dir, m, dataPack, treePack
}

func TestCheckClean(t *testing.T) {
	dir, m, _, _ := checkedRepo(t)
	fsck(t, dir)
	res, lines := check(t, dir, CheckOptions{})
	if len(lines) > 0 || res.Objects != int64(len(m.memObjects)) || res.Packs != 2 || res.Trees < 10 {
		t.Errorf("%+v, %q", res, lines)
	}
	if res, lines := check(t, dir, CheckOptions{Quick: true, Workers: 3}); len(lines) > 0 || res.Packs != 2 || res.Objects != 0 {
		t.Errorf("quick: %+v, %q", res, lines)
	}
	res, lines = check(t, dir, CheckOptions{Names: []string{"other", "host/2023-11-14-221319"}})
	if len(lines) > 0 || res.Objects != 4 { // two commits, a tree, a blob
		t.Errorf("names: %+v, %q", res, lines)
	}
	p := openRepo(t, dir, DirOptions{ReadOnly: true})
	_, err := Check(context.Background(), p, CheckOptions{Names: []string{"hots"}}, nil)
	if nf := (*NotFoundError)(nil); !errors.As(err, &nf) || !slices.Equal(nf.Near, []string{"host"}) {
		t.Errorf("unknown name: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Check(ctx, p, CheckOptions{}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestCheckCloses: a check of a repository that others made proves its packs.
func TestCheckCloses(t *testing.T) {
	dir, _, _, _ := checkedRepo(t)
	p := openRepo(t, dir, DirOptions{})
	var lines []string
	res, err := Check(context.Background(), p, CheckOptions{}, func(f Finding) { lines = append(lines, f.String()) })
	if err != nil || len(lines) > 0 || res.Closed != 2 {
		t.Fatalf("%+v, %v, %q", res, err, lines)
	}
	closed, err := p.dir.closedPacks()
	if err != nil || len(closed) != 2 {
		t.Errorf("closed %v, %v", closed, err)
	}
	if res, err := Check(context.Background(), p, CheckOptions{}, nil); err != nil || res.Closed != 0 {
		t.Errorf("again: %+v, %v", res, err)
	}
}

// TestCheckBup: repositories of bup's, as it left them and packed anew by git,
// with deltas, have nothing wrong.
func TestCheckBup(t *testing.T) {
	root := oddTree(t)
	dir := bupSave(t, root, "odd", "-d", "1700000000")
	bupAgain(t, dir, root, "odd", "-d", "1700000001")
	runBup(t, dir, "tag", "t", "odd")
	_, lines := check(t, dir, CheckOptions{})
	if len(lines) > 0 {
		t.Errorf("made by bup: %q", lines)
	}
	git(t, dir, "repack", "-adq", "--depth=20")
	if out := git(t, dir, "count-objects", "-v"); !strings.Contains(out, "packs: 1") {
		t.Fatal(out)
	}
	res, lines := check(t, dir, CheckOptions{})
	if len(lines) > 0 || res.Objects == 0 {
		t.Errorf("packed by git: %+v, %q", res, lines)
	}
	if _, lines := check(t, dir, CheckOptions{Names: []string{"odd/latest"}}); len(lines) > 0 {
		t.Errorf("one save: %q", lines)
	}
	packs, err := filepath.Glob(filepath.Join(dir, dirPacks, "*.pack"))
	if err != nil || len(packs) != 1 {
		t.Fatal(packs, err)
	}
	os.Remove(strings.TrimSuffix(packs[0], ".pack") + ".idx")
	git(t, dir, "index-pack", "--index-version=1", packs[0])
	if res, lines := check(t, dir, CheckOptions{}); len(lines) > 0 || res.Objects == 0 {
		t.Errorf("with an idx of version 1: %+v, %q", res, lines)
	}
}

// TestPackLister: a pack is listed whole in parts of any size, and what is wrong
// with the places is said.
func TestPackLister(t *testing.T) {
	dir, m, dataPack, _ := checkedRepo(t)
	p := openRepo(t, dir, DirOptions{ReadOnly: true})
	c := &checker{p: p, ctx: context.Background()}
	if err := firstErr(p.refresh(c.ctx), c.openPacks()); err != nil {
		t.Fatal(err)
	}
	cp := c.packs[slices.IndexFunc(c.packs, func(cp *countedPack) bool { return cp.name == filepath.Base(dataPack) })]
	for _, most := range []int{1, 2, 7, 100, 100000} {
		l := packLister{cp: cp, most: most}
		var part partBuffer
		end, n := int64(12), 0
		for l.at < cp.size {
			if err := l.next(&part); err != nil || l.reason != "" || len(part.recs) > 2*most {
				t.Fatalf("parts of %d: %d in one, %v, %q", most, len(part.recs), err, l.reason)
			}
			for i, r := range part.recs {
				if i == 0 && r.off != end || m.memObjects[r.id].t != pack.Blob {
					t.Fatalf("parts of %d: object at %d, not at %d", most, r.off, end)
				}
				n++
			}
			if len(part.recs) > 0 {
				end = part.end
			}
		}
		if n != cp.own.idx.Len() || end != cp.size-packTrailer {
			t.Errorf("parts of %d: %d objects of %d up to %d", most, n, cp.own.idx.Len(), end)
		}
	}
	l := packLister{}
	l.check(&partBuffer{recs: []placed{{off: 13}}})
	if !strings.Contains(l.reason, "beginning") {
		t.Errorf("gap: %q", l.reason)
	}
	l.check(&partBuffer{recs: []placed{{off: 12}, {off: 40}, {off: 40}}})
	if !strings.Contains(l.reason, "one place") {
		t.Errorf("two in one place: %q", l.reason)
	}
}

// TestCheckFlips: no byte of a pack or an idx can change unnoticed, and what the
// check calls damaged is no less than what git finds.
func TestCheckFlips(t *testing.T) {
	dir, _, dataPack, treePack := checkedRepo(t)
	r := rand.New(rand.NewPCG(1, 1))
	for _, file := range []string{dataPack + ".pack", treePack + ".pack", dataPack + ".idx", treePack + ".idx"} {
		good, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		os.Chmod(file, 0o644)
		places := []int{0, 4, 8, 11, 12, len(good) - 1, len(good) - 20, len(good) - 21, len(good) - 40}
		for range 25 {
			places = append(places, r.IntN(len(good)))
		}
		for _, at := range places {
			bad := slices.Clone(good)
			bad[at] ^= 1 << r.IntN(8)
			if err := os.WriteFile(file, bad, 0o644); err != nil {
				t.Fatal(err)
			}
			for _, quick := range []bool{true, false} {
				res, lines := check(t, dir, CheckOptions{Quick: quick})
				if res.Damage == 0 {
					t.Fatalf("%s: byte %d of %d changed, quick %v: %q", filepath.Ext(file), at, len(good), quick, lines)
				}
			}
		}
		for _, n := range []int{0, 1, 30, len(good) / 2, len(good) - 1} {
			if err := os.WriteFile(file, good[:n], 0o644); err != nil {
				t.Fatal(err)
			}
			if res, lines := check(t, dir, CheckOptions{}); res.Damage == 0 {
				t.Fatalf("%s: cut to %d of %d: %q", filepath.Ext(file), n, len(good), lines)
			}
		}
		if err := os.WriteFile(file, good, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if res, lines := check(t, dir, CheckOptions{}); res.Damage+res.Notes > 0 {
		t.Errorf("everything back in place: %q", lines)
	}
}

// flipObject spoils the bytes of one object in a pack.
func flipObject(t testing.TB, stem string, id pack.ID) {
	t.Helper()
	f, err := os.Open(stem + ".idx")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, _ := f.Stat()
	x, err := pack.OpenIdx("idx", f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	off, ok, err := x.Find(id)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	b, err := os.ReadFile(stem + ".pack")
	if err != nil {
		t.Fatal(err)
	}
	b[off+5] ^= 0x10
	os.Chmod(stem+".pack", 0o644)
	if err := os.WriteFile(stem+".pack", b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestCheckNames: damage is told by the paths and saves that it is behind.
func TestCheckNames(t *testing.T) {
	dir, m, dataPack, treePack := checkedRepo(t)
	chunkOf := func(n int) pack.ID { // a chunk that both large files have
		e := m.splitN(t, "rollsum:13", streamS(n))
		first := strings.Fields(m.tree(t, e.ID)[0])
		return mustID(strings.Fields(m.tree(t, mustID(first[2]))[3])[2])
	}
	shared := chunkOf(300000)
	flipObject(t, dataPack, shared)
	res, lines := check(t, dir, CheckOptions{})
	text := strings.Join(lines, "\n")
	for _, want := range []string{
		"pack objects/pack/" + filepath.Base(dataPack) + ".pack",
		"object objects/pack/" + filepath.Base(dataPack) + ".pack at ",
		"affected " + shared.String() + ` refs/heads/host 2023-11-14-221320 "/big"`,
		"affected " + shared.String() + ` refs/heads/host 2023-11-14-221320 "/sub/larger"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not said:\n%s", want, text)
		}
	}
	if res.Damage != 4 || strings.Contains(text, "refs/heads/other") {
		t.Errorf("%d findings:\n%s", res.Damage, text)
	}
	if _, lines := check(t, dir, CheckOptions{Names: []string{"other"}}); len(lines) > 0 {
		t.Errorf("a name that is not affected: %q", lines)
	}
	if _, lines := check(t, dir, CheckOptions{Names: []string{"host"}}); len(lines) != 3 {
		t.Errorf("a name that is affected: %q", lines)
	}
	// A second copy heals.
	good := memObjects{shared: m.memObjects[shared]}
	copied := writePack(t, dir, good)
	_, lines = check(t, dir, CheckOptions{})
	if text := strings.Join(lines, "\n"); !strings.Contains(text, "another pack has it whole") || strings.Contains(text, "affected") {
		t.Errorf("with a second copy:\n%s", text)
	}
	os.Remove(copied + ".pack")
	os.Remove(copied + ".idx")
	// A blob that two names and two saves have.
	flipObject(t, dataPack, m.blob(4))
	_, lines = check(t, dir, CheckOptions{})
	text = strings.Join(lines, "\n")
	for _, want := range []string{`refs/heads/host 2023-11-14-221319 "/only"`, `refs/heads/other 2023-11-14-221321 "/only"`, `2023-11-14-221320 "/many/f0004"`} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not said:\n%s", want, text)
		}
	}
	// All trees gone.
	os.Remove(treePack + ".idx")
	_, lines = check(t, dir, CheckOptions{})
	text = strings.Join(lines, "\n")
	for _, want := range []string{"pack without an idx", "missing " + m.refs[0].ID.String() + " refs/heads/host", "missing " + m.refs[1].ID.String() + " refs/heads/other"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not said:\n%s", want, text)
		}
	}
}

// TestCheckMissing compares with git what is missing when objects are taken away.
func TestCheckMissing(t *testing.T) {
	dir, m, dataPack, treePack := checkedRepo(t)
	var ids []pack.ID
	for id := range m.memObjects {
		if id != m.refs[0].ID && id != m.refs[1].ID {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, pack.ID.Compare)
	r := rand.New(rand.NewPCG(2, 2))
	for range 12 {
		for _, stem := range []string{dataPack, treePack} {
			os.Remove(stem + ".pack")
			os.Remove(stem + ".idx")
		}
		left := memObjects{}
		for id, o := range m.memObjects {
			left[id] = o
		}
		gone := ids[r.IntN(len(ids))]
		delete(left, gone)
		dataPack = writePack(t, dir, left)
		res, lines := check(t, dir, CheckOptions{})
		out, err := tryGit(dir, "fsck", "--connectivity-only")
		if (err == nil) != (res.Damage == 0) || (err != nil) != strings.Contains(strings.Join(lines, "\n"), "missing "+gone.String()) {
			t.Fatalf("without %v: %q\ngit says %s", gone, lines, out)
		}
		affected := 0
		for _, l := range lines {
			if strings.HasPrefix(l, "affected ") {
				affected++
			}
		}
		if res.Damage > 0 && affected == 0 && m.memObjects[gone].t != pack.Commit {
			t.Errorf("no path for %v: %q", gone, lines)
		}
	}
}

// TestCheckOthers: refs, the diary, strays.
func TestCheckOthers(t *testing.T) {
	dir, m, _, treePack := checkedRepo(t)
	p := openRepo(t, dir, DirOptions{})
	if _, err := p.SetRef(context.Background(), Move{Ref: "refs/heads/third", New: m.refs[1].ID}); err != nil {
		t.Fatal(err)
	}
	if _, lines := check(t, dir, CheckOptions{}); len(lines) > 0 {
		t.Fatalf("at first: %q", lines)
	}
	write := func(name, text string) {
		os.Remove(filepath.Join(dir, name))
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	receipts, err := os.ReadFile(filepath.Join(dir, fileReceipts))
	if err != nil {
		t.Fatal(err)
	}
	write("objects/pack/tmp_pack_x1", "x")
	write("objects/pack/"+filepath.Base(treePack)+".keep", "")
	write("objects/pack/pack-"+strings.Repeat("0", 40)+".idx", "x")
	write("objects/pack/bup.bloom", "x")
	res, lines := check(t, dir, CheckOptions{})
	text := strings.Join(lines, "\n")
	if res.Damage > 0 || res.Notes < 2 || !strings.Contains(text, "stray objects/pack/tmp_pack_x1") || !strings.Contains(text, "idx without its pack") ||
		strings.Contains(text, ".keep") || strings.Contains(text, "bloom") {
		t.Errorf("strays: %+v\n%s", res, text)
	}
	git(t, dir, "update-ref", "refs/heads/third", m.refs[0].ID.String())
	if res, lines := check(t, dir, CheckOptions{}); res.Damage > 0 || !strings.Contains(strings.Join(lines, "\n"), "moved") {
		t.Errorf("moved by git: %q", lines)
	}
	write(fileReceipts, strings.Replace(string(receipts), "heads/third", "heads/thirD", 1)+string(receipts))
	if res, lines := check(t, dir, CheckOptions{}); res.Damage == 0 || !strings.Contains(strings.Join(lines, "\n"), "receipts kedge/receipts") {
		t.Errorf("receipts: %q", lines)
	}
	write(fileReceipts, string(receipts))
	write("refs/heads/other", "no id\n")
	res, lines = check(t, dir, CheckOptions{})
	if text := strings.Join(lines, "\n"); res.Damage != 1 || !strings.Contains(text, "refs/heads/other") {
		t.Errorf("ref: %+v %s", res, text)
	}
	if _, _, err := resolveName(&VFS{Repo: p}, "host/latest/", ResolveOptions{}); err != nil {
		t.Errorf("beside a broken ref: %v", err)
	}
	if _, _, err := resolveName(&VFS{Repo: p}, "other", ResolveOptions{}); !errors.As(err, new(*pack.CorruptError)) {
		t.Errorf("a broken ref: %v", err)
	}
}

func TestBitmap(t *testing.T) {
	b := makeBitmap(70)
	for _, i := range []int{0, 31, 32, 69} {
		if b.has(i) || !b.add(i) || b.add(i) || !b.has(i) {
			t.Errorf("bit %d", i)
		}
	}
	if b.has(1) || b.has(68) {
		t.Error("neighbours are set")
	}
}
