package s3sync_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/s3sync"
)

const day = 24 * time.Hour

// testClock is what a store and those who use it agree on.
type testClock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *testClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *testClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// orchard is a bucket that is pruned.
type orchard struct {
	*source
	m     *memory
	b     *s3sync.Bucket
	clock *testClock
	aside string // packs that the repository does not have any more
}

func newOrchard(t *testing.T) *orchard {
	o := &orchard{source: newSource(t), m: newMemory(), clock: &testClock{t: time.Now()}, aside: t.TempDir()}
	o.m.now = o.clock.now
	o.b = &s3sync.Bucket{Objects: &s3sync.Patient{Objects: o.m, Pause: time.Microsecond}, Prefix: "p/build/"}
	return o
}

// clone returns the same again, to be spoiled.
func (o *orchard) clone() *orchard {
	o.t.Helper()
	c := &orchard{
		source: &source{t: o.t, dir: filepath.Join(o.t.TempDir(), "r"), saves: slices.Clone(o.saves)},
		m:      newMemory(), clock: &testClock{t: o.clock.now()}, aside: o.aside,
	}
	if out, err := exec.Command("cp", "-a", o.dir, c.dir).CombinedOutput(); err != nil {
		o.t.Fatalf("%v: %s", err, out)
	}
	c.m.objects, c.m.times, c.m.now = maps.Clone(o.m.objects), maps.Clone(o.m.times), c.clock.now
	c.b = &s3sync.Bucket{Objects: &s3sync.Patient{Objects: c.m, Pause: time.Microsecond}, Prefix: o.b.Prefix}
	return c
}

// repack puts all that the source has into one pack, and the old ones aside.
func (o *orchard) repack() {
	o.t.Helper()
	old, err := filepath.Glob(o.dir + "/objects/pack/pack-*")
	if err != nil {
		o.t.Fatal(err)
	}
	for _, name := range old {
		if err := os.Link(name, filepath.Join(o.aside, filepath.Base(name))); err != nil && !errors.Is(err, os.ErrExist) {
			o.t.Fatal(err)
		}
	}
	if out, err := exec.Command("git", "-C", o.dir, "repack", "-a", "-d", "-q").CombinedOutput(); err != nil {
		o.t.Fatalf("%v: %s", err, out)
	}
}

// bringBack puts the packs back that repack put aside.
func (o *orchard) bringBack() {
	o.t.Helper()
	old, err := os.ReadDir(o.aside)
	if err != nil {
		o.t.Fatal(err)
	}
	for _, e := range old {
		err := os.Link(filepath.Join(o.aside, e.Name()), filepath.Join(o.dir, "objects/pack", e.Name()))
		if err != nil && !errors.Is(err, os.ErrExist) {
			o.t.Fatal(err)
		}
	}
}

// weeks makes a generation a week, and a new pack of all that is there every other one.
func (o *orchard) weeks(n int) {
	o.t.Helper()
	for i := range n {
		o.save(2)
		if i%2 == 1 {
			o.repack()
		}
		o.mirror(o.b)
		o.clock.add(7 * day)
	}
}

func (o *orchard) prune(keep int) (s3sync.PruneResult, error) {
	return o.b.Prune(context.Background(), s3sync.PruneOptions{Keep: keep, Now: o.clock.now})
}

func (o *orchard) mustPrune(keep int) s3sync.PruneResult {
	o.t.Helper()
	r, err := o.prune(keep)
	if err != nil {
		o.t.Fatal(err)
	}
	return r
}

// intact makes sure that every generation that is listed is complete and can be read, and
// returns their numbers. One that came too late is known as such.
func (o *orchard) intact() (numbers []uint64) {
	o.t.Helper()
	ctx := context.Background()
	err := o.b.Generations(ctx, func(l s3sync.Listed) error {
		if o.m != nil && o.m.late[fmt.Sprintf("%smanifests/%016x", o.b.Prefix, ^l.N)] {
			if !l.Pruned {
				o.t.Errorf("generation %d came when there were newer ones, and counts", l.N)
			}
			return nil
		}
		numbers = append(numbers, l.N)
		return l.Err
	})
	if err != nil {
		o.t.Fatalf("%v: %v", numbers, err)
	}
	for _, n := range numbers {
		g, err := o.b.At(ctx, n)
		if err != nil {
			o.t.Fatal(err)
		}
		r, err := o.b.Verify(ctx, g, s3sync.VerifyOptions{ReadShare: 1}, func(f s3sync.File, err error) { o.t.Errorf("generation %d: %s: %v", n, f.Key, err) })
		if err != nil || r.Damaged > 0 {
			o.t.Fatalf("generation %d: %+v, %v", n, r, err)
		}
		o.checkRefs(g)
	}
	return numbers
}

// checkRefs makes sure that a generation holds the saves that its ref says.
func (o *orchard) checkRefs(g *s3sync.Generation) {
	o.t.Helper()
	for i, x := range o.saves {
		if len(g.Refs) == 1 && g.Refs[0].ID == x.Commit {
			o.check(o.b, g, i+1)
			return
		}
	}
	o.t.Fatalf("generation %d has refs %v", g.N, g.Refs)
}

// keys returns the keys that the bucket has.
func (o *orchard) keys() []string {
	var list []string
	for key := range o.m.objects {
		list = append(list, strings.TrimPrefix(key, o.b.Prefix))
	}
	slices.Sort(list)
	return list
}

// What no kept generation needs is dropped by one run and deleted by another days later.
func TestPrune(t *testing.T) {
	o := newOrchard(t)
	o.weeks(20)
	before := len(o.keys())
	dry, err := o.b.Prune(context.Background(), s3sync.PruneOptions{Keep: 3, DryRun: true, Now: o.clock.now})
	if err != nil || len(o.keys()) != before || dry.Dropped == 0 || dry.Generation != 0 {
		t.Fatalf("dry: %+v, %v", dry, err)
	}
	r := o.mustPrune(3)
	if r.Dropped != dry.Dropped || r.DroppedBytes != dry.DroppedBytes || r.Deleted != 0 || r.Generation != 21 || r.Generations != 3 {
		t.Errorf("the first run: %+v, dry %+v", r, dry)
	}
	if got := len(o.intact()); got != 21 {
		t.Errorf("%d generations", got)
	}
	o.clock.add(71 * time.Hour)
	if r := o.mustPrune(3); r.Deleted != 0 || r.Generation != 0 || r.Waiting != dry.Dropped || r.Next.Sub(o.clock.now()) > time.Hour {
		t.Errorf("too early: %+v", r)
	}
	o.clock.add(time.Hour)
	r = o.mustPrune(3)
	if r.Deleted != dry.Dropped || r.DeletedBytes != dry.DroppedBytes || r.Generation != 22 {
		t.Errorf("the second run: %+v", r)
	}
	want := []uint64{22, 21, 20, 19, 18, 17, 16}
	if got := o.intact(); !slices.Equal(got[:4], want[:4]) || len(got) > 6 { // and what these are based on
		t.Errorf("generations %v", got)
	}
	if r := o.mustPrune(3); r.Deleted+r.Dropped+r.Waiting != 0 || r.Generation != 0 {
		t.Errorf("nothing is left to be done, and %+v", r)
	}
	// A bucket that is pruned for months does not grow.
	for range 10 {
		o.weeks(2)
		o.mustPrune(3)
		o.intact()
	}
	if n := len(o.keys()); n > before {
		t.Errorf("%d objects, %d before:\n%s", n, before, strings.Join(o.keys(), "\n"))
	}
	g, err := o.b.Latest(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	o.check(o.b, g, len(o.saves))
}

// Every run is cut at every request: what is listed can be read, and the next run completes.
func TestPruneFaults(t *testing.T) {
	broken := errors.New("the line is dead")
	for _, first := range []bool{true, false} {
		fresh := newOrchard(t)
		fresh.weeks(5)
		if !first {
			fresh.mustPrune(1)
			fresh.clock.add(4 * day)
		}
		for _, when := range []string{"before", "after"} {
			for k, done := int64(1), false; !done; k++ {
				o := fresh.clone()
				o.m.calls.Store(0)
				hook := func(n int64, _, _ string) error {
					if n >= k {
						return broken
					}
					return nil
				}
				if when == "before" {
					o.m.before = hook
				} else {
					o.m.after = hook
				}
				_, err := o.prune(1)
				if done = err == nil; !done && !errors.Is(err, broken) {
					t.Fatalf("request %d: %v", k, err)
				}
				o.m.before, o.m.after = nil, nil
				o.intact()
				if k%8 != 0 && !full {
					continue
				}
				o.weeks(1)
				for range 3 {
					o.mustPrune(1)
					o.clock.add(4 * day)
				}
				if got := o.intact(); got[len(got)-1] < 6 {
					t.Errorf("request %d: generations %v", k, got)
				}
			}
		}
	}
}

// An answer that is lost, or a request that fails the first time, changes nothing.
func TestPruneRetries(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		o := newOrchard(t)
		o.weeks(6)
		var seen sync.Map
		hook := func(_ int64, op, key string) error {
			if _, again := seen.LoadOrStore(op+" "+key, true); !again {
				return s3sync.Temporary(errors.New("503 SlowDown"))
			}
			return nil
		}
		if when == "before" {
			o.m.before = hook
		} else {
			o.m.after = hook
		}
		first := o.mustPrune(1)
		o.clock.add(4 * day)
		if r := o.mustPrune(1); r.Deleted != first.Dropped {
			t.Errorf("%s: %+v, then %+v", when, first, r)
		}
		o.m.before, o.m.after = nil, nil
		o.intact()
	}
}

// A key that was dropped is not named again: neither before it is deleted nor after.
func TestPruneComesBack(t *testing.T) {
	for _, deleted := range []bool{false, true} {
		o := newOrchard(t)
		o.weeks(6)
		dropped := make(map[string]bool)
		o.mustPrune(1)
		g, err := o.b.Latest(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range g.Drops {
			dropped[d.Key] = true
		}
		o.clock.add(4 * day)
		if deleted {
			o.mustPrune(1)
		}
		o.bringBack()
		o.save(1)
		o.mirror(o.b)
		if g, err = o.b.Latest(context.Background()); err != nil {
			t.Fatal(err)
		}
		again := 0
		for _, f := range g.Files {
			if dropped[f.Key] {
				t.Errorf("%s is named as %s", f.Name, f.Key)
			}
			if strings.Contains(f.Key, "~") {
				again++
			}
		}
		if again == 0 {
			t.Error("nothing came back")
		}
		for range 3 {
			o.clock.add(4 * day)
			o.mustPrune(1)
			o.intact()
		}
	}
}

// Raising what is kept brings back what was dropped, as long as nobody may have deleted it.
func TestPruneKeepMore(t *testing.T) {
	o := newOrchard(t)
	o.weeks(8)
	o.mustPrune(1)
	if r := o.mustPrune(8); r.Generation == 0 || r.Generations != 8 || r.Waiting != 0 || r.Dropped != 0 {
		t.Errorf("%+v", r)
	}
	o.clock.add(4 * day)
	o.mustPrune(8)
	if got := o.intact(); len(got) < 9 {
		t.Errorf("generations %v", got)
	}
	o.mustPrune(1)
	o.clock.add(4 * day)
	before := len(o.keys())
	o.m.before = func(_ int64, op, _ string) error { // a run that stops as soon as it may delete
		if op == "delete" {
			return errors.New("enough")
		}
		return nil
	}
	if _, err := o.prune(1); err == nil || len(o.keys()) != before+2 {
		t.Fatalf("%v, %d objects of %d", err, len(o.keys()), before)
	}
	o.m.before = nil
	if r := o.mustPrune(8); r.Generations != 1 {
		t.Errorf("another run may be deleting them, and %d generations are kept", r.Generations)
	}
	o.intact()
}

// What is not a mirror's is left alone, and what is damaged stops everything.
func TestPruneRefuses(t *testing.T) {
	o := newOrchard(t)
	if _, err := o.prune(1); !errors.As(err, new(*repo.NotFoundError)) {
		t.Errorf("an empty bucket: %v", err)
	}
	o.weeks(6)
	foreign := []string{"other/manifests/" + fmt.Sprintf("%016x", ^uint64(3)), "objects/info/packs", "notes.txt", "other/objects/pack/pack-x.pack"}
	for _, key := range foreign {
		if _, err := o.m.Put(context.Background(), o.b.Prefix+key, bodyOf([]byte("mine"))); err != nil {
			t.Fatal(err)
		}
	}
	stray := "objects/pack/pack-" + strings.Repeat("ab", 20) + ".pack"
	if _, err := o.m.Put(context.Background(), o.b.Prefix+stray, bodyOf([]byte("never committed"))); err != nil {
		t.Fatal(err)
	}
	isDropped := func() bool {
		g, err := o.b.Latest(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(g.Drops, func(d s3sync.Drop) bool { return d.Key == stray })
	}
	o.mustPrune(2)
	if isDropped() {
		t.Error("an object that a mirror may be about to name was dropped")
	}
	o.clock.add(8 * day)
	o.mustPrune(2)
	if !isDropped() {
		t.Error("an object of eight days that nobody names was not dropped")
	}
	o.clock.add(8 * day)
	o.mustPrune(2)
	for _, key := range foreign {
		if o.m.objects[o.b.Prefix+key] == nil {
			t.Errorf("%s was deleted", key)
		}
	}
	if o.m.objects[o.b.Prefix+stray] != nil {
		t.Errorf("%s is there", stray)
	}

	o.weeks(2)
	g, err := o.b.Latest(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	before := len(o.keys())
	for _, key := range []string{g.Files[len(g.Files)-1].Key, fmt.Sprintf("manifests/%016x", ^g.N)} {
		good := o.m.objects[o.b.Prefix+key]
		o.m.objects[o.b.Prefix+key] = good[:len(good)-1]
		copied := fmt.Sprintf("%sbases/%016x", o.b.Prefix, ^g.N)
		copy := o.m.objects[copied]
		delete(o.m.objects, copied)
		if _, err := o.prune(1); err == nil {
			t.Errorf("%s is cut short, and it prunes", key)
		}
		o.m.objects[o.b.Prefix+key] = good
		if copy != nil {
			o.m.objects[copied] = copy
		}
	}
	if len(o.keys()) != before {
		t.Errorf("%d objects, not %d", len(o.keys()), before)
	}
	o.m.lenient = true
	if _, err := o.prune(1); !errors.As(err, new(*s3sync.UnsafeStoreError)) {
		t.Errorf("a store that overwrites: %v", err)
	}
}
