package job

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/gc"
	"github.com/kedgebackup/kedge/repo/prune"
	"github.com/kedgebackup/kedge/repo/restore"
	"github.com/kedgebackup/kedge/repo/save"
	"github.com/kedgebackup/kedge/s3sync"
)

// year is a server and its clients over a year: real saves of real directories and streams
// into real repositories, with a clock that the test turns. At ten each night three hosts
// save; at four upkeep does what is due; at eight somebody looks at the status.
type year struct {
	t      *testing.T
	ctx    context.Context
	rnd    *rand.Rand
	now    time.Time
	root   string
	server Server
	store  *objects
	names  []*yearName
	moved  map[string]int // bytes that upkeep freed, and the like: that all of it happens

	mirrorDone map[string]time.Time // as the test reckons
	mirrorBad  map[string]bool      // the last try failed
}

// yearName is a NAME of a host, and what is known of its saves.
type yearName struct {
	host, name string
	dir        string            // that is saved; "": a stream is
	rows       []byte            // the database
	digest     map[int64]string  // of each save ever made, by its date
	kept       []time.Time       // saves that there have to be, the newest first
	sizes      []int64           // of all saves, the newest last
	broken     map[string]string // problems that the last save has: kind to nothing
}

func (n *yearName) ref() string { return n.host + "/" + n.name }

// rows is how large a database is: enough that a collapse shows.
const rows = 3 * mib

func newYear(t *testing.T) *year {
	y := &year{t: t, ctx: context.Background(), rnd: rand.New(rand.NewPCG(7, 11)), root: filepath.Join(t.TempDir(), "root"),
		now: time.Date(2027, 1, 1, 12, 0, 0, 0, time.UTC), store: &objects{m: make(map[string][]byte)},
		moved: make(map[string]int), mirrorDone: make(map[string]time.Time), mirrorBad: make(map[string]bool)}
	y.server = Server{Root: y.root, Mirror: &Mirror{To: "s3://bucket/x"}, Retention: map[string]Retention{
		"*":       {Daily: "7", Weekly: "4", Monthly: "12"},
		"db/logs": {Last: "3"},
	}}
	y.server.Defaults()
	y.check(os.MkdirAll(filepath.Join(y.root, ".kedge"), 0o700))
	for _, n := range []*yearName{{host: "web1", name: "dir-etc", dir: "etc"}, {host: "web2", name: "dir-etc", dir: "etc"},
		{host: "db", name: "dir-etc", dir: "etc"}, {host: "db", name: "mysql"}, {host: "db", name: "logs"}} {
		n.digest, n.broken = make(map[int64]string), make(map[string]string)
		if n.dir != "" {
			n.dir = filepath.Join(t.TempDir(), n.dir)
			y.check(os.Mkdir(n.dir, 0o755))
			for i := range 12 {
				y.change(n, i)
			}
		} else {
			n.rows = y.bytes(rows)
		}
		if _, err := os.Stat(filepath.Join(y.root, n.host)); err != nil {
			_, err := repo.InitDir(y.ctx, filepath.Join(y.root, n.host), repo.InitOptions{})
			y.check(err)
		}
		y.names = append(y.names, n)
	}
	return y
}

func (y *year) check(err error) {
	y.t.Helper()
	if err != nil {
		y.t.Fatalf("%s: %v", y.now.Format(time.DateTime), err)
	}
}

func (y *year) bytes(n int) []byte {
	b := make([]byte, n)
	for i := 0; i+8 <= n; i += 8 {
		v := y.rnd.Uint64()
		for k := range 8 {
			b[i+k] = byte(v >> (8 * k))
		}
	}
	return b
}

// change writes a file of a host anew.
func (y *year) change(n *yearName, file int) {
	y.check(os.WriteFile(filepath.Join(n.dir, fmt.Sprint("f", file)), y.bytes(2000+8*y.rnd.IntN(500)), 0o644))
}

func (y *year) open(host string) *repo.Packs {
	y.t.Helper()
	p, err := repo.OpenDir(y.ctx, filepath.Join(y.root, host), repo.DirOptions{Clock: func() time.Time { return y.now }})
	y.check(err)
	return p
}

// night has a host save a name. Short is a dump of which the beginning alone came.
func (y *year) night(n *yearName, short bool) {
	y.t.Helper()
	fsys := new(fsx.FS)
	p := y.open(n.host)
	defer p.Close()
	o := save.Options{Repo: p, FS: fsys, Name: n.name, Date: y.now, Level: -1, Author: "A <a@" + n.host + ">", Host: n.host}
	if n.dir != "" {
		for range 2 {
			y.change(n, y.rnd.IntN(12))
		}
		file := filepath.Join(filepath.Dir(n.dir), "index")
		_, err := index.Update(y.ctx, index.Options{FS: fsys, File: file, Roots: []string{n.dir}})
		y.check(err)
		o.Index, err = index.OpenExclusive(fsys, file, time.Minute)
		y.check(err)
		defer o.Index.Close()
		o.Roots = []string{n.dir}
		n.digest[y.now.Unix()] = y.digest(n.dir)
	} else {
		at := y.rnd.IntN(rows - 4096)
		copy(n.rows[at:], y.bytes(4096)) // what changed in a day
		data := n.rows
		if short {
			data = data[:rows/4]
		}
		o.Streams = []save.Stream{{Path: "/dump.sql", Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }}}
		n.digest[y.now.Unix()] = fmt.Sprintf("/dump.sql %x\n", sha256.Sum256(data))
	}
	res, err := save.Run(y.ctx, o)
	y.check(err)
	if res.Unreadable > 0 {
		y.t.Fatalf("%s: %+v", n.ref(), res)
	}
	n.kept = slices.Insert(n.kept, 0, y.now)
	n.sizes = append(n.sizes, res.Bytes)
	y.age()
}

// age gives new packs the time of the year: how old a pack is counts.
func (y *year) age() {
	packs, err := filepath.Glob(filepath.Join(y.root, "*/objects/pack/*.pack"))
	y.check(err)
	for _, f := range packs {
		info, err := os.Stat(f)
		y.check(err)
		if time.Since(info.ModTime()).Abs() < 2*time.Hour {
			y.check(os.Chtimes(f, y.now, y.now))
		}
	}
}

// digest sums a tree of files up.
func (y *year) digest(dir string) string {
	y.t.Helper()
	var b strings.Builder
	y.check(filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		fmt.Fprintf(&b, "%s %x\n", p[len(dir):], sha256.Sum256(data))
		return err
	}))
	return b.String()
}

// keeper does the nights' work of the server.
func (y *year) keeper() *Keeper {
	return &Keeper{
		FS: new(fsx.FS), Server: &y.server, Clock: func() time.Time { return y.now }, Zone: time.UTC, Who: "test",
		Log: func(string, ...any) {},
		ExitCode: func(context.Context, error) int {
			return exitFailed
		},
		Mirror: func(ctx context.Context, host string) (string, error) {
			if host == "" {
				return "", nil
			}
			r, err := y.bucket(host).Mirror(ctx, s3sync.MirrorOptions{FS: new(fsx.FS), Dir: filepath.Join(y.root, host), Now: func() time.Time { return y.now },
				StateDir: StateDir(y.root), Store: "test"})
			return fmt.Sprint("generation ", r.Generation), err
		},
		Found: func(host string, f repo.Finding) { y.t.Errorf("%s: %s: %v", y.now, host, f) },
	}
}

func (y *year) bucket(host string) *s3sync.Bucket {
	return &s3sync.Bucket{Objects: y.store, Prefix: "x/" + host + "/", Check: s3sync.Trust()}
}

// upkeep has the server do its work at four in the morning, and says what must come of it.
func (y *year) upkeep() {
	y.t.Helper()
	saturday := y.server.Mirror.Schedule // "Sat": due from midnight on
	when := must(ParseCalendar(saturday)).Last(y.now)
	failed := 0
	for _, host := range []string{"web1", "web2", "db"} {
		if y.mirrorDone[host].Before(when) {
			if y.mirrorBad[host] = y.store.down; y.store.down {
				failed++
			} else {
				y.mirrorDone[host] = y.now
			}
		}
	}
	r := y.keeper().Run(y.ctx, Plea{})
	y.age()
	for _, t := range r.Tasks {
		y.moved[t.Task]++
		if t.Exit != exitOK && (t.Task != TaskMirror || failed == 0) || t.Skipped {
			y.t.Errorf("%s: %v", y.now, &t)
		}
	}
	if r.Failures() != failed {
		y.t.Errorf("%s: %d tasks failed, want %d:\n%s", y.now, r.Failures(), failed, r.Text())
	}
	for _, n := range y.names {
		n.kept = keptByHand(n.kept, n.name)
	}
}

// keptByHand is what retention keeps, reckoned another way: go through the saves from the
// newest on, and keep each that is the first of its day, week or month while there is room.
func keptByHand(saves []time.Time, name string) (kept []time.Time) {
	if name == "logs" {
		return saves[:min(3, len(saves))]
	}
	days, weeks, months := make(map[string]bool), make(map[string]bool), make(map[string]bool)
	for i, at := range saves {
		keep := i == 0
		year, week := at.ISOWeek()
		for _, slot := range []struct {
			seen map[string]bool
			name string
			most int
		}{{days, at.Format(time.DateOnly), 7}, {weeks, fmt.Sprint(year, week), 4}, {months, at.Format("2006-01"), 12}} {
			if !slot.seen[slot.name] && len(slot.seen) < slot.most {
				slot.seen[slot.name] = true
				keep = true
			}
		}
		if keep {
			kept = append(kept, at)
		}
	}
	return kept
}

// verify compares the saves that there are with those that there have to be, and what the
// mirror has with what was there when it was made.
func (y *year) verify() {
	y.t.Helper()
	for _, n := range y.names {
		p := y.open(n.host)
		plan, err := prune.NewPlan(y.ctx, p, n.name, time.UTC)
		y.check(err)
		var got []time.Time
		for _, s := range plan.Saves {
			got = append(got, s.Commit.Author.When.UTC())
			if !s.Time.Equal(s.Commit.Author.When) {
				y.t.Errorf("%s: a save of %v has the time %v", n.ref(), s.Commit.Author.When, s.Time)
			}
		}
		if !slices.EqualFunc(got, n.kept, time.Time.Equal) {
			y.t.Errorf("%s: on %s there are\n%v, want\n%v", n.ref(), y.now.Format(time.DateOnly), got, n.kept)
		}
		p.Close()
	}
}

// status looks at eight in the morning, and compares with what the test knows.
func (y *year) status() {
	y.t.Helper()
	w := Watch{FS: new(fsx.FS), Server: &y.server, Tasks: true, Now: y.now}
	s, err := w.Look(y.ctx, nil)
	y.check(err)
	var want []string
	for _, n := range y.names {
		if y.now.Sub(n.kept[0]) > 26*time.Hour {
			want = append(want, n.ref()+": late")
		}
		for kind := range n.broken {
			want = append(want, n.ref()+": "+kind)
		}
	}
	for _, host := range []string{"web1", "web2", "db"} {
		if y.mirrorBad[host] {
			want = append(want, host+": failed")
		}
		saturday := y.now.Add(-26 * time.Hour)
		for saturday = saturday.Truncate(24 * time.Hour); saturday.Weekday() != time.Saturday; {
			saturday = saturday.AddDate(0, 0, -1)
		}
		if y.mirrorDone[host].Before(saturday) && saturday.Year() == 2027 && saturday.YearDay() > 1 {
			want = append(want, host+": overdue")
		}
	}
	got := s.brief()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		y.t.Errorf("on %s the problems are\n%v, want\n%v", y.now.Format(time.DateTime), s.Problems, want)
	}
	for i := range s.Repos {
		for _, got := range s.Repos[i].Names {
			n := y.names[slices.IndexFunc(y.names, func(n *yearName) bool { return n.ref() == s.Repos[i].Repo+"/"+got.Name })]
			if !got.Last.Equal(n.kept[0]) || got.Size != n.sizes[len(n.sizes)-1] || got.Saves != len(n.sizes) || got.Host != n.host {
				y.t.Errorf("on %s %s: %+v, want %d bytes of %v", y.now.Format(time.DateTime), n.ref(), got, n.sizes[len(n.sizes)-1], n.kept[0])
			}
		}
	}
}

// fsck has git look at all repositories.
func (y *year) fsck() {
	y.t.Helper()
	for _, host := range []string{"web1", "web2", "db"} {
		out, err := exec.Command("git", "-C", filepath.Join(y.root, host), "fsck", "--full", "--strict", "--no-dangling").CombinedOutput()
		for line := range strings.Lines(string(out)) {
			if !strings.HasPrefix(line, "notice: HEAD points to an unborn branch") {
				y.t.Errorf("%s: git fsck: %s", host, line)
			}
		}
		y.check(err)
	}
}

// restore brings a past day back and compares it with that day: the newest save that is not
// later. From is the repository, or its mirror.
func (y *year) restore(n *yearName, from repo.Repo, day time.Time) {
	y.t.Helper()
	i := slices.IndexFunc(n.kept, func(at time.Time) bool { return !at.After(day) })
	if i < 0 {
		return
	}
	out := filepath.Join(y.t.TempDir(), "out")
	defer os.RemoveAll(out)
	what := n.name + "/" + n.kept[i].In(time.Local).Format("2006-01-02-150405") + n.dir + "/"
	res, err := restore.Run(y.ctx, restore.Options{Repo: from, Out: out, Paths: []string{what}})
	y.check(err)
	if got := y.digest(out); got != n.digest[n.kept[i].Unix()] || res.Files == 0 {
		y.t.Errorf("%s of %s: restored\n%s, want\n%s", n.ref(), n.kept[i], got, n.digest[n.kept[i].Unix()])
	}
}

// pastDays restores days drawn by lot.
func (y *year) pastDays(count int) {
	y.t.Helper()
	for range count {
		n := y.names[y.rnd.IntN(len(y.names))]
		p := y.open(n.host)
		first := time.Date(2027, 1, 1, 23, 0, 0, 0, time.UTC)
		y.restore(n, p, first.AddDate(0, 0, y.rnd.IntN(y.now.YearDay())))
		p.Close()
	}
}

// mirrored reads the newest generation of each mirror, which has to be as the repository was
// after its last run: what is restored from it is right.
func (y *year) mirrored() {
	y.t.Helper()
	for _, n := range y.names {
		b := y.bucket(n.host)
		g, err := b.Latest(y.ctx)
		y.check(err)
		if !g.Time.Equal(y.mirrorDone[n.host]) {
			y.t.Errorf("%s: the newest generation is of %v, want %v", n.host, g.Time, y.mirrorDone[n.host])
		}
		p, err := b.Snapshot(g, s3sync.NewCache(16<<20)).Packs(y.ctx)
		y.check(err)
		var saves []time.Time
		refs, err := p.Refs(y.ctx, heads+n.name)
		y.check(err)
		y.check(repo.WalkCommits(y.ctx, p, refs[0].ID, func(_ pack.ID, c *repo.Commit) error {
			saves = append(saves, c.Author.When.UTC())
			return nil
		}))
		now := n.kept
		n.kept = saves
		y.restore(n, p, saves[y.rnd.IntN(len(saves))])
		n.kept = now
		y.check(p.Close())
	}
}

// A year of nights, with what happens in a year: a host that is off for two nights, a dump
// that comes short, a store that does not answer for some days. On every day the saves that
// are kept are those that the rules say, status says what is wrong and nothing else, and git
// finds nothing (every ninth day, unless KEDGE_SWEEP=full). Fifty past days are restored and
// compared with what was there then.
func TestYear(t *testing.T) {
	if testing.Short() {
		t.Skip("a year takes its time")
	}
	days, restores := 45, 1
	full := os.Getenv("KEDGE_SWEEP") == "full"
	if full {
		days, restores = 365, 1
	}
	y := newYear(t)
	for day := 1; day <= days; day++ {
		y.now = time.Date(2027, 1, day, 22, 0, 0, 0, time.UTC)
		for _, n := range y.names {
			off := n.host == "web2" && (day%50 == 20 || day%50 == 21)
			short := n.name == "mysql" && day%50 == 30
			if clear(n.broken); short {
				n.broken[string(Shrank)] = ""
			}
			if !off {
				y.night(n, short)
			}
		}
		y.store.down = day%50 >= 35 && day%50 < 43 // a Saturday among them at least
		y.now = time.Date(2027, 1, day+1, 4, 0, 0, 0, time.UTC)
		y.upkeep()
		y.verify()
		y.now = y.now.Add(4 * time.Hour)
		y.status()
		if full || day%9 == 0 {
			y.fsck()
		}
		if day%7 == 6 && !y.store.down && len(y.mirrorDone) > 0 {
			y.mirrored()
		}
		if day%7 == 0 || day == days {
			y.pastDays(restores)
		}
		if t.Failed() {
			t.Fatalf("day %d is as far as it went", day)
		}
	}
	y.pastDays(50 - days/7)
	y.size()
	t.Logf("done: %v", y.moved)
}

// size: what is no longer kept is gone in the end, and packs do not pile up.
func (y *year) size() {
	y.t.Helper()
	for _, host := range []string{"web1", "web2", "db"} {
		y.now = y.now.Add(repo.UndoTime + gc.Grace)
		p := y.open(host)
		_, err := gc.Run(y.ctx, p, gc.Options{Yes: true})
		y.check(err)
		y.now = y.now.Add(gc.Grace + time.Hour)
		r, err := gc.Run(y.ctx, p, gc.Options{Yes: true})
		if err != nil || r.Packs > 60 || r.Dead > r.Live/4+mib {
			y.t.Errorf("%s: %+v, %v", host, r, err)
		}
		bytes, err := p.PackBytes(y.ctx)
		y.check(err)
		if bytes > 3*r.Live/2+mib {
			y.t.Errorf("%s: %d bytes of packs, %d live", host, bytes, r.Live)
		}
		p.Close()
	}
}

// objects is an object store in memory, which may be down.
type objects struct {
	mu   sync.Mutex
	m    map[string][]byte
	down bool
}

var errDown = errors.New("the store does not answer")

func (s *objects) Put(_ context.Context, key string, b s3sync.Body) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return "", errDown
	}
	if _, ok := s.m[key]; ok {
		return "", s3sync.ErrExists
	}
	data := make([]byte, b.Size)
	if _, err := b.ReadAt(data, 0); err != nil && err != io.EOF {
		return "", err
	}
	s.m[key] = data
	return "", nil
}

func (s *objects) Get(_ context.Context, key, _ string, p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.m[key]
	switch {
	case s.down:
		return 0, errDown
	case !ok:
		return 0, fs.ErrNotExist
	case off >= int64(len(data)) && len(p) > 0:
		return 0, io.EOF
	}
	n := copy(p, data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (s *objects) Stat(_ context.Context, key, _ string) (s3sync.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.m[key]
	switch {
	case s.down:
		return s3sync.Object{}, errDown
	case !ok:
		return s3sync.Object{}, fs.ErrNotExist
	}
	return s3sync.Object{Key: key, Size: int64(len(data)), SHA256: s3sync.SumOf(data)}, nil
}

func (s *objects) List(_ context.Context, prefix, after string, fn func(s3sync.Object) error) error {
	s.mu.Lock()
	var list []s3sync.Object
	for key, data := range s.m {
		if strings.HasPrefix(key, prefix) && key > after {
			list = append(list, s3sync.Object{Key: key, Size: int64(len(data))})
		}
	}
	down := s.down
	s.mu.Unlock()
	if down {
		return errDown
	}
	slices.SortFunc(list, func(a, b s3sync.Object) int { return strings.Compare(a.Key, b.Key) })
	for _, o := range list {
		if err := fn(o); err != nil {
			return err
		}
	}
	return nil
}

func (s *objects) Delete(_ context.Context, key, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, key)
	return nil
}

func (s *objects) Retain(context.Context, string, string, time.Time) error { return nil }
