package s3sync_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/repotest"
	"github.com/kedgebackup/kedge/s3sync"
)

// stopped is a store whose user stands still before it creates some objects.
type stopped struct {
	*memory
	at func(key string)
}

func (s stopped) Put(ctx context.Context, key string, b s3sync.Body) (string, error) {
	s.at(key)
	return s.memory.Put(ctx, key, b)
}

// A run that read what there was before a key was dropped sends it when it is gone. It stays
// dropped, as another prune may be about to delete it.
func TestPruneSentWhenGone(t *testing.T) {
	ctx := context.Background()
	o := newOrchard(t)
	o.weeks(6)
	o.bringBack()
	o.save(1)
	reached, goOn, done := make(chan bool), make(chan bool), make(chan error)
	stops := 0
	b := &s3sync.Bucket{Prefix: o.b.Prefix, Objects: stopped{o.m, func(key string) {
		if stops == 0 && filepath.Ext(key) == ".pack" || stops == 1 && putsManifest("put", key) {
			stops++
			reached <- true
			<-goOn
		}
	}}}
	go func() {
		_, err := b.Mirror(ctx, s3sync.MirrorOptions{Dir: o.dir, Workers: 1})
		done <- err
	}()
	<-reached // it has read the last generation, and sends the first pack
	stray := o.b.Prefix + "state/" + s3sync.SumOf(nil).String()
	if _, err := o.m.Put(ctx, stray, bodyOf([]byte("what a run left behind"))); err != nil {
		t.Fatal(err)
	}
	o.mustPrune(1)
	o.clock.add(4 * day)
	o.m.standStill(func(op, key string) bool { return op == "delete" && filepath.Ext(key) == ".pack" }, func() {
		o.mustPrune(1)
		goOn <- true
		<-reached // it makes its manifest
		o.clock.add(4 * day)
		if r := o.mustPrune(1); r.Dropped == 0 {
			t.Errorf("%+v", r)
		}
		goOn <- true
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if _, err := o.b.Prune(ctx, s3sync.PruneOptions{Keep: 1, Now: o.clock.now, Workers: 1}); err != nil {
		t.Fatal(err)
	}
	if stops != 2 {
		t.Errorf("the run stood still %d times", stops)
	}
	o.intact()
	for range 3 {
		o.clock.add(8 * day)
		o.mustPrune(1)
	}
	o.intact()
}

// A prune that stood still for months before it deletes anything does not begin with it.
func TestPruneStopsAtOnce(t *testing.T) {
	o := newOrchard(t)
	o.weeks(6)
	o.mustPrune(1)
	o.clock.add(4 * day)
	deletions := 0
	o.m.before = func(_ int64, op, key string) error {
		if putsManifest(op, key) {
			o.clock.add(91 * day)
		}
		if op == "delete" {
			deletions++
		}
		return nil
	}
	if _, err := o.prune(1); err == nil || deletions > 0 {
		t.Errorf("%d deletions, %v", deletions, err)
	}
}

// The answer to a deletion is lost, and when the prune goes on weeks later the key is another
// file's: a key that is gone is forgotten, as one prune alone was allowed to delete it.
func TestPruneDeletesOnce(t *testing.T) {
	o := newOrchard(t)
	o.weeks(6)
	o.mustPrune(1)
	o.clock.add(4 * day)
	again := ""
	o.m.after = func(_ int64, op, key string) error {
		if op != "delete" || filepath.Ext(key) != ".pack" {
			return nil
		}
		o.m.after, again = nil, key
		o.clock.add(8 * day)
		o.save(1)
		o.mirror(o.b)
		o.mustPrune(1)
		o.bringBack()
		o.save(1)
		o.mirror(o.b)
		return s3sync.Temporary(errors.New("the line is dead"))
	}
	if _, err := o.b.Prune(context.Background(), s3sync.PruneOptions{Keep: 1, Now: o.clock.now, Workers: 1}); err != nil {
		t.Fatal(err)
	}
	if again == "" || o.m.objects[again] == nil {
		t.Errorf("%q is deleted though it was sent again", again)
	}
	o.intact()
}

// shortSighted is a vault to somebody who may not list versions.
type shortSighted struct {
	*vault
	stat func(key string)
}

func (s shortSighted) Versions(context.Context, string, string, func(s3sync.Object) error) error {
	return &repo.RefusedError{Reason: "s3:ListBucketVersions"}
}

func (s shortSighted) Stat(ctx context.Context, key, version string) (s3sync.Object, error) {
	s.stat(key)
	return s.vault.Stat(ctx, key, version)
}

// A prune that may not list versions stands still, and one that may takes over: what comes to
// stand under a key then is not what the first one deletes.
func TestPruneTwoRights(t *testing.T) {
	ctx := context.Background()
	v := newVault()
	o := &orchard{source: newSource(t), b: &s3sync.Bucket{Objects: v, Prefix: "p/build/"}, clock: &testClock{t: time.Now()}, aside: t.TempDir()}
	v.now = o.clock.now
	o.weeks(6)
	o.mustPrune(1)
	o.clock.add(4 * day)
	again := ""
	s := shortSighted{v, func(key string) {
		if again != "" || filepath.Ext(key) != ".pack" {
			return
		}
		again = key
		o.mustPrune(1)
		o.clock.add(8 * day)
		o.save(1)
		o.mirror(o.b)
		o.mustPrune(1)
		o.bringBack()
		o.save(1)
		o.mirror(o.b)
	}}
	armed := false
	inner := s.stat
	s.stat = func(key string) { // those that mark what is needed come first
		if armed = armed || putsManifest("put", key); armed {
			inner(key)
		}
	}
	b := &s3sync.Bucket{Objects: s, Prefix: o.b.Prefix}
	if _, err := b.Prune(ctx, s3sync.PruneOptions{Keep: 1, Now: o.clock.now, Workers: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Stat(ctx, again, ""); again == "" || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%q is deleted though it was sent again", again)
	}
	o.intact()
}

// A save that stands still for weeks with packs that are sent and not named finds them gone.
func TestPruneSentLongAgo(t *testing.T) {
	ctx := context.Background()
	o := newOrchard(t)
	open := func() *repo.Packs {
		t.Helper()
		dir := t.TempDir()
		_ = live(t, o.b, dir).Close()
		l, err := o.b.Live(s3sync.LivingOptions{Dir: filepath.Join(dir, "bucket"), Now: o.clock.now})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		p, err := repo.OpenDepot(ctx, filepath.Join(dir, "desk"), l, repo.DirOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		return p
	}
	p, other := open(), open()
	n := 0
	save := func(p *repo.Packs) ([]pack.ID, error) {
		n++
		s := repotest.NewSave(fmt.Sprint("save ", n), 3)
		return append(s.Blobs, s.Tree), saveLive(p, "refs/heads/etc", s)
	}
	ids, err := save(p)
	if err != nil {
		t.Fatal(err)
	}
	o.m.standStill(putsManifest, func() {
		for range 4 {
			o.clock.add(4 * day)
			more, err := save(other)
			if err != nil {
				t.Error(err)
			}
			ids = append(ids, more...)
			o.mustPrune(1)
			o.clock.add(8 * day)
			o.mustPrune(1)
		}
	})
	if _, err := save(p); !errors.As(err, new(*repo.BusyError)) {
		t.Errorf("a save whose packs are gone: %v", err)
	}
	more, err := save(open())
	if err != nil {
		t.Fatal(err)
	}
	checkLive(t, o.b, append(ids, more...))
}

// signedBy believes one signature alone.
func signedBy(who string) func(*s3sync.Manifest, []byte) error {
	return func(m *s3sync.Manifest, _ []byte) error {
		if string(m.Signature) != who {
			return &repo.RefusedError{Reason: "it is signed by " + string(m.Signature)}
		}
		return nil
	}
}

func signAs(who string) func([]byte) ([]byte, error) {
	return func([]byte) ([]byte, error) { return []byte(who), nil }
}

// A run that comes too late, and does not trust who made the generations since, finds its own
// manifest to be the newest that is good. What that names may be gone all the same.
func TestPruneFreedNumberUntrusted(t *testing.T) {
	ctx := context.Background()
	o := newOrchard(t)
	mine := &s3sync.Bucket{Objects: o.m, Prefix: o.b.Prefix, Check: signedBy("me\n")}
	mirror := func(b *s3sync.Bucket, dir, who string) {
		t.Helper()
		if _, err := b.Mirror(ctx, s3sync.MirrorOptions{Dir: dir, StateDir: t.TempDir(), Sign: signAs(who)}); err != nil {
			t.Fatal(err)
		}
	}
	o.save(2)
	mirror(mine, o.dir, "me\n")
	o.save(1)
	standby := o.clone().dir
	o.m.standStill(putsManifest, func() {
		for range 4 {
			o.save(1)
			o.repack()
			mirror(o.b, o.dir, "somebody else\n")
			o.clock.add(8 * day)
			o.mustPrune(1)
			o.clock.add(8 * day)
			o.mustPrune(1)
		}
	})
	mirror(mine, standby, "me\n")
	if len(o.m.late) != 1 {
		t.Errorf("what came too late is %v", o.m.late)
	}
	g, err := mine.Latest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r, err := mine.Verify(ctx, g, s3sync.VerifyOptions{}, func(f s3sync.File, err error) { t.Errorf("%s: %v", f.Name, err) })
	if err != nil || r.Damaged > 0 {
		t.Errorf("generation %d: %+v, %v", g.N, r, err)
	}
}

// What somebody says who may write to the bucket, and whom nobody trusts, does not make a prune
// write a manifest that nobody can read.
func TestPruneWildDrops(t *testing.T) {
	ctx := context.Background()
	o := newOrchard(t)
	o.b.Check = signedBy("me\n")
	mirror := func() {
		t.Helper()
		o.save(1)
		if _, err := o.b.Mirror(ctx, s3sync.MirrorOptions{Dir: o.dir, Sign: signAs("me\n")}); err != nil {
			t.Fatal(err)
		}
	}
	mirror()
	wild := s3sync.Manifest{N: 2, Kind: s3sync.Full, Drops: []s3sync.Drop{
		{Key: fmt.Sprintf("manifests/%016x", ^uint64(900)), Since: 1, First: 1, Last: 2}, {Key: fmt.Sprintf("manifests/%016x", ^uint64(0)), Since: 1, First: 1, Last: 2},
	}}
	text := append(wild.Append(nil), "nobody\n"...)
	if _, err := o.m.Put(ctx, fmt.Sprintf("%smanifests/%016x", o.b.Prefix, ^wild.N), bodyOf(text)); err != nil {
		t.Fatal(err)
	}
	mirror()
	mirror()
	r, err := o.b.Prune(ctx, s3sync.PruneOptions{Keep: 1, Now: o.clock.now, Sign: signAs("me\n")})
	if err != nil || r.Generation == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if g, err := o.b.Latest(ctx); err != nil || g.N != r.Generation {
		t.Errorf("%+v, %v", g, err)
	}
}

// A key that was free meanwhile, and is taken by other bytes of the same length, is not named.
func TestMirrorSameLength(t *testing.T) {
	o := newOrchard(t)
	o.weeks(4)
	o.save(1)
	key := ""
	b := &s3sync.Bucket{Prefix: o.b.Prefix, Objects: stopped{o.m, func(k string) {
		if filepath.Ext(k) == ".pack" {
			key = k
		}
	}}}
	o.m.standStill(putsManifest, func() {
		o.mustPrune(1)
		other := make([]byte, len(o.m.objects[key]))
		delete(o.m.objects, key)
		if _, err := o.m.Put(context.Background(), key, bodyOf(other)); err != nil {
			t.Error(err)
		}
	})
	if _, err := b.Mirror(context.Background(), s3sync.MirrorOptions{Dir: o.dir}); err != nil {
		t.Fatal(err)
	}
	g, err := o.b.Latest(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range g.Files {
		if o.b.Prefix+f.Key == key {
			t.Errorf("%s is named as %s", f.Name, key)
		}
	}
}
