package s3sync_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/repotest"
	"github.com/kedgebackup/kedge/s3sync"
)

// standStill calls other when the first request comes for which at returns true, but for one
// that creates what is there.
func (m *memory) standStill(at func(op, key string) bool, other func()) {
	m.before = func(_ int64, op, key string) error {
		if at(op, key) && (op == "put") == (m.objects[key] == nil) {
			m.before = nil
			other()
		}
		return nil
	}
}

func putsManifest(op, key string) bool { return op == "put" && strings.Contains(key, "manifests/") }

// freeNumber has others take the next number, and prunes delete the manifest that has it.
func (o *orchard) freeNumber(make func()) {
	o.t.Helper()
	make()
	make()
	for range 2 {
		o.mustPrune(1)
		o.clock.add(4 * day)
	}
}

// Who stands still while the number that was to be had is taken, and its manifest deleted, comes
// too late and begins again.
func TestPruneFreedNumber(t *testing.T) {
	ctx := context.Background()
	for _, who := range []string{"mirror", "prune"} {
		o := newOrchard(t)
		o.weeks(3)
		o.save(1)
		standby := o.clone().dir
		o.m.standStill(putsManifest, func() {
			o.freeNumber(func() {
				o.save(1)
				o.mirror(o.b)
			})
		})
		if who == "mirror" {
			r, err := o.b.Mirror(ctx, s3sync.MirrorOptions{Dir: standby})
			if err != nil || r.Generation != 8 {
				t.Errorf("generation %d, %v", r.Generation, err)
			}
		} else if r := o.mustPrune(1); r.Generation == 4 {
			t.Errorf("%+v", r)
		}
		if len(o.m.late) != 1 {
			t.Errorf("%s: what came too late is %v", who, o.m.late)
		}
		o.intact()
		o.save(1)
		for range 3 {
			o.mirror(o.b)
			o.mustPrune(1)
			o.clock.add(4 * day)
		}
		o.intact()
		g, err := o.b.Latest(ctx)
		if err != nil {
			t.Fatal(err)
		}
		o.check(o.b, g, len(o.saves))
		for key := range o.m.late {
			if o.m.objects[key] != nil {
				t.Errorf("%s: %s is there yet", who, key)
			}
		}
	}
}

// The same for a save into a repository that lives in a bucket: it is not lost.
func TestPruneFreedNumberLiving(t *testing.T) {
	o := newOrchard(t)
	p, other := live(t, o.b, t.TempDir()), live(t, o.b, t.TempDir())
	var ids []pack.ID
	n := 0
	save := func(p *repo.Packs) {
		n++
		s := repotest.NewSave(fmt.Sprint("save ", n), 3)
		if err := saveLive(p, "refs/heads/etc", s); err != nil {
			t.Fatal(err)
		}
		ids = append(append(ids, s.Blobs...), s.Tree)
	}
	save(p)
	o.m.standStill(putsManifest, func() { o.freeNumber(func() { save(other) }) })
	save(p)
	if len(o.m.late) != 1 {
		t.Errorf("what came too late is %v", o.m.late)
	}
	save(other)
	checkLive(t, o.b, ids)
}

// A run that stood still does not put an older state in front of a newer one.
func TestMirrorOvertaken(t *testing.T) {
	o := newOrchard(t)
	o.weeks(2)
	o.save(1)
	o.m.standStill(putsManifest, func() {
		o.save(1)
		if _, err := o.b.Mirror(context.Background(), s3sync.MirrorOptions{Dir: o.dir, StateDir: t.TempDir()}); err != nil {
			t.Error(err)
		}
	})
	if _, err := o.b.Mirror(context.Background(), s3sync.MirrorOptions{Dir: o.dir}); !errors.As(err, new(*repo.BusyError)) {
		t.Errorf("overtaken, and %v", err)
	}
	g, err := o.b.Latest(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	o.check(o.b, g, len(o.saves))
	o.save(1)
	o.mirror(o.b)
	o.intact()
}

// A key that two prunes may delete is not named again, though it is gone, until none of them can
// be about to; one that a single prune may have deleted is.
func TestPruneTwoDelete(t *testing.T) {
	ctx := context.Background()
	for _, two := range []bool{false, true} {
		o := newOrchard(t)
		o.weeks(6)
		o.mustPrune(1)
		o.clock.add(4 * day)
		deletesPack := func(op, key string) bool { return op == "delete" && filepath.Ext(key) == ".pack" }
		again := func() (names int) {
			o.bringBack()
			o.save(1)
			o.mirror(o.b)
			g, err := o.b.Latest(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range g.Files {
				if strings.Contains(f.Key, ".pack~") {
					names++
				}
			}
			return names
		}
		if two {
			o.m.standStill(deletesPack, func() {
				for range 3 {
					o.save(1)
					o.mirror(o.b)
					o.mustPrune(1)
					o.clock.add(4 * day)
				}
				if again() == 0 {
					t.Error("a key is named that a prune is about to delete")
				}
			})
		}
		o.mustPrune(1)
		o.intact()
		if !two {
			o.clock.add(8 * day)
			o.save(1)
			o.mirror(o.b)
			o.mustPrune(1) // forgets what is gone
			if n := again(); n > 0 {
				t.Errorf("%d packs have other keys than those that one prune deleted", n)
			}
		}
		o.intact()
	}
}

// What several prunes were allowed to delete is forgotten in the end.
func TestPruneForgets(t *testing.T) {
	o := newOrchard(t)
	o.weeks(6)
	o.mustPrune(1)
	o.clock.add(4 * day)
	o.m.before = func(_ int64, op, _ string) error {
		if op == "delete" {
			return errors.New("enough")
		}
		return nil
	}
	if _, err := o.prune(1); err == nil {
		t.Fatal("it was not cut short")
	}
	o.m.before = nil
	drops := func() (n int) {
		o.save(1)
		o.mirror(o.b)
		o.mustPrune(1)
		g, err := o.b.Latest(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range g.Drops {
			if d.First != d.Last {
				n++
			}
		}
		return n
	}
	if r := o.mustPrune(1); r.Deleted == 0 {
		t.Errorf("%+v", r)
	}
	o.clock.add(90 * day)
	if drops() == 0 {
		t.Error("forgotten though the first run may yet be deleting")
	}
	o.clock.add(91 * day)
	if n := drops(); n > 0 {
		t.Errorf("%d keys are dropped forever", n)
	}
	o.intact()
}

// A prune that was stopped for months deletes no more.
func TestPruneStops(t *testing.T) {
	o := newOrchard(t)
	o.weeks(6)
	o.mustPrune(1)
	o.clock.add(4 * day)
	n := 0
	o.m.before = func(_ int64, op, _ string) error {
		if op == "delete" {
			if n++; n == 3 {
				o.clock.add(91 * day)
			}
		}
		return nil
	}
	if _, err := o.b.Prune(context.Background(), s3sync.PruneOptions{Keep: 1, Now: o.clock.now, Workers: 1}); err == nil || n != 3 {
		t.Errorf("%d deletions, %v", n, err)
	}
	o.m.before = nil
	o.intact()
	o.mustPrune(1)
	o.intact()
}
