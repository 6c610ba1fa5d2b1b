package job

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/repotest"
)

// nights is a server in which nights go by. Its saves are made by hand, so that they can be
// of any size.
type nights struct {
	t    testing.TB
	ctx  context.Context
	root string
	now  time.Time
	s    Server
}

func newNights(t testing.TB) *nights {
	n := &nights{t: t, ctx: context.Background(), root: filepath.Join(t.TempDir(), "root")}
	n.now = time.Date(2026, 1, 1, 22, 0, 0, 0, time.UTC)
	n.s.Root = n.root
	n.s.Defaults()
	n.check(os.MkdirAll(filepath.Join(n.root, ".kedge"), 0o700))
	return n
}

func (n *nights) check(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *nights) open(name string) *repo.Packs {
	n.t.Helper()
	dir := filepath.Join(n.root, name)
	if _, err := os.Stat(dir); err != nil {
		_, err := repo.InitDir(n.ctx, dir, repo.InitOptions{})
		n.check(err)
	}
	p, err := repo.OpenDir(n.ctx, dir, repo.DirOptions{Clock: func() time.Time { return n.now }})
	n.check(err)
	return p
}

// night is what a save by hand has.
type night struct {
	files, bytes, unreadable int64
	received                 int64
	skew                     time.Duration
	tree                     map[string][]string // directories "a/b" and the names in them
}

// save makes a save of a NAME.
func (n *nights) save(at, name string, v night) {
	n.t.Helper()
	p := n.open(at)
	defer p.Close()
	n.into(p, name, v)
}

func (n *nights) into(p *repo.Packs, name string, v night) {
	n.t.Helper()
	ref := heads + name
	var entries []pack.Entry
	add := func(t pack.Type, body []byte) pack.ID {
		e := repotest.Entry(t, body)
		entries = append(entries, e)
		return e.ID
	}
	if v.tree == nil {
		v.tree = map[string][]string{"etc": {fmt.Sprint("f", n.now.Unix())}}
	}
	var build func(at string) pack.ID
	build = func(at string) pack.ID {
		var list []repo.TreeEntry
		seen := make(map[string]bool)
		for dir, names := range v.tree {
			rest, below := strings.CutPrefix(dir, at)
			if at == dir+"/" {
				for _, f := range names {
					list = append(list, repo.TreeEntry{Mode: repo.ModeFile, Name: f, ID: add(pack.Blob, []byte(f))})
				}
			}
			if child, _, _ := strings.Cut(rest, "/"); below && child != "" && !seen[child] {
				seen[child] = true
				list = append(list, repo.TreeEntry{Mode: repo.ModeDir, Name: child, ID: build(at + child + "/")})
			}
		}
		list = append(list, repo.TreeEntry{Mode: repo.ModeFile, Name: ".bupm", ID: add(pack.Blob, []byte("meta"))})
		repo.SortTree(list)
		return add(pack.Tree, repo.AppendTree(nil, list))
	}
	who := repo.Signature{Who: "A B <a@b>", When: n.now.Add(v.skew)}
	c := repo.Commit{Tree: build(""), Author: who, Committer: who}
	c.Message = fmt.Sprintf("kedge save\n\nKedge-Host: web1\nKedge-Files: %d\nKedge-Bytes: %d\nKedge-Unreadable: %d\n", v.files, v.bytes, v.unreadable)
	refs, err := p.Refs(n.ctx, ref)
	n.check(err)
	var tip pack.ID
	for _, r := range refs {
		if r.Name == ref {
			tip = r.ID
			c.Parents = []pack.ID{r.ID}
		}
	}
	id := add(pack.Commit, c.Append(nil))
	s, err := p.Begin(n.ctx)
	n.check(err)
	defer s.Close()
	n.check(s.Add(n.ctx, repo.Trees, entries))
	n.check(s.Commit(n.ctx))
	_, err = p.SetRef(n.ctx, repo.Move{Ref: ref, Old: tip, New: id, Stats: repo.MoveStats{
		Objects: 3, Bytes: v.received, Seconds: 2, ClientTime: n.now.Add(v.skew).Unix(), Principal: "host",
	}})
	n.check(err)
}

func (n *nights) look() *Status {
	n.t.Helper()
	w := Watch{FS: new(fsx.FS), Server: &n.s, Now: n.now}
	s, err := w.Look(n.ctx, nil)
	n.check(err)
	return s
}

// problems returns "repo/name: kind" of all problems.
func (s *Status) brief() (list []string) {
	for _, p := range s.Problems {
		list = append(list, strings.TrimSuffix(p.Repo+"/"+p.Name, "/")+": "+string(p.Kind))
	}
	return list
}

func (n *nights) want(s *Status, problems ...string) {
	n.t.Helper()
	if got := s.brief(); !slices.Equal(got, problems) {
		n.t.Errorf("on %s the problems are\n%v, want\n%q", n.now.Format(time.DateTime), s.Problems, problems)
	}
}

const mib = 1 << 20

// Each case is a week of nights that are as they should be, and one that is not.
func TestStatusProblems(t *testing.T) {
	usual := night{files: 1000, bytes: 100 * mib, received: mib}
	for _, c := range []struct {
		name string
		last func(v *night)
		wait time.Duration // after the last save
		want []string
		exit int
	}{
		{"fine", func(*night) {}, 0, nil, 0},
		{"late", func(*night) {}, 27 * time.Hour, []string{"build/etc: late"}, 3},
		{"not yet late", func(*night) {}, 26 * time.Hour, nil, 0},
		{"unreadable", func(v *night) { v.unreadable = 2 }, 0, []string{"build/etc: unreadable"}, 3},
		{"larger", func(v *night) { v.bytes = 151 * mib }, 0, []string{"build/etc: grew"}, 3},
		{"a little larger", func(v *night) { v.bytes = 149 * mib }, 0, nil, 0},
		{"smaller", func(v *night) { v.bytes = 49 * mib }, 0, []string{"build/etc: shrank"}, 3},
		{"nothing", func(v *night) { v.bytes, v.files = 0, 0 }, 0, []string{"build/etc: shrank"}, 3},
		{"fewer files", func(v *night) { v.files = 499 }, 0, []string{"build/etc: shrank"}, 3},
		{"all new", func(v *night) { v.received = 90 * mib }, 0, []string{"build/etc: churned"}, 3},
		{"clock ahead", func(v *night) { v.skew = time.Hour }, 0, []string{"build/etc: skewed"}, 3},
		{"clock behind", func(v *night) { v.skew = -30 * 24 * time.Hour }, 0, []string{"build/etc: skewed"}, 3},
		{"clock a little wrong", func(v *night) { v.skew = -5 * time.Minute }, 0, nil, 0},
		{"two at once", func(v *night) { v.unreadable, v.skew = 1, time.Hour }, 30 * time.Hour,
			[]string{"build/etc: late", "build/etc: unreadable", "build/etc: skewed"}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNights(t)
			for range 8 {
				n.save("build", "etc", usual)
				n.now = n.now.Add(24 * time.Hour)
			}
			v := usual
			c.last(&v)
			n.save("build", "etc", v)
			at := n.now
			n.now = n.now.Add(c.wait)
			s := n.look()
			n.want(s, c.want...)
			if s.Exit() != c.exit {
				t.Errorf("exit %d, want %d", s.Exit(), c.exit)
			}
			got := s.Repos[0].Names[0]
			if !got.Last.Equal(at) || got.Size != v.bytes || got.New != v.received || got.Files != v.files || got.Host != "web1" ||
				got.Saves != 9 || len(got.Recent) != 9 || got.Age != c.wait.Seconds() || got.Every != 26*3600 || got.Seconds != 2 {
				t.Errorf("%+v", got)
			}
		})
	}
}

// What is expected of a NAME is said by the longest key that matches.
func TestStatusExpect(t *testing.T) {
	n := newNights(t)
	n.s.Expect = map[string]Duration{"*": Duration(50 * time.Hour), "lab": 0, "build/weekly-*": Duration(8 * 24 * time.Hour), "build/db": Duration(26 * time.Hour)}
	for _, name := range []string{"etc", "weekly-home", "weekly-a/b"} {
		n.save("build", name, night{})
	}
	n.save("lab", "x", night{})
	n.want(n.look(), "build/db: never")
	n.now = n.now.Add(49 * time.Hour)
	n.want(n.look(), "build/db: never")
	n.now = n.now.Add(2 * time.Hour)
	n.want(n.look(), "build/etc: late", "build/weekly-a/b: late", "build/db: never")
	n.now = n.now.Add(7 * 24 * time.Hour)
	n.want(n.look(), "build/etc: late", "build/weekly-a/b: late", "build/weekly-home: late", "build/db: never")
}

// A name that is no more is told of, and so is a source.
func TestStatusVanished(t *testing.T) {
	n := newNights(t)
	tree := map[string][]string{"srv/www/site": {"a", "b"}, "srv/db": {"c"}, "srv/empty": {}, "etc": {"d"}, ".streams": {"sql"}}
	n.save("build", "all", night{tree: tree})
	n.save("build", "old", night{})
	n.now = n.now.Add(24 * time.Hour)
	n.want(n.look())
	for _, c := range []struct {
		change func(map[string][]string)
		want   string
	}{
		{func(m map[string][]string) { m["etc"] = []string{"e"} }, ""},
		{func(m map[string][]string) { m["etc"] = []string{} }, "empty or gone, and not so before: /etc"},
		{func(m map[string][]string) { delete(m, "etc") }, "empty or gone, and not so before: /etc"},
		{func(m map[string][]string) { delete(m, "srv/empty") }, ""},
		{func(m map[string][]string) { m["srv/db"] = nil }, "empty or gone, and not so before: /srv/db"},
		{func(m map[string][]string) { delete(m, "srv/www/site"); m["srv/www"] = nil }, "empty or gone, and not so before: /srv/www"},
		{func(m map[string][]string) { delete(m, ".streams"); delete(m, "etc") }, "empty or gone, and not so before: /.streams, /etc"},
	} {
		m := newNights(t)
		m.save("build", "all", night{tree: tree})
		changed := make(map[string][]string)
		for k, v := range tree {
			changed[k] = v
		}
		c.change(changed)
		m.now = m.now.Add(24 * time.Hour)
		m.save("build", "all", night{tree: changed})
		for range 3 {
			s := m.look()
			if c.want == "" {
				m.want(s)
			} else if m.want(s, "build/all: vanished"); len(s.Problems) == 1 && s.Problems[0].Text != c.want {
				t.Errorf("%q, want %q", s.Problems[0].Text, c.want)
			}
			m.now = m.now.Add(24 * time.Hour)
			m.save("build", "all", night{tree: changed})
		}
	}
	p := n.open("build")
	defer p.Close()
	refs, err := p.Refs(n.ctx, heads+"old")
	n.check(err)
	_, err = p.SetRef(n.ctx, repo.Move{Ref: heads + "old", Old: refs[0].ID, Stats: repo.MoveStats{Principal: "root"}})
	n.check(err)
	s := n.look()
	n.want(s, "build/old: deleted")
	if text := s.Problems[0].Text; text != "was deleted 0m ago by root" {
		t.Errorf("%q", text)
	}
}

// Damage is told of, and the rest is shown all the same.
func TestStatusDamage(t *testing.T) {
	n := newNights(t)
	for _, name := range []string{"a", "b", "c"} {
		n.save(name, "etc", night{})
		n.save(name, "home", night{})
	}
	file := filepath.Join(n.root, "b/kedge/receipts")
	text, err := os.ReadFile(file)
	n.check(err)
	text[10] ^= 1
	n.check(os.WriteFile(file, text, 0o600))
	n.check(os.WriteFile(filepath.Join(n.root, "c/config"), []byte("[broken\n"), 0o600))
	s := n.look()
	n.want(s, "b: damaged", "c: damaged")
	if s.Exit() != 5 || len(s.Repos) != 3 || len(s.Repos[1].Names) != 2 {
		t.Errorf("exit %d, %+v", s.Exit(), s.Repos)
	}
	w := Watch{FS: new(fsx.FS), Server: &n.s, Now: n.now}
	if _, err := w.Look(n.ctx, []string{"d"}); !errors.As(err, new(*repo.NotFoundError)) {
		t.Errorf("of a repository that is not there: %v", err)
	}
	if one, err := w.LookAt(n.ctx, filepath.Join(n.root, "a")); err != nil || len(one.Repos) != 1 || len(one.Repos[0].Names) != 2 {
		t.Errorf("%+v, %v", one, err)
	}
	// The server's clock went back.
	n.now = n.now.Add(-24 * time.Hour)
	if got := n.look().brief(); !slices.Contains(got, "a: clock") {
		t.Errorf("%v", got)
	}
}

// A repository that fills up is told of.
func TestStatusFull(t *testing.T) {
	n := newNights(t)
	n.save("build", "etc", night{})
	w := Watch{FS: new(fsx.FS), Server: &n.s, Now: n.now, ObjectLimit: 1000}
	s, err := w.Look(n.ctx, nil)
	n.check(err)
	objects := s.Repos[0].Objects
	out, err := exec.Command("git", "-C", filepath.Join(n.root, "build"), "count-objects", "-v").Output()
	n.check(err)
	if !strings.Contains(string(out), fmt.Sprintf("in-pack: %d\n", objects)) {
		t.Errorf("%d objects were counted; git says %s", objects, out)
	}
	n.want(s)
	w.ObjectLimit = 2*objects - 1
	s, err = w.Look(n.ctx, nil)
	n.check(err)
	n.want(s, "build: full")
	n.s.Quota = "1k"
	w.ObjectLimit = 0
	if s, err = w.Look(n.ctx, nil); err != nil || s.Repos[0].Bytes < 922 {
		n.want(s)
	} else {
		n.want(s, "build: full")
	}
}

// The metrics are what Prometheus wants them to be, and say what the status does.
func TestMetrics(t *testing.T) {
	n := newNights(t)
	n.save("build", "etc", night{files: 7, bytes: 1234, received: 99})
	n.save("build", "home/\u00fc\u00e4", night{unreadable: 3})
	n.now = n.now.Add(30 * time.Hour)
	s := n.look()
	text, err := s.Metrics()
	n.check(err)
	for _, want := range []string{
		`kedge_last_save_size_bytes{name="etc",repository="build"} 1234`,
		`kedge_last_save_new_bytes{name="etc",repository="build"} 99`,
		`kedge_last_save_timestamp_seconds{name="etc",repository="build"} 1.7673048e+09`,
		`kedge_last_save_unreadable{name="home/üä",repository="build"} 3`,
		`kedge_status_problems{kind="late"} 2`,
		`kedge_status_problems{kind="damaged"} 0`,
		`kedge_problem{kind="unreadable",name="home/üä",repository="build"} 1`,
	} {
		if !strings.Contains(string(text), want+"\n") {
			t.Errorf("there is no %s in\n%s", want, text)
		}
	}
	problems, err := promlint.New(bytes.NewReader(text)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	if exe, err := exec.LookPath("promtool"); err == nil {
		cmd := exec.Command(exe, "check", "metrics")
		cmd.Stdin = bytes.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("promtool: %v\n%s", err, out)
		}
	}
	srv := httptest.NewServer(MetricsHandler(func(*http.Request) (*Status, error) { return s, nil }))
	defer srv.Close()
	resp, err := http.Get(srv.URL)
	n.check(err)
	defer resp.Body.Close()
	var body bytes.Buffer
	_, err = body.ReadFrom(resp.Body)
	n.check(err)
	if resp.StatusCode != 200 || body.String() != string(text) {
		t.Errorf("%s\n%s", resp.Status, body.String())
	}
	broken := httptest.NewServer(MetricsHandler(func(*http.Request) (*Status, error) { return nil, errors.New("secret path") }))
	defer broken.Close()
	resp, err = http.Get(broken.URL)
	n.check(err)
	body.Reset()
	_, err = body.ReadFrom(resp.Body)
	n.check(errors.Join(err, resp.Body.Close()))
	if resp.StatusCode != 500 || strings.Contains(body.String(), "secret") {
		t.Errorf("%s %s", resp.Status, body.String())
	}
}

// BenchmarkStatus is a server of a hundred repositories with a year of nights each, three
// names in each.
func BenchmarkStatus(b *testing.B) {
	n := newNights(b)
	p := n.open("r00")
	for range 365 {
		for _, name := range []string{"dir-etc", "dir-home", "mysql"} {
			n.into(p, name, night{files: 1000, bytes: 100 * mib, received: mib})
		}
		n.now = n.now.Add(24 * time.Hour)
	}
	p.Close()
	// As a repository is after a year of collections: few packs.
	dir := filepath.Join(n.root, "r00")
	out, err := exec.Command("git", "-C", dir, "repack", "-a", "-d", "-q", "--window=0").CombinedOutput()
	if err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	for i := 1; i < 100; i++ {
		n.check(os.CopyFS(filepath.Join(n.root, fmt.Sprintf("r%02d", i)), os.DirFS(dir)))
	}
	b.ResetTimer()
	for b.Loop() {
		if s := n.look(); len(s.Repos) != 100 || len(s.Repos[99].Names) != 3 {
			b.Fatal("not all was seen")
		}
	}
}
