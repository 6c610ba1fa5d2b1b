package index

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

func at(sec int64, nsec int32) fsx.Time { return fsx.Time{Sec: sec, Nsec: nsec} }

func TestRacy(t *testing.T) {
	// Read at 1000.500 s; less clockLag that is 1000.480.
	start := time.Unix(1000, 500_000_000)
	old := at(900, 1)
	for _, c := range []struct {
		what  string
		stamp fsx.Time
		racy  bool
	}{
		{"long ago", old, false},
		{"before the epoch", at(-5, 999_999_999), false},
		{"just outside the lag", at(1000, 479_999_999), false},
		{"just inside", at(1000, 480_000_001), true},
		{"now", at(1000, 500_000_001), true},
		{"in the future", at(5000, 1), true},
		{"microseconds: 1000.479999", at(1000, 479_999_000), false},
		{"10 ms: 1000.47", at(1000, 470_000_000), false},
		{"10 ms: 1000.48", at(1000, 480_000_000), true},
		{"tenths: 1000.4 could be a clock that ticks ten times a second", at(1000, 400_000_000), true},
		{"tenths: 1000.3", at(1000, 300_000_000), false},
		{"whole: 1000, in FAT's tick", at(1000, 0), true},
		{"whole: 999", at(999, 0), false},
		{"whole: 1002", at(1002, 0), true},
		{"whole, in the past", at(500, 0), false},
	} {
		if got := Racy(fsx.Stat{Mtime: c.stamp, Ctime: old}, start); got != c.racy {
			t.Errorf("mtime %s: %v", c.what, got)
		}
		if got := Racy(fsx.Stat{Mtime: old, Ctime: c.stamp}, start); got != c.racy {
			t.Errorf("ctime %s: %v", c.what, got)
		}
	}
	// FAT counts by two: 1001 is in the tick of 1000.
	odd := time.Unix(1001, 900_000_000)
	if !Racy(fsx.Stat{Mtime: at(1000, 0)}, odd) || Racy(fsx.Stat{Mtime: at(998, 0), Ctime: old}, odd) {
		t.Error("two-second ticks are not seen")
	}
}

// TestRacyCatches simulates clocks: a file is changed, read by a save, changed
// again. If both changes leave the same time the save must have called it racy.
func TestRacyCatches(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	caught := 0
	for range 200_000 {
		grain := []int64{1, 100, 1000, 1e6, 10e6, 1e9, 2e9}[r.IntN(7)]
		tick := []int64{1e6, 4e6, 10e6}[r.IntN(3)] // of the kernel's clock
		stamp := func(now int64) fsx.Time {
			now -= now % tick
			now -= now % grain
			return at(now/1e9, int32(now%1e9))
		}
		first := 1_700_000_000e9 + r.Int64N(4e9)
		read := first + r.Int64N(1<<(1+r.IntN(32)))
		second := read + r.Int64N(1<<(1+r.IntN(32)))
		if stamp(first) != stamp(second) {
			continue
		}
		st := fsx.Stat{Mtime: stamp(first), Ctime: stamp(first)}
		if !Racy(st, time.Unix(0, read)) {
			t.Fatalf("grain %d, tick %d: changed at %d and %d, read at %d: not seen", grain, tick, first, second, read)
		}
		caught++
	}
	if caught < 1000 {
		t.Errorf("only %d cases of changes within a tick", caught)
	}
}

// markAll does what a save does at a given time: it reads every record that is
// not valid, and marks those that are not racy.
func markAll(t *testing.T, name string, now time.Time) (read []string) {
	t.Helper()
	f := exclusive(t, noSync(), name)
	defer f.Close()
	w := f.Rewrite()
	it := f.Records("/")
	for it.Next() {
		rec := it.Record().Clone()
		switch {
		case rec.Flags&Exists == 0:
			if err := w.Drop(it.Ordinal()); err != nil {
				t.Fatal(err)
			}
			continue
		case rec.Flags&Valid != 0:
			continue
		}
		d, err := fsx.OpenDir(filepath.Dir(rec.Path))
		if err != nil {
			t.Fatal(err)
		}
		if rec.Stat, err = d.Lstat(filepath.Base(rec.Path)); err != nil {
			t.Fatal(err)
		}
		d.Close()
		content, _ := os.ReadFile(rec.Path)
		rec.ID, rec.GitMode = pack.Sum(pack.Blob, content), gitModeOf(rec.Stat.Mode)
		rec.Flags = Exists
		if !Racy(rec.Stat, now) {
			rec.Flags |= Valid
		}
		if err := w.Set(it.Ordinal(), &rec); err != nil {
			t.Fatal(err)
		}
		if !rec.IsDir() {
			read = append(read, filepath.Base(rec.Path))
		}
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	return read
}

// TestRacyFile goes through index and save with a file that changes without its
// stat data telling, as it would within one tick.
func TestRacyFile(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	name := filepath.Join(dir, "index")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "a"), []byte("one"), 0o644); err != nil {
		t.Fatal(err)
	}
	d, err := fsx.OpenDir(src)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	st, err := d.Lstat("a")
	if err != nil {
		t.Fatal(err)
	}
	changed := time.Unix(st.Ctime.Sec, int64(st.Ctime.Nsec))
	o := Options{File: name, Roots: []string{src}}

	run := func(what string, now time.Time, wantRead ...string) {
		t.Helper()
		o.Now = func() time.Time { return now }
		update(t, o)
		read := markAll(t, name, now)
		if len(read) != len(wantRead) {
			t.Errorf("%s: %q read, want %q", what, read, wantRead)
		}
		openIndex(t, name)
	}
	run("first, in the tick of the change", changed, "a")
	run("second, still in it", changed.Add(clockLag), "a")
	run("third, later", changed.Add(time.Minute), "a")
	run("fourth", changed.Add(time.Hour))
	run("the clock is set back to before the change", changed.Add(-time.Hour), "a")
	run("and is still behind", changed.Add(-time.Minute), "a")
	run("and has caught up", changed.Add(time.Minute), "a")
	run("at last", changed.Add(2*time.Minute))

	future := changed.Add(1000 * time.Hour)
	if err := os.Chtimes(filepath.Join(src, "a"), future, future); err != nil {
		t.Fatal(err)
	}
	now := time.Now().Add(time.Hour)
	run("an mtime in the future", now, "a")
	run("is read every time", now.Add(time.Hour), "a")
	run("until it is past", future.Add(time.Hour), "a")
	run("and then no more", future.Add(2*time.Hour))
}
