package pack

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// git runs git in dir, without the user's configuration, and returns what it prints.
func git(t testing.TB, dir string, stdin []byte, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "HOME="+t.TempDir(), "LC_ALL=C",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b",
		"GIT_AUTHOR_DATE=1700000000 +0000", "GIT_COMMITTER_DATE=1700000000 +0000")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, errs.Bytes())
	}
	return string(out)
}

// object is a test's idea of a git object.
type object struct {
	t    Type
	body []byte
}

// samples returns objects of all types and awkward sizes.
func samples(n int) []object {
	rnd := rand.New(rand.NewPCG(1, 2))
	objs := []object{{Blob, nil}, {Tree, nil}, {Blob, []byte("x")}}
	for i := range n {
		size := rnd.IntN(30000)
		switch i % 10 {
		case 0:
			size = []int{15, 16, 2047, 2048, 65534, 65535, 65536, 131070, 131071, 300000}[i/10%10]
		case 1:
			size = rnd.IntN(40)
		}
		b := make([]byte, size)
		if i%3 == 0 {
			for j := range b {
				b[j] = byte(rnd.Uint32())
			}
		} else {
			for j := range b {
				b[j] = "kedge saves trees\n"[(j*j/7+i)%18]
			}
		}
		b = append(b, fmt.Sprint(i)...)
		objs = append(objs, object{Blob, b})
	}
	tree := append([]byte("100644 f\x00"), Sum(Blob, nil).AppendBytes(nil)...)
	objs = append(objs, object{Tree, tree})
	commit := fmt.Appendf(nil, "tree %v\nauthor a <a@b> 1700000000 +0000\ncommitter a <a@b> 1700000000 +0000\n\nhello\n", Sum(Tree, tree))
	objs = append(objs, object{Commit, commit})
	tag := fmt.Appendf(nil, "object %v\ntype commit\ntag v\ntagger a <a@b> 1700000000 +0000\n\nt\n", Sum(Commit, commit))
	return append(objs, object{Tag, tag})
}

// writePack writes objects into dir as pack-….pack and .idx and returns the base name.
func writePack(t testing.TB, dir string, level int, objs []object) string {
	t.Helper()
	tmp := filepath.Join(dir, "tmp")
	f, err := os.Create(tmp)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := NewWriter(f)
	enc, h := NewEncoder(level), NewHasher()
	for _, o := range objs {
		b, crc := enc.Append(nil, o.t, o.body)
		if len(b) > EncodedLimit(len(o.body)) {
			t.Fatalf("%d bytes became %d, the limit is %d", len(o.body), len(b), EncodedLimit(len(o.body)))
		}
		id, err := h.Sum(o.t, o.body)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Add([]Entry{{ID: id, CRC: crc, Bytes: b}}); err != nil {
			t.Fatal(err)
		}
	}
	name, idx, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(dir, "pack-"+name.String())
	g, err := os.Create(base + ".idx")
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if _, err := idx.WriteTo(g); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, base+".pack"); err != nil {
		t.Fatal(err)
	}
	return base
}

// openPair opens base.idx and base.pack.
func openPair(t testing.TB, base string) (*Idx, *Pack) {
	t.Helper()
	return openIdxFile(t, base+".idx"), openPackFile(t, base)
}

func openFile(t testing.TB, name string) (*os.File, int64) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return f, fi.Size()
}

func openIdxFile(t testing.TB, name string) *Idx {
	t.Helper()
	f, size := openFile(t, name)
	x, err := OpenIdx(name, f, size)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func openPackFile(t testing.TB, base string) *Pack {
	t.Helper()
	f, size := openFile(t, base+".pack")
	sum, err := openIdxFile(t, base+".idx").PackSum()
	if err != nil {
		t.Fatal(err)
	}
	p, err := OpenPack(base+".pack", f, size, sum)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestGitReadsOurs lets git check and list packs that we wrote.
func TestGitReadsOurs(t *testing.T) {
	for _, level := range []int{0, 1, 6, 9} {
		t.Run(fmt.Sprint("level ", level), func(t *testing.T) {
			repo := t.TempDir()
			git(t, repo, nil, "init", "-q", "--bare", ".")
			objs := samples(200)
			base := writePack(t, filepath.Join(repo, "objects/pack"), level, objs)
			git(t, repo, nil, "fsck", "--full", "--strict")
			git(t, repo, nil, "index-pack", "--strict", "-o", filepath.Join(repo, "out.idx"), base+".pack")
			ours, err := os.ReadFile(base + ".idx")
			if err != nil {
				t.Fatal(err)
			}
			gits, err := os.ReadFile(filepath.Join(repo, "out.idx"))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(ours, gits) {
				t.Error("git index-pack makes another idx of our pack")
			}
			git(t, repo, nil, "verify-pack", base+".idx")
			want := map[ID]string{}
			for _, o := range objs {
				want[Sum(o.t, o.body)] = string(o.body)
			}
			for _, o := range gitObjects(t, repo) {
				id := Sum(o.t, o.body)
				if want[id] != string(o.body) {
					t.Errorf("git reads other bytes in %v", id)
				}
				delete(want, id)
			}
			if len(want) != 0 {
				t.Errorf("git misses %d objects", len(want))
			}
			checkPair(t, base, objs)
		})
	}
}

// checkPair reads a pack back with everything there is.
func checkPair(t *testing.T, base string, objs []object) {
	t.Helper()
	x, p := openPair(t, base)
	want := map[ID]object{}
	for _, o := range objs {
		want[Sum(o.t, o.body)] = o
	}
	if x.Len() != len(want) || p.Len() != len(want) {
		t.Fatalf("idx has %d objects, pack %d, want %d", x.Len(), p.Len(), len(want))
	}
	if err := x.Verify(p.end + idSize); err != nil {
		t.Fatal(err)
	}
	s := NewScratch(1 << 30)
	var offs []int64
	crcs := map[int64]uint32{}
	check := func(id ID, off int64) {
		typ, body, err := p.Object(s, off, x.Find)
		if err != nil {
			t.Fatal(err)
		}
		if o := want[id]; typ != o.t || !bytes.Equal(body, o.body) {
			t.Fatalf("%v: read a %v of %d bytes, want a %v of %d", id, typ, len(body), o.t, len(o.body))
		}
		n := len(body)
		typ, size, err := p.Header(s, off, x.Find)
		if err != nil || typ != want[id].t || size != int64(n) {
			t.Fatalf("%v: header says %v of %d bytes, %v", id, typ, size, err)
		}
	}
	for filtered := range 2 {
		for id := range want {
			off, ok, err := x.Find(id)
			if err != nil || !ok {
				t.Fatalf("%v not found: %v", id, err)
			}
			check(id, off)
			id.h[19]++
			if _, ok, err := x.Find(id); ok && want[id].t == 0 || err != nil {
				t.Fatalf("%v found: %v", id, err)
			}
		}
		if filtered == 0 {
			if err := x.BuildFilter(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := x.Records(func(r Record) error {
		check(r.ID, r.Off)
		offs = append(offs, r.Off)
		if !x.v1 {
			crcs[r.Off] = r.CRC
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(offs)
	for _, o := range [][]int64{nil, offs} {
		n := 0
		if err := p.Walk(s, o, x.Find, func(it *Item) error {
			n++
			if it.Err != nil {
				return it.Err
			}
			if w := want[Sum(it.Type, it.Body)]; w.t != it.Type || !bytes.Equal(w.body, it.Body) {
				return fmt.Errorf("object at %d is another", it.Off)
			}
			if crc, ok := crcs[it.Off]; ok && crc != it.CRC {
				return fmt.Errorf("object at %d has another CRC", it.Off)
			}
			return nil
		}); err != nil || n != len(want) {
			t.Fatalf("walk met %d of %d objects: %v", n, len(want), err)
		}
	}
}

// gitObjects returns all objects of a repository as git sees them.
func gitObjects(t testing.TB, repo string) (objs []object) {
	t.Helper()
	words := map[string]Type{"commit": Commit, "tree": Tree, "blob": Blob, "tag": Tag}
	out := git(t, repo, nil, "cat-file", "--batch-all-objects", "--batch")
	for len(out) > 0 {
		line, rest, _ := strings.Cut(out, "\n")
		var id, word string
		var n int
		if _, err := fmt.Sscan(line, &id, &word, &n); err != nil {
			t.Fatal(err)
		}
		objs = append(objs, object{words[word], []byte(rest[:n])})
		if got := Sum(words[word], objs[len(objs)-1].body); got.String() != id {
			t.Fatalf("Sum is %v, git says %v", got, id)
		}
		out = rest[n+1:]
	}
	return objs
}

// deltaRepo makes a repository whose one pack has chains of deltas.
func deltaRepo(t testing.TB) string {
	t.Helper()
	repo := t.TempDir()
	git(t, repo, nil, "init", "-q", ".")
	rnd := rand.New(rand.NewPCG(3, 4))
	text := make([]string, 3000)
	for i := range text {
		text[i] = fmt.Sprint(rnd.Uint64())
	}
	big := make([]byte, 200_000)
	for i := range big {
		big[i] = byte(rnd.Uint32())
	}
	var in bytes.Buffer
	for round := range 60 {
		text[rnd.IntN(len(text))] = fmt.Sprint("round ", round)
		big[rnd.IntN(len(big))]++
		data := func(b string) { fmt.Fprintf(&in, "data %d\n%s\n", len(b), b) }
		fmt.Fprintf(&in, "commit refs/heads/main\ncommitter a <a@b> %d +0000\n", 1700000000+round)
		data(fmt.Sprint("round ", round))
		in.WriteString("M 100644 inline text\n")
		data(strings.Join(text, "\n"))
		in.WriteString("M 100644 inline big\n")
		data(string(big))
	}
	in.WriteString("tag v1\nfrom refs/heads/main\ntagger a <a@b> 1700000000 +0000\ndata 5\na tag\n")
	git(t, repo, in.Bytes(), "fast-import", "--quiet", "--depth=0")
	git(t, repo, nil, "repack", "-q", "-adf", "--depth=50", "--window=60")
	return repo
}

// TestWeReadGits reads packs that git made, with deltas by offset and by id,
// and every form of idx that git writes.
func TestWeReadGits(t *testing.T) {
	repo := deltaRepo(t)
	objs := gitObjects(t, repo)
	dir := filepath.Join(repo, ".git/objects/pack")
	packs, err := filepath.Glob(filepath.Join(dir, "*.pack"))
	if err != nil || len(packs) != 1 {
		t.Fatal(packs, err)
	}
	base := strings.TrimSuffix(packs[0], ".pack")
	if verbose := git(t, repo, nil, "verify-pack", "-v", base+".idx"); !strings.Contains(verbose, "chain length = 30") {
		t.Fatalf("git made no long chains of deltas:\n%s", verbose[max(0, len(verbose)-1500):])
	}
	check := func(name string) func(t *testing.T) {
		return func(t *testing.T) { checkPair(t, name, objs) }
	}
	t.Run("git repack", check(base))
	for name, version := range map[string]string{"v1 idx": "1", "large offsets": "2,0x40"} {
		out := filepath.Join(t.TempDir(), "pack")
		if err := os.Link(base+".pack", out+".pack"); err != nil {
			t.Fatal(err)
		}
		git(t, repo, nil, "index-pack", "--index-version="+version, "-o", out+".idx", out+".pack")
		x := openIdxFile(t, out+".idx")
		if x.v1 != (version == "1") || (x.nbig > 0) != (version != "1") {
			t.Errorf("%s: v1 %v, %d large offsets", name, x.v1, x.nbig)
		}
		t.Run(name, check(out))
	}
	t.Run("deltas by id", func(t *testing.T) {
		out := filepath.Join(t.TempDir(), "ref")
		var ids strings.Builder
		for _, o := range objs {
			fmt.Fprintln(&ids, Sum(o.t, o.body))
		}
		// Without --delta-base-offset git writes REF_DELTA entries.
		name := git(t, repo, []byte(ids.String()), "-c", "repack.usedeltabaseoffset=false",
			"pack-objects", "-q", "--no-reuse-delta", "--window=60", out)
		base := out + "-" + strings.TrimSpace(name)
		x, p := openPair(t, base)
		refs := 0
		s := NewScratch(1 << 20)
		if err := x.Records(func(r Record) error {
			h, err := p.head(s, r.Off, x.Find)
			if h.kind == refDelta {
				refs++
				if _, _, err := p.Object(s, r.Off, nil); err == nil {
					t.Error("a delta by id was resolved without a look-up")
				}
			}
			return err
		}); err != nil || refs == 0 {
			t.Fatalf("%d deltas by id, %v", refs, err)
		}
		checkPair(t, base, objs)
	})
}
