package save

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// listing describes every file of a directory: name, size, mode, times.
func listing(t *testing.T, dir string) (list []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(name, &st); err != nil {
			return err
		}
		list = append(list, fmt.Sprint(name, st.Ino, st.Mode, st.Size, st.Mtim, st.Ctim))
		return nil
	}))
	return list
}

// A dry run reads and counts like the save that follows, and touches neither the
// repository nor the index.
func TestDryRun(t *testing.T) {
	b := newBench(t, "rabin:13")
	b.zoo()
	b.write(".git/x", []byte("frowned on"))
	b.write("twice", noise(1, 3_000_000))
	for range 2 {
		age()
		b.update()
		before := listing(t, b.dir)
		ix, err := os.ReadFile(b.file)
		must(t, err)
		o := b.options()
		o.Strip = true // directories above the source change by themselves
		o.DryRun = true
		dry := b.save(o)
		if !slices.Equal(listing(t, b.dir), before) {
			t.Error("the repository changed")
		}
		if now, err := os.ReadFile(b.file); err != nil || string(now) != string(ix) {
			t.Errorf("the index changed: %v", err)
		}
		o = b.options()
		o.Strip = true
		res := b.save(o)
		dry.Elapsed, dry.Commit, res.Elapsed, res.Commit = 0, pack.ID{}, 0, pack.ID{}
		dry.BytesStored, res.BytesStored = dry.BytesStored/100, res.BytesStored/100 // the commits' times differ
		// Packs have heads and tails, which a dry run does not make.
		if d := res.BytesStored - dry.BytesStored; d >= 0 && d <= 2 {
			dry.BytesStored = res.BytesStored
		}
		if dry != res {
			t.Errorf("dry run %+v\nsave    %+v", dry, res)
		}
		b.write("dir/new", []byte("new"))
	}
}

// What is added waits until the rate allows it.
func TestRate(t *testing.T) {
	r := rate{perSecond: 1000}
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		after time.Duration // since the call before
		n     int
		want  time.Duration
	}{
		{0, 500, 500 * time.Millisecond},
		{0, 500, time.Second},
		{time.Second, 100, 100 * time.Millisecond},
		{time.Hour, 2000, 2 * time.Second}, // nothing is saved up
		{time.Second, 0, time.Second},
	} {
		now = now.Add(c.after)
		if got := r.delay(now, c.n); got != c.want {
			t.Errorf("%d bytes, %v later: wait %v, want %v", c.n, c.after, got, c.want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.take(ctx, 1<<40); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
}

// A save with a limit is the same save.
func TestBandwidth(t *testing.T) {
	b := newBench(t, "rabin:13")
	b.write("f", noise(1, 200_000))
	age()
	b.update()
	o := b.options()
	o.BytesPerSecond = 2_000_000
	res := b.save(o)
	if res.Elapsed < 90*time.Millisecond { // a bound that a slow machine does not break
		t.Errorf("200 kB at 2 MB/s took %v", res.Elapsed)
	}
	b.same(part(b.tree(res.Tree), b.src), b.expect())
}

// Files that are too large are left out whatever earlier saves did with them,
// those that are not stay, and the next save without the limit has all again.
func TestSmallerThanBefore(t *testing.T) {
	b := newBench(t, "rabin:13")
	b.write("big", noise(1, 5000))
	b.write("d/e/big", noise(2, 5000))
	b.write("d/e/small", []byte("s"))
	b.write("d/other/small", []byte("t"))
	must(t, os.Link(b.src+"/d/e/big", b.src+"/d/link"))
	must(t, os.Symlink("big", b.src+"/to-big"))
	all := []string{".", "big", "d", "d/e", "d/e/big", "d/e/small", "d/link", "d/other", "d/other/small", "to-big"}
	few := []string{".", "d", "d/e", "d/e/small", "d/other", "d/other/small", "to-big"}
	check := func(what string, res Result, want []string) {
		t.Helper()
		if got := names(part(b.tree(res.Tree), b.src)); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
		files := 0
		for _, n := range want {
			if st, err := os.Lstat(filepath.Join(b.src, n)); err == nil && !st.IsDir() {
				files++
			}
		}
		if res.Files != int64(files) || len(b.warn) > 0 {
			t.Errorf("%s: %d files counted, %d wanted; warnings of %q", what, res.Files, files, b.warn)
		}
	}
	check("first", b.fresh(), all)
	limited := func(max int64) Result {
		t.Helper()
		b.update()
		o := b.options()
		o.MaxSize = max
		return b.save(o)
	}
	for range 2 {
		res := limited(5000)
		check("unchanged files", res, few)
		if res.FilesRead > 0 {
			t.Errorf("%d files were read", res.FilesRead)
		}
		if b.record(b.src+"/d/e").Flags&index.Valid != 0 || b.record(b.src+"/d/other").Flags&index.Valid == 0 {
			t.Error("marked: the directory of what was left out, or not the one of what was not")
		}
	}
	check("a higher limit", limited(5001), all)
	check("low", limited(5000), few)
	res := b.fresh()
	check("no limit", res, all)
	if res.FilesRead > 0 {
		t.Errorf("no limit: %d files were read", res.FilesRead)
	}
	b.write("d/e/big", noise(3, 6000))
	age()
	check("changed", limited(5000), few)
	check("all of it", b.fresh(), all)
	b.same(part(b.tree(b.fresh().Tree), b.src), b.expect())
}

// The functions of Options are called one at a time, and the last progress is
// the whole.
func TestCallbacks(t *testing.T) {
	b := newBench(t, "rabin:13")
	b.zoo()
	for i := range 200 {
		b.write(fmt.Sprintf("many/%d", i), noise(i, 5000))
	}
	age()
	b.update()
	must(t, os.Remove(b.src+"/many/7"))
	var busy atomic.Int32
	var last Progress
	enter := func() {
		if busy.Add(1) != 1 {
			t.Error("two at once")
		}
		time.Sleep(10 * time.Microsecond)
	}
	o := b.options()
	o.Warn = func(string, error) { enter(); busy.Add(-1) }
	o.Seen = func(string, bool, byte) { enter(); busy.Add(-1) }
	o.Progress = func(p Progress) { enter(); last = p; busy.Add(-1) }
	o.Streams = []Stream{text("/s", "stream")}
	res := b.save(o)
	if last.Files != res.FilesRead || last.FilesTotal != res.FilesRead+2 { // large has three names; one is gone; the stream is not in the index
		t.Errorf("%d of %d files, %d read", last.Files, last.FilesTotal, res.FilesRead)
	}
	if last.Path != "/s" || last.Bytes < 5000*199 || last.BytesTotal < last.Bytes {
		t.Errorf("%+v", last)
	}
}

// Two saves to one name at the same time both end up in its history.
func TestTwoAtOnce(t *testing.T) {
	b := newBench(t, "rabin:13")
	b.zoo()
	age()
	b.update()
	data, err := os.ReadFile(b.file)
	must(t, err)
	const savers = 4
	var results [savers]Result
	var errs [savers]error
	var wg sync.WaitGroup
	for i := range savers {
		file := fmt.Sprintf("%s-%d", b.file, i)
		must(t, os.WriteFile(file, data, 0o600))
		ix, err := index.OpenExclusive(noSync(), file, time.Minute)
		must(t, err)
		defer ix.Close()
		o := Options{
			Repo: b.open(), FS: noSync(), Index: ix, Name: "x", Roots: []string{b.src}, Author: "A <a@b>",
			Streams: []Stream{text("/which", fmt.Sprint("saver ", i))},
		}
		wg.Go(func() { results[i], errs[i] = Run(context.Background(), o) })
	}
	wg.Wait()
	want := map[pack.ID]bool{}
	for i := range savers {
		must(t, errs[i])
		want[results[i].Tree] = true
	}
	if len(want) != savers {
		t.Fatalf("%d trees", len(want))
	}
	n := 0
	must(t, repo.WalkCommits(context.Background(), b.repo, b.tip("x"), func(_ pack.ID, c *repo.Commit) error {
		n++
		delete(want, c.Tree)
		return nil
	}))
	if n != savers || len(want) > 0 {
		t.Errorf("%d commits; %d saves are not among them", n, len(want))
	}
}

// Without a name no ref moves; without a path no index is needed.
func TestNoName(t *testing.T) {
	b := newBench(t, "rabin:13")
	o := b.options()
	o.Roots, o.Name, o.Streams = nil, "", []Stream{text("/s", "stream")}
	res := b.save(o)
	if refs, err := b.repo.Refs(context.Background(), ""); err != nil || len(refs) > 0 {
		t.Errorf("%v, %v", refs, err)
	}
	if got := b.tree(res.Tree); got["s"].data != "stream" || b.message(res.Commit) == "" {
		t.Errorf("saved %q", names(got))
	}
	for _, bad := range []string{"a..b", "/", "x.lock", " "} {
		o.Name = bad
		if _, err := b.try(o); err == nil {
			t.Errorf("the name %q is taken", bad)
		}
	}
	o.Name, o.Roots = "x", []string{b.src}
	if _, err := Run(context.Background(), o); err == nil {
		t.Error("a path is saved without an index")
	}
}

// Date, message and author of the commit.
func TestCommit(t *testing.T) {
	b := newBench(t, "rabin:13")
	b.write("f", []byte("f"))
	age()
	b.update()
	o := b.options()
	o.Date = time.Unix(1_700_000_000, 0)
	o.Host, o.Version = "host\nname", "v1"
	res := b.save(o)
	must(t, b.repo.Get(context.Background(), []pack.ID{res.Commit}, func(_ int, _ pack.Type, body []byte) error {
		c, err := repo.ParseCommit(body)
		if c.Author.Who != "A <a@b>" || !c.Author.When.Equal(o.Date) || c.Committer.Who != "A <a@b>" || len(c.Parents) != 0 {
			t.Errorf("%+v", c)
		}
		want := "kedge save\n\nKedge-Version: v1\nKedge-Host: hostname\nKedge-Files: 1\nKedge-Bytes: 1\nKedge-Unreadable: 0\n"
		if c.Message != want {
			t.Errorf("message:\n%s", c.Message)
		}
		return err
	}))
}
