package crash_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/internal/fsx/crash"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree lists what stands below dir, "a/f=content", directories with a slash.
func tree(t testing.TB, dir string) string {
	t.Helper()
	var out []string
	must(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		switch {
		case d.IsDir():
			rel += "/"
		case d.Type()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(name)
			rel += "->" + to
		default:
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			rel += "=" + string(data)
		}
		out = append(out, rel)
		return nil
	}))
	return strings.Join(out, " ")
}

// script performs steps like "create d/f", "write f data", "sync f", "syncdir .",
// "rename a b", and returns the recorder.
func script(t testing.TB, root, steps string) *crash.Recorder {
	t.Helper()
	rec, err := crash.New(root)
	must(t, err)
	f := &fsx.FS{Intercept: rec.Intercept}
	open := map[string]*fsx.File{}
	for line := range strings.Lines(steps) {
		w := append(strings.Fields(line), "", "", "")
		a, b := filepath.Join(root, w[1]), filepath.Join(root, w[2])
		var err error
		switch w[0] {
		case "create":
			open[w[1]], err = f.Create(a, 0o644)
		case "open":
			open[w[1]], err = f.OpenWrite(a)
		case "write":
			_, err = open[w[1]].Write([]byte(w[2]))
		case "truncate":
			err = open[w[1]].Truncate(int64(len(w[2])))
		case "sync":
			err = open[w[1]].Sync()
		case "close":
			err = open[w[1]].Close()
		case "mkdir":
			err = f.Mkdir(a, 0o755)
		case "link":
			err = f.Link(a, b)
		case "rename":
			err = f.Rename(a, b)
		case "remove":
			err = f.Remove(a)
		case "syncdir":
			err = f.SyncDir(a)
		case "lock":
			_, err = f.Lock(a, fsx.Exclusive, 0)
		case "":
		default:
			t.Fatalf("no such step: %q", line)
		}
		must(t, err)
	}
	return rec
}

func state(t testing.TB, rec *crash.Recorder, k int, seed uint64, survival float64) string {
	t.Helper()
	dir := inMemory(t)
	must(t, rec.State(k, seed, survival, dir))
	return tree(t, dir)
}

// inMemory returns a fresh directory in memory: there are thousands of states.
func inMemory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "crash-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// What is on the disk for certain after the steps, and what a killed process
// leaves: the two ends of the model.
func TestDurable(t *testing.T) {
	tests := []struct{ name, steps, durable, seen string }{
		{"nothing", "", "old=was", "old=was"},
		{"name without sync", "create f\nwrite f x\nsync f", "old=was", "f=x old=was"},
		{"data without sync", "create f\nwrite f x\nsyncdir .", "f= old=was", "f=x old=was"},
		{"both", "create f\nwrite f x\nsync f\nsyncdir .", "f=x old=was", "f=x old=was"},
		{"more after the sync", "create f\nwrite f x\nsync f\nsyncdir .\nwrite f y", "f=x old=was", "f=xy old=was"},
		{"overwrite", "open old\nwrite old W", "old=was", "old=Was"},
		{"overwrite, synced", "open old\nwrite old W\nsync old", "old=Was", "old=Was"},
		{"truncate", "open old\ntruncate old x", "old=was", "old=w"},
		{"truncate, synced", "open old\ntruncate old x\nsync old", "old=w", "old=w"},
		{"rename before sync", "create f\nwrite f x\nrename f old\nsyncdir .", "old=", "old=x"},
		{"rename after sync", "create f\nwrite f x\nsync f\nrename f old\nsyncdir .", "old=x", "old=x"},
		{"rename, not synced", "create f\nwrite f x\nsync f\nrename f old", "old=was", "old=x"},
		{"write after rename", "create f\nrename f g\nwrite f x\nsync f\nsyncdir .", "g=x old=was", "g=x old=was"},
		{"rename to its own link", "link old l\nsyncdir .\nrename old l\nsyncdir .", "l=was old=was", "l=was old=was"},
		{"remove", "remove old", "old=was", ""},
		{"remove, synced", "remove old\nsyncdir .", "", ""},
		{"remove and make anew", "remove old\ncreate old\nsyncdir .", "old=", "old="},
		{"directory", "mkdir d\ncreate d/f\nsyncdir d", "old=was", "d/ d/f= old=was"},
		{"directory, synced", "mkdir d\ncreate d/f\nsyncdir .", "d/ old=was", "d/ d/f= old=was"},
		{"all the way", "mkdir d\ncreate d/f\nsyncdir d\nsyncdir .", "d/ d/f= old=was", "d/ d/f= old=was"},
		{"link", "link old l", "old=was", "l=was old=was"},
		{"lock", "lock l\nsyncdir .", "l= old=was", "l= old=was"},
		{"out of a directory", "mkdir d\ncreate d/f\nsyncdir d\nsyncdir .\nrename d/f g", "d/ d/f= old=was", "d/ g= old=was"},
		{"out of a directory, new name synced", "mkdir d\ncreate d/f\nsyncdir d\nsyncdir .\nrename d/f g\nsyncdir .",
			"d/ d/f= g= old=was", "d/ g= old=was"},
		{"out of a directory, old name synced", "mkdir d\ncreate d/f\nsyncdir d\nsyncdir .\nrename d/f g\nsyncdir d",
			"d/ d/f= old=was", "d/ g= old=was"},
		{"out of a directory, both synced", "mkdir d\ncreate d/f\nsyncdir d\nsyncdir .\nrename d/f g\nsyncdir .\nsyncdir d",
			"d/ g= old=was", "d/ g= old=was"},
		{"directory moved", "mkdir d\ncreate d/f\nsyncdir d\nsyncdir .\nmkdir e\nsyncdir .\nrename d e/d\nsyncdir e",
			"d/ d/f= e/ old=was", "e/ e/d/ e/d/f= old=was"},
	}
	for _, tt := range tests {
		root := t.TempDir()
		must(t, os.WriteFile(root+"/old", []byte("was"), 0o644))
		rec := script(t, root, tt.steps)
		if got := state(t, rec, rec.Len(), 1, 0); got != tt.durable {
			t.Errorf("%s: durable is %q, want %q", tt.name, got, tt.durable)
		}
		if got := state(t, rec, rec.Len(), 1, 1); got != tt.seen {
			t.Errorf("%s: all is %q, want %q", tt.name, got, tt.seen)
		}
		if got := tree(t, root); got != tt.seen {
			t.Errorf("%s: the real file system has %q, want %q", tt.name, got, tt.seen)
		}
		if got := state(t, rec, 0, 1, 1); got != "old=was" {
			t.Errorf("%s: before the first change: %q", tt.name, got)
		}
	}
}

// With a survival of 1 the state after each change is what the process saw then.
func TestSeenAfterEachChange(t *testing.T) {
	rec := script(t, t.TempDir(), "create f\nwrite f ab\nmkdir d\nlink f d/g\nrename f h\nwrite f c\nremove h")
	want := []string{"", "f=", "f=ab", "d/ f=ab", "d/ d/g=ab f=ab", "d/ d/g=ab h=ab", "d/ d/g=abc h=abc", "d/ d/g=abc"}
	for k, want := range want {
		if got := state(t, rec, k, 1, 1); got != want {
			t.Errorf("after %d: %q, want %q", k, got, want)
		}
	}
	if err := rec.State(len(want), 1, 1, t.TempDir()); err == nil {
		t.Error("a state after more changes than there were")
	}
	if op := rec.Op(4); op.Kind != fsx.KindLink {
		t.Errorf("change 4 is %v", op.Kind)
	}
}

// Between the ends everything that the model allows turns up, and nothing else.
func TestWhatMaySurvive(t *testing.T) {
	tests := []struct {
		name, steps string
		want        []string
	}{
		{"create and write", "create f\nwrite f x", []string{"", "f=", "f=\x00", "f=x"}},
		{"two names", "create a\ncreate b", []string{"", "a=", "a= b=", "b="}},
		{"rename in place is atomic", "create a\nsyncdir .\nrename a b", []string{"a=", "b="}},
		{"rename of what has no name yet", "create a\nrename a b", []string{"", "a=", "b="}},
		{"rename across leaves at least one", "mkdir d\ncreate a\nsyncdir .\nrename a d/a",
			[]string{"a= d/", "a= d/ d/a=", "d/ d/a="}},
		{"removal without the link before it", "create a\nsyncdir .\nlink a b\nremove a",
			[]string{"", "a=", "a= b=", "b="}},
	}
	for _, tt := range tests {
		rec := script(t, t.TempDir(), tt.steps)
		seen := map[string]bool{}
		for seed := range uint64(300) {
			seen[state(t, rec, rec.Len(), seed, 0.5)] = true
		}
		var got []string
		for s := range seen {
			got = append(got, s)
		}
		slices.Sort(got)
		slices.Sort(tt.want)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q\nwant %q", tt.name, got, tt.want)
		}
	}
}

// A large write is cut at pages and torn at sectors; each byte is the new or
// the old one. The same seed gives the same bytes.
func TestTornPages(t *testing.T) {
	const size, off = 10 * 4096, 1000
	root := t.TempDir()
	old := bytes.Repeat([]byte{'o'}, size)
	must(t, os.WriteFile(root+"/f", old, 0o644))
	rec, err := crash.New(root)
	must(t, err)
	file, err := (&fsx.FS{Intercept: rec.Intercept}).OpenWrite(root + "/f")
	must(t, err)
	_, err = file.WriteAt(bytes.Repeat([]byte{'n'}, size-2*off), off)
	must(t, err)
	must(t, file.Close())
	var kept, lost, torn int
	for seed := range uint64(100) {
		got := strings.TrimPrefix(state(t, rec, 1, seed, 0.5), "f=")
		if again := strings.TrimPrefix(state(t, rec, 1, seed, 0.5), "f="); again != got {
			t.Fatalf("seed %d gave two states", seed)
		}
		if len(got) != size || got[:off] != string(old[:off]) || got[size-off:] != string(old[:off]) {
			t.Fatalf("seed %d: bytes changed that were not written", seed)
		}
		for p := 4096; p < size-4096; p += 4096 {
			n := strings.Count(got[p:p+4096], "n")
			switch n {
			case 0:
				lost++
			case 4096:
				kept++
			default:
				torn++
				if n%512 != 0 || got[p:p+n] != strings.Repeat("n", n) {
					t.Errorf("seed %d: page at %d has %d new bytes", seed, p, n)
				}
			}
		}
	}
	if kept < 200 || lost < 200 || torn < 10 {
		t.Errorf("%d pages kept, %d lost, %d torn", kept, lost, torn)
	}
}

func TestKeepsWhatWasThere(t *testing.T) {
	root := t.TempDir()
	must(t, os.MkdirAll(root+"/a/b", 0o700))
	must(t, os.WriteFile(root+"/a/b/f", []byte("x"), 0o600))
	must(t, os.Symlink("a/b", root+"/l"))
	rec, err := crash.New(root + "/")
	must(t, err)
	f := &fsx.FS{Intercept: rec.Intercept}
	must(t, f.Mkdir(t.TempDir()+"/outside", 0o755)) // is none of its business
	if rec.Len() != 0 {
		t.Errorf("%d changes", rec.Len())
	}
	must(t, f.SyncDir(root))
	dir := t.TempDir()
	must(t, rec.State(1, 0, 0, dir))
	if got, want := tree(t, dir), "a/ a/b/ a/b/f=x l->a/b"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	info, err := os.Stat(dir + "/a/b/f")
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := crash.New(root + "/none"); err == nil {
		t.Error("recorded in no directory")
	}
}

// Who waits for a lock does not keep the others from working.
func TestLockDoesNotBlock(t *testing.T) {
	root := t.TempDir()
	rec, err := crash.New(root)
	must(t, err)
	f := &fsx.FS{Intercept: rec.Intercept}
	held, err := f.Lock(root+"/l", fsx.Exclusive, 0)
	must(t, err)
	done := make(chan error)
	go func() {
		l, err := f.Lock(root+"/l", fsx.Exclusive, time.Minute)
		if err == nil {
			_, err = l.File().Write([]byte("x"))
			l.Unlock()
		}
		done <- err
	}()
	must(t, f.Mkdir(root+"/d", 0o755))
	must(t, held.Unlock())
	must(t, <-done)
	if got := state(t, rec, rec.Len(), 0, 1); got != "d/ l=x" {
		t.Errorf("%q", got)
	}
}

// publish is the write path in small: a file is made under a temporary name,
// linked to its own, and a pointer to it is replaced. Each step that makes it
// safe can be left out.
type publish struct {
	noFileSync, noDirSync, noRefSync, noRefDirSync, renameFirst, refFirst bool
}

var packBytes = strings.Repeat("pack ", 3000)

func (p publish) run(f *fsx.FS, root string) error {
	if p.refFirst {
		if err := p.ref(f, root); err != nil {
			return err
		}
	}
	file, err := f.Create(root+"/tmp/pack", 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write([]byte(packBytes)); err != nil {
		return err
	}
	sync := func() error {
		if p.noFileSync {
			return nil
		}
		return file.Sync()
	}
	if !p.renameFirst {
		if err := sync(); err != nil {
			return err
		}
	}
	if err := f.Rename(root+"/tmp/pack", root+"/pack/1"); err != nil {
		return err
	}
	if !p.noDirSync {
		if err := f.SyncDir(root + "/pack"); err != nil {
			return err
		}
	}
	if p.renameFirst {
		if err := sync(); err != nil {
			return err
		}
	}
	if p.refFirst {
		return nil
	}
	return p.ref(f, root)
}

func (p publish) ref(f *fsx.FS, root string) error {
	file, err := f.Create(root+"/ref.lock", 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write([]byte("pack/1")); err != nil {
		return err
	}
	if !p.noRefSync {
		if err := file.Sync(); err != nil {
			return err
		}
	}
	if err := f.Rename(root+"/ref.lock", root+"/ref"); err != nil {
		return err
	}
	if p.noRefDirSync {
		return nil
	}
	return f.SyncDir(root)
}

// check is what must hold: the ref is the old or the new one, what it names is
// whole, a pack that has its name is whole, and what was promised is there.
func check(acked bool, dir string) error {
	ref, err := os.ReadFile(dir + "/ref")
	if err != nil {
		return err
	}
	switch string(ref) {
	case "pack/0":
		if acked {
			return errors.New("the promised ref is gone")
		}
	case "pack/1":
	default:
		return fmt.Errorf("ref is %q", ref)
	}
	if _, err := os.Stat(filepath.Join(dir, string(ref))); err != nil {
		return err
	}
	data, err := os.ReadFile(dir + "/pack/1")
	if err == nil && string(data) != packBytes {
		return errors.New("pack 1 is not whole")
	}
	return nil
}

// The right order passes every cut; each mutant is caught.
func TestMutants(t *testing.T) {
	tests := []struct {
		name string
		p    publish
		ok   bool
	}{
		{"as it should be", publish{}, true},
		{"no sync of the file", publish{noFileSync: true}, false},
		{"no sync of the directory", publish{noDirSync: true}, false},
		{"no sync of the ref", publish{noRefSync: true}, false},
		{"no sync of the ref's directory", publish{noRefDirSync: true}, false},
		{"rename before sync", publish{renameFirst: true}, false},
		{"ref before pack", publish{refFirst: true}, false},
	}
	for _, tt := range tests {
		root := t.TempDir()
		must(t, os.Mkdir(root+"/pack", 0o755))
		must(t, os.Mkdir(root+"/tmp", 0o755))
		must(t, os.WriteFile(root+"/pack/0", nil, 0o644))
		must(t, os.WriteFile(root+"/ref", []byte("pack/0"), 0o644))
		rec, err := crash.New(root)
		must(t, err)
		must(t, tt.p.run(&fsx.FS{Intercept: rec.Intercept}, root))
		scratch := inMemory(t)
		states, err := rec.Sweep(scratch, 10, func(cut crash.Cut, dir string) error {
			return check(cut.K == rec.Len(), dir)
		})
		if tt.ok != (err == nil) {
			t.Errorf("%s: %d states, %v", tt.name, states, err)
		}
		if err != nil && !strings.Contains(err.Error(), "power cut after change") {
			t.Errorf("%s: the error names no cut: %v", tt.name, err)
		}
		if entries, _ := os.ReadDir(scratch); len(entries) != 0 {
			t.Errorf("%s: %d states left behind", tt.name, len(entries))
		}
	}
}
