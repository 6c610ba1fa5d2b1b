package remote

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/repotest"
)

// A server that dies in the middle of a session is an error that says so, in one line with
// what it said last, and stays one.
func TestBupDies(t *testing.T) {
	ctx := context.Background()
	home := t.TempDir()
	child := startBup(t, home)
	c := newBupClient(t, child, filepath.Join(home, "r"), Options{Create: new(CreateOptions)})
	save := repotest.NewSave("a", 5)
	if err := repotest.Store(ctx, c, save); err != nil {
		t.Fatal(err)
	}
	// What only the server can find out, here that git has locked the ref.
	lock := filepath.Join(home, "r/refs/heads/x.lock")
	if err := os.WriteFile(lock, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	move := repo.Move{Ref: "refs/heads/x", New: save.Commit}
	_, err := c.SetRef(ctx, move)
	if lost := new(LostError); !errors.As(err, &lost) {
		t.Fatal(err)
	}
	for _, want := range []string{"connection to bup lost", "fatal: ", "refs/heads/x.lock': File exists", "GitError: b'git update-ref' returned 128"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if text := err.Error(); strings.Contains(text, "\n") || strings.Contains(text, "Traceback") || strings.Contains(text, "main.py") {
		t.Errorf("a list of calls: %s", text)
	}
	if _, again := c.Refs(ctx, "refs/"); again != err {
		t.Errorf("later: %v", again)
	}
	// The next connection goes on by itself.
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
	c = newBupClient(t, startBup(t, home), filepath.Join(home, "r"), Options{})
	if id, err := c.SetRef(ctx, move); err != nil || id != save.Commit {
		t.Errorf("%v, %v", id, err)
	}
}

// A server that is killed in the middle of an upload: nothing of it is there afterwards,
// and the same can be sent again.
func TestBupKilled(t *testing.T) {
	ctx := context.Background()
	home := t.TempDir()
	child := startBup(t, home)
	c := newBupClient(t, child, filepath.Join(home, "r"), Options{Create: new(CreateOptions)})
	s, err := c.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	save := repotest.NewSave("a", 3000)
	if err := s.Add(ctx, repo.Data, save.Data[:2000]); err != nil {
		t.Fatal(err)
	}
	if err := child.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	err = s.Add(ctx, repo.Data, save.Data[2000:])
	if err == nil {
		err = s.Commit(ctx)
	}
	if lost := new(LostError); !errors.As(err, &lost) {
		t.Fatalf("%v", err)
	}
	if again := s.Commit(ctx); again == nil {
		t.Error("a commit succeeds afterwards")
	}
	_ = s.Close()
	c = newBupClient(t, startBup(t, home), filepath.Join(home, "r"), Options{})
	if lacks, err := c.Missing(ctx, nil, save.IDs()); err != nil || len(lacks) != len(save.IDs()) {
		t.Errorf("%d of %d are missing, %v", len(lacks), len(save.IDs()), err)
	}
	if err := repotest.Store(ctx, c, save); err != nil {
		t.Fatal(err)
	}
	if err := repotest.Check(ctx, c, save.IDs()); err != nil {
		t.Error(err)
	}
}

// checked checks a repository, and returns the kinds of what was found wrong.
func checked(t *testing.T, c *Client, o repo.CheckOptions) (repo.CheckResult, []repo.FindingKind, error) {
	t.Helper()
	var kinds []repo.FindingKind
	res, err := c.Check(context.Background(), o, func(f repo.Finding) {
		if f.Damage() {
			t.Log(f)
			kinds = append(kinds, f.Kind)
		}
	})
	if res.Damage != int64(len(kinds)) {
		t.Errorf("%d findings, and %d are counted", len(kinds), res.Damage)
	}
	return res, kinds, err
}

// Of a repository that only bup serves all is fetched and compared once.
func TestBupCheck(t *testing.T) {
	ctx := context.Background()
	home := t.TempDir()
	dir := filepath.Join(home, "r")
	o := Options{Create: new(CreateOptions), Cache: filepath.Join(home, "cache")}
	c := newBupClient(t, startBup(t, home), dir, o)
	a := repotest.NewSave("a", 300)
	b := repotest.NewSave("b", 20, a.Commit)
	other := repotest.NewSave("other", 7)
	old := make(map[string]pack.ID)
	for _, s := range []struct {
		ref  string
		save repotest.Save
	}{{"refs/heads/x", a}, {"refs/heads/x", b}, {"refs/heads/y", other}} {
		if err := repotest.Store(ctx, c, s.save); err != nil {
			t.Fatal(err)
		}
		if _, err := c.SetRef(ctx, repo.Move{Ref: s.ref, Old: old[s.ref], New: s.save.Commit}); err != nil {
			t.Fatal(err)
		}
		old[s.ref] = s.save.Commit
	}
	objects := func(saves ...repotest.Save) (n int64) {
		for _, s := range saves {
			n += int64(len(s.IDs()))
		}
		return n
	}
	clean := func(o repo.CheckOptions, want int64) {
		t.Helper()
		res, kinds, err := checked(t, c, o)
		if err != nil || len(kinds) > 0 || res.Objects != want || res.Packs != 3 {
			t.Errorf("%v: %+v, %v, want %d objects", o.Names, res, err, want)
		}
	}
	clean(repo.CheckOptions{}, objects(a, b, other))
	clean(repo.CheckOptions{Quick: true}, 0)
	clean(repo.CheckOptions{Names: []string{"y"}}, objects(other))
	clean(repo.CheckOptions{Names: []string{"x/latest"}}, objects(b))
	clean(repo.CheckOptions{Names: []string{"x/latest", "x"}}, objects(a, b))
	if _, _, err := checked(t, c, repo.CheckOptions{Names: []string{"z"}}); !errors.As(err, new(*repo.NotFoundError)) {
		t.Errorf("a name that is not there: %v", err)
	}

	// A damaged idx in the cache is none of the repository's.
	cached, _ := filepath.Glob(filepath.Join(o.Cache, "*/pack-*.idx"))
	if len(cached) != 3 {
		t.Fatalf("%d idx files in the cache", len(cached))
	}
	flip(t, cached[0], 1100)
	o.Create = nil
	c = newBupClient(t, startBup(t, home), dir, o)
	clean(repo.CheckOptions{}, objects(a, b, other))

	// One on the server is.
	packs, _ := filepath.Glob(filepath.Join(dir, "objects/pack/*.idx"))
	idx, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	flip(t, packs[0], -30)
	o.Cache = filepath.Join(home, "empty")
	c = newBupClient(t, startBup(t, home), dir, o)
	_, kinds, err := checked(t, c, repo.CheckOptions{Quick: true})
	if err != nil || !slices.Equal(kinds, []repo.FindingKind{repo.BadIdx}) {
		t.Errorf("damaged idx: %v, %v", kinds, err)
	}
	if err := os.WriteFile(packs[0], idx, 0o600); err != nil {
		t.Fatal(err)
	}

	// A pack that is gone is missed, each object that something names by itself.
	for _, name := range []string{packs[0], strings.TrimSuffix(packs[0], "idx") + "pack"} {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	c = newBupClient(t, startBup(t, home), dir, o)
	res, kinds, err := checked(t, c, repo.CheckOptions{})
	if err != nil || len(kinds) == 0 || slices.ContainsFunc(kinds, func(k repo.FindingKind) bool { return k != repo.Missing }) {
		t.Errorf("%+v, %v, %v", res, kinds, err)
	}
}

// flip turns a bit of a file, counted from its end if the offset is negative.
func flip(t *testing.T, name string, off int) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if off < 0 {
		off += len(text)
	}
	text[off] ^= 4
	if err := os.Chmod(name, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Objects that come with other bytes, or are nonsense, are found; those that a server
// itself cannot read end the connection in its own words.
func TestBupCheckBad(t *testing.T) {
	blob := pack.Sum(pack.Blob, []byte("hello\n"))
	tree := []byte("100644 a\x00" + string(blob.AppendBytes(nil)))
	odd := []byte("no tree at all")
	var b bytes.Buffer
	b.WriteString("Commands:\n    cat-batch\n    refs\n\nok\n" + "\nok\n") // help, read-ref
	b.WriteString("\n\nok\n")                                              // list-indexes
	refs := []struct {
		t    string
		id   pack.ID
		body string
	}{
		{"tree", pack.Sum(pack.Tree, odd), string(odd)},
		{"tree", pack.Sum(pack.Tree, tree), string(tree)},
	}
	for i, r := range refs {
		b.WriteString(r.id.String() + " refs/tags/t" + string(rune('0'+i)) + "\n")
	}
	b.WriteString("\n\nok\n")
	for _, r := range refs {
		b.WriteString(r.id.String() + " " + r.t + " " + strconv.Itoa(len(r.body)) + "\n" + r.body)
	}
	b.WriteString("\nok\n" + blob.String() + " blob 6\nhallo\n\nok\n")
	c, err := NewClient(context.Background(), &deaf{r: &b}, "", Options{FS: new(fsx.FS)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, kinds, err := checked(t, c, repo.CheckOptions{})
	if err != nil || !slices.Equal(kinds, []repo.FindingKind{repo.BadTree, repo.BadObject}) {
		t.Errorf("%v, %v", kinds, err)
	}
	if _, _, err = checked(t, c, repo.CheckOptions{}); !errors.As(err, new(*LostError)) {
		t.Errorf("a server that is gone: %v", err)
	}
}
