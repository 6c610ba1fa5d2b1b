package job

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/prune"
)

// server is one with three repositories, and a mirror that fails for some of them.
func server(t *testing.T) (n *nights, k *Keeper, fails map[string]error) {
	n = newNights(t)
	for range 3 {
		for _, r := range []string{"a", "b", "c"} {
			n.save(r, "etc", night{})
		}
		n.now = n.now.Add(24 * time.Hour)
	}
	n.s.Retention = map[string]Retention{"*": {Last: "2"}, "c/etc": {Last: "all"}}
	n.s.Mirror = &Mirror{To: "s3://bucket/x"}
	n.s.Defaults()
	fails = make(map[string]error)
	k = &Keeper{
		FS: new(fsx.FS), Server: &n.s, Clock: func() time.Time { return n.now }, Zone: time.UTC, Log: func(string, ...any) {},
		ExitCode: func(context.Context, error) int { return 7 },
		Mirror: func(_ context.Context, name string) (string, error) {
			if name == "" {
				return "", fails[ownDir]
			}
			return "generation 1", fails[name]
		},
	}
	return n, k, fails
}

// done sums a report up: "a fsck", "b mirror 7".
func done(r UpkeepReport) (list []string) {
	for _, t := range r.Tasks {
		s := t.Repo + " " + t.Task
		if t.Exit != exitOK {
			s += " failed"
		}
		if t.Skipped {
			s += " skipped"
		}
		list = append(list, s)
	}
	return list
}

func TestUpkeepOrder(t *testing.T) {
	n, k, fails := server(t)
	fails["b"] = errors.New("no line")
	r := k.Run(n.ctx, Plea{})
	want := []string{"a fsck", "a mirror", "a prune", "a gc", "b fsck", "b mirror failed", "b prune", "b gc", "c fsck", "c mirror", "c prune", "c gc"}
	if got := done(r); !slices.Equal(got, want) || r.Exit != 7 || r.Failures() != 1 || r.Repos != 3 {
		t.Errorf("%q, exit %d, %d failures; want\n%q", got, r.Exit, r.Failures(), want)
	}
	if text := r.Text(); !strings.Contains(text, "exit 7") || strings.Index(text, "b: mirror: no line") > strings.Index(text, "a: fsck") {
		t.Errorf("what failed does not stand first:\n%s", text)
	}
	// What failed is due still; the rest was done.
	if got := done(k.Run(n.ctx, Plea{})); !slices.Equal(got, []string{"b mirror failed"}) {
		t.Errorf("a second run: %q", got)
	}
	delete(fails, "b")
	if got := done(k.Run(n.ctx, Plea{})); !slices.Equal(got, []string{"b mirror"}) {
		t.Errorf("when the line is back: %q", got)
	}
	// The next day what is due every day is, and on Saturday and Sunday the rest.
	n.now = time.Date(2026, 1, 9, 4, 0, 0, 0, time.UTC) // a Friday
	if got := done(k.Run(n.ctx, Plea{Repos: []string{"a"}})); !slices.Equal(got, []string{"a fsck", "a prune"}) {
		t.Errorf("on Friday: %q", got)
	}
	n.now = n.now.Add(24 * time.Hour)
	fails[ownDir] = errors.New("refused")
	if got := done(k.Run(n.ctx, Plea{Tasks: []string{TaskMirror}})); !slices.Equal(got, []string{"a mirror", "b mirror", "c mirror", ".kedge mirror failed"}) {
		t.Errorf("on Saturday: %q", got)
	}
	n.now = n.now.Add(24 * time.Hour)
	if got := done(k.Run(n.ctx, Plea{Repos: []string{"c"}})); !slices.Equal(got, []string{"c fsck", "c prune", "c gc"}) {
		t.Errorf("on Sunday: %q", got)
	}
	if got := done(k.Run(n.ctx, Plea{Repos: []string{"c"}, Tasks: []string{TaskGC}, Now: true})); !slices.Equal(got, []string{"c gc"}) {
		t.Errorf("now: %q", got)
	}
	if r := k.Run(n.ctx, Plea{Repos: []string{"d"}}); r.Error == "" || r.Exit != 7 {
		t.Errorf("a repository that is not there: %+v", r)
	}
}

// While somebody saves nothing is taken away, and that is no failure; it is done later.
func TestUpkeepBusy(t *testing.T) {
	n, k, _ := server(t)
	p := n.open("a")
	defer p.Close()
	s, err := p.Begin(n.ctx)
	n.check(err)
	r := k.Run(n.ctx, Plea{Tasks: []string{TaskPrune, TaskGC}})
	if got := done(r); !slices.Equal(got, []string{"a prune skipped", "a gc skipped", "b prune", "b gc", "c prune", "c gc"}) || r.Exit != 0 {
		t.Errorf("%q, exit %d", got, r.Exit)
	}
	n.check(s.Close())
	r = k.Run(n.ctx, Plea{Tasks: []string{TaskPrune, TaskGC}})
	if got := done(r); !slices.Equal(got, []string{"a prune", "a gc"}) {
		t.Errorf("when it has ended: %q", got)
	}
	for at, want := range map[string]int{"a": 2, "b": 2, "c": 3} {
		q := n.open(at)
		plan, err := prune.NewPlan(n.ctx, q, "etc", time.UTC)
		n.check(err)
		if len(plan.Saves) != want {
			t.Errorf("%s: %d saves, want %d", at, len(plan.Saves), want)
		}
		q.Close()
	}
}

// Every pack is read once in the time that the config says, the limit of a night is kept,
// and what is damaged is found, and stays known until it is good again.
func TestUpkeepFsck(t *testing.T) {
	n, k, _ := server(t)
	n.s.Fsck.Every = Duration(12 * 24 * time.Hour)
	for range 17 {
		n.save("a", "etc", night{})
		n.now = n.now.Add(time.Hour)
	}
	packs, err := filepath.Glob(filepath.Join(n.root, "a/objects/pack/*.pack"))
	n.check(err)
	old := n.now.Add(-24 * time.Hour)
	for _, f := range packs {
		n.check(os.Chtimes(f, old, old))
	}
	nights := 0
	for ; nights < 20; nights++ {
		r := k.Run(n.ctx, Plea{Tasks: []string{TaskFsck}, Repos: []string{"a"}, Now: true})
		if r.Exit != 0 {
			t.Fatal(r.Text())
		}
		shares := must(readShares(k.FS, n.root, "a"))
		left := 0
		for _, s := range shares {
			if s.at <= old.Unix() {
				left++
			}
		}
		if len(shares) != len(packs) {
			t.Fatalf("%d packs are known of %d", len(shares), len(packs))
		}
		if n.now = n.now.Add(24 * time.Hour); left == 0 {
			break
		}
	}
	if nights < 4 || nights > 11 {
		t.Errorf("it took %d nights to read %d packs", nights+1, len(packs))
	}
	n.s.Fsck.Nightly = "1"
	if r := k.Run(n.ctx, Plea{Tasks: []string{TaskFsck}, Repos: []string{"a"}, Now: true}); !strings.HasPrefix(r.Tasks[0].Text, "read 1 of ") {
		t.Errorf("with a limit: %s", r.Text())
	}
	n.s.Fsck.Nightly = ""

	good := must(os.ReadFile(packs[3]))
	bad := slices.Clone(good)
	bad[20] ^= 1
	n.check(os.Chmod(packs[3], 0o644))
	n.check(os.WriteFile(packs[3], bad, 0o644))
	n.s.Fsck.Every = Duration(24 * time.Hour) // all at once
	var found int
	k.Found = func(name string, f repo.Finding) {
		if name == "a" && f.Damage() {
			found++
		}
	}
	r := k.Run(n.ctx, Plea{Repos: []string{"a"}, Now: true})
	if got := done(r); !slices.Equal(got, []string{"a fsck failed", "a mirror", "a prune skipped", "a gc skipped"}) || r.Exit != 5 || found == 0 {
		t.Errorf("%q, exit %d, %d findings", got, r.Exit, found)
	}
	w := Watch{FS: k.FS, Server: &n.s, Tasks: true, Now: n.now}
	if s := must(w.Look(n.ctx, []string{"a"})); s.Exit() != 5 || !slices.Contains(s.brief(), "a: damaged") {
		t.Errorf("%v", s.Problems)
	}
	n.check(os.WriteFile(packs[3], good, 0o644))
	n.s.Fsck.Every = Duration(30 * 24 * time.Hour) // what is damaged is read first
	if r := k.Run(n.ctx, Plea{Repos: []string{"a"}, Now: true}); r.Exit != 0 {
		t.Errorf("when it is good again: %s", r.Text())
	}
}

// What a server should have done and did not is told, in its own time.
func TestStatusOverdue(t *testing.T) {
	n, k, fails := server(t)
	look := func() []string {
		for _, r := range []string{"a", "b", "c"} {
			n.save(r, "etc", night{})
		}
		w := Watch{FS: k.FS, Server: &n.s, Tasks: true, Now: n.now}
		return must(w.Look(n.ctx, nil)).brief()
	}
	// Sunday: nothing was ever done, and what is due on a Saturday has a day left.
	n.now = time.Date(2026, 1, 4, 1, 0, 0, 0, time.UTC)
	want := []string{"a: overdue", "a: overdue", "b: overdue", "b: overdue", "c: overdue", "c: overdue"}
	if got := look(); !slices.Equal(got, want) {
		t.Errorf("fsck and prune: %q", got)
	}
	n.now = n.now.Add(24 * time.Hour)
	if got := look(); len(got) != 9 {
		t.Errorf("and mirror: %q", got)
	}
	fails["b"] = errors.New("no line")
	k.Run(n.ctx, Plea{})
	if got := look(); !slices.Equal(got, []string{"b: failed", "b: overdue"}) {
		t.Errorf("after a night: %q", got)
	}
	n.now = n.now.Add(24 * time.Hour)
	delete(fails, "b")
	k.Run(n.ctx, Plea{})
	if got := look(); len(got) != 0 {
		t.Errorf("after another: %q", got)
	}
}

// A repository of somebody's home is none of a server: nothing is remembered beside it.
func TestNoteTask(t *testing.T) {
	n := newNights(t)
	fsys := new(fsx.FS)
	n.check(NoteTask(fsys, n.root, "a", TaskGC, n.now, errors.New("no room")))
	n.check(NoteTask(fsys, n.root, "a", TaskGC, n.now.Add(time.Hour), &skippedError{"busy"}))
	n.check(NoteTask(fsys, n.root, "a", TaskPrune, n.now, nil))
	notes := must(ReadNotes(fsys, n.root))
	if g, p := notes["a"][TaskGC], notes["a"][TaskPrune]; !g.Done.IsZero() || !g.Tried.Equal(n.now.Add(time.Hour)) || g.Error != "" || !p.Done.Equal(n.now) {
		t.Errorf("%+v", notes)
	}
	n.check(os.WriteFile(filepath.Join(StateDir(n.root), "upkeep"), []byte("{torn"), 0o600))
	if notes, err := ReadNotes(fsys, n.root); err != nil || len(notes) != 0 {
		t.Errorf("torn: %v, %v", notes, err)
	}
	for _, dirs := range []string{"none", "home/.kedge/objects"} {
		root := filepath.Join(t.TempDir(), dirs)
		n.check(os.MkdirAll(root, 0o755))
		root, _, _ = strings.Cut(root, "/.kedge")
		n.check(NoteTask(fsys, root, "a", TaskGC, n.now, nil))
		if _, err := os.Stat(StateDir(root)); err == nil {
			t.Errorf("%s: something was remembered", dirs)
		}
	}
}

// Who the config names is told: the ping at the start and the end, the rest if something is
// wrong.
func TestTell(t *testing.T) {
	var mu sync.Mutex
	var got []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		if strings.HasPrefix(r.URL.Path, "/hook") {
			var rep UpkeepReport
			if err := json.Unmarshal(body, &rep); err != nil {
				t.Error(err)
			}
			body = []byte(rep.Tasks[0].Error)
		}
		got = append(got, r.URL.Path+" "+string(body))
		if r.URL.Path == "/gone" {
			w.WriteHeader(http.StatusGone)
		}
	}))
	defer srv.Close()
	n := &Notify{Ping: srv.URL + "/ping/", Webhook: srv.URL + "/hook", Textfile: t.TempDir()}
	ctx := context.Background()
	rep := UpkeepReport{Exit: 7, Tasks: []TaskReport{{Repo: "a", Task: TaskGC, Exit: 7, Error: "no room"}}}
	tell := func(n *Notify, what Notice) {
		t.Helper()
		if err := n.Tell(ctx, new(fsx.FS), what); err != nil {
			t.Error(err)
		}
	}
	if err := n.TellStart(ctx); err != nil {
		t.Error(err)
	}
	tell(n, Notice{Text: "fine"})
	what := rep.Notice()
	what.Text = strings.Repeat("x", 20_000) + "\nthe tail\n"
	what.Metrics = []byte("m 1\n")
	tell(n, what)
	tell(nil, what)
	want := []string{"/ping/start ", "/ping fine", "/ping/fail the tail\n", "/hook no room"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if text := must(os.ReadFile(filepath.Join(n.Textfile, "kedge_upkeep.prom"))); string(text) != "m 1\n" {
		t.Errorf("%q", text)
	}
	n.Ping = srv.URL + "/gone"
	if err := n.Tell(ctx, new(fsx.FS), Notice{}); err == nil || !strings.Contains(err.Error(), "410") {
		t.Errorf("a ping that is refused: %v", err)
	}
}

func TestServerKeys(t *testing.T) {
	s := Server{Retention: map[string]Retention{"*": {Last: "1"}, "build": {Last: "2"}, "build/dir-*": {Last: "3"}, "build/dir-etc": {Last: "4"}, "b*/x/*": {Last: "5"}}}
	for at, want := range map[string]int{"web/etc": 1, "build/etc": 2, "build/dir-home": 3, "build/dir-etc": 4, "build/x/y": 5, "build/x/y/z": 2, "build/a/b": 2} {
		r, n, _ := strings.Cut(at, "/")
		rules, _, ok, err := s.Rules(r, n)
		if err != nil || !ok || rules.Last != want {
			t.Errorf("%s: %d, %v, %v; want %d", at, rules.Last, ok, err, want)
		}
	}
	delete(s.Retention, "*")
	if _, _, ok, _ := s.Rules("web", "etc"); ok {
		t.Error("a name without rules has some")
	}
	for text, want := range map[string]int64{"1": 1, "10k": 10 << 10, "500G": 500 << 30, "2t": 2 << 40, "": -1, "0": -1, "-1": -1, "G": -1, "1kk": -1, "9999999P": -1} {
		if got, err := parseBytes(text); (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}
