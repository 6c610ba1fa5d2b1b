package repo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

// TestMovesAgainstGit lets kedge, git update-ref and git pack-refs work on one
// ref at once. Every success has to follow from another one: no update is lost.
func TestMovesAgainstGit(t *testing.T) {
	ctx := context.Background()
	p, dir := newRepo(t, InitOptions{})
	const movers, each = 4, 12
	base := makeSave("base", 1)
	if _, err := base.save(ctx, p); err != nil {
		t.Fatal(err)
	}
	var commits [movers][each]pack.ID
	for i := range commits {
		for k := range commits[i] {
			s := makeSave(fmt.Sprint("commit ", i, " ", k), 0)
			if err := s.store(ctx, p); err != nil {
				t.Fatal(err)
			}
			commits[i][k] = s.commit
		}
	}
	var mu sync.Mutex
	next := make(map[pack.ID]pack.ID)
	won := func(old, new pack.ID) {
		mu.Lock()
		defer mu.Unlock()
		if other, ok := next[old]; ok {
			t.Errorf("the ref was moved from %v to both %v and %v", old, other, new)
		}
		next[old] = new
	}
	var wg sync.WaitGroup
	for i := range movers {
		wg.Go(func() {
			mine := openRepo(t, dir, DirOptions{})
			for _, id := range commits[i] {
				for range 200 {
					at, err := mine.dir.ref(testRef)
					if err != nil {
						t.Error(err)
						return
					}
					if i%2 == 0 {
						_, err = tryGit(dir, "update-ref", testRef, id.String(), at.String())
					} else if _, err = mine.SetRef(ctx, Move{Ref: testRef, Old: at, New: id}); err != nil && !errors.As(err, new(*RefChangedError)) {
						t.Error(err)
						return
					}
					if err == nil {
						won(at, id)
						break
					}
				}
			}
		})
	}
	stop := make(chan struct{})
	packer := make(chan struct{})
	go func() {
		defer close(packer)
		for {
			select {
			case <-stop:
				return
			case <-time.After(3 * time.Millisecond):
				if out, err := tryGit(dir, "pack-refs", "--all", "--prune"); err != nil {
					t.Error(out)
				}
			}
		}
	}()
	wg.Wait()
	close(stop)
	<-packer
	at, n := base.commit, 0
	for next[at] != (pack.ID{}) {
		at = next[at]
		n++
	}
	if n != len(next) || n != movers*each {
		t.Errorf("%d moves succeeded of %d, %d follow from each other", len(next), movers*each, n)
	}
	if tip, err := p.dir.ref(testRef); tip != at || err != nil {
		t.Errorf("the ref is at %v and not at %v; %v", tip, at, err)
	}
	if err := p.Receipts(ctx, func(Receipt) error { return nil }); err != nil {
		t.Error(err)
	}
	fsck(t, dir)
	git(t, dir, "reflog", "show", testRef)
}

// TestStaleLocks: lock files of a process that died are removed by the next
// one that writes, and git does not see them any more.
func TestStaleLocks(t *testing.T) {
	ctx := context.Background()
	p, dir := newRepo(t, InitOptions{})
	s := makeSave("a", 1)
	if _, err := s.save(ctx, p); err != nil {
		t.Fatal(err)
	}
	die := func(names ...string) {
		t.Helper()
		for _, name := range names {
			lock := filepath.Join(dir, name) + ".lock"
			if err := os.MkdirAll(filepath.Dir(lock), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Link(filepath.Join(dir, fileRefLock), lock); err != nil {
				t.Fatal(err)
			}
		}
	}
	die(testRef)
	if _, err := tryGit(dir, "-c", "core.filesRefLockTimeout=0", "update-ref", testRef, s.commit.String()); err == nil {
		// An update to the same value may need no lock; deleting does.
		if _, err := tryGit(dir, "-c", "core.filesRefLockTimeout=0", "update-ref", "-d", testRef); err == nil {
			t.Fatal("git does not respect the lock")
		}
	}
	next := makeSave("b", 1, s.commit)
	if err := next.store(ctx, p); err != nil {
		t.Fatal(err)
	}
	if _, err := p.SetRef(ctx, Move{Ref: testRef, Old: s.commit, New: next.commit}); err != nil {
		t.Fatal("a stale lock stops us:", err)
	}
	die(testRef, filePackedRefs)
	git(t, dir, "config", "user.name", "x")
	if _, err := p.SetRef(ctx, Move{Ref: testRef, Old: next.commit}); err != nil {
		t.Fatal("stale locks stop a removal:", err)
	}
	die(fileConfig)
	if err := p.AllowNames(ctx, []string{".git"}); err != nil {
		t.Fatal("a stale lock stops a change of the config:", err)
	}
	die(testRef, "refs/heads/a/b", filePackedRefs, fileConfig)
	sess, err := p.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sess.Close()
	filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".lock") {
			t.Error("Begin left", path)
		}
		return err
	})
}

// TestForeignLock: a lock of git's is waited for, and never removed.
func TestForeignLock(t *testing.T) {
	ctx := context.Background()
	p, dir := newRepo(t, InitOptions{})
	p.dir.patience = 50 * time.Millisecond
	s := makeSave("a", 1)
	if err := s.store(ctx, p); err != nil {
		t.Fatal(err)
	}
	lock := filepath.Join(dir, testRef+".lock")
	if err := os.WriteFile(lock, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	move := Move{Ref: testRef, New: s.commit}
	_, err := p.SetRef(ctx, move)
	if busy := new(BusyError); !errors.As(err, &busy) || busy.What != lock || busy.Hint == "" {
		t.Fatal(err)
	}
	if _, err := os.Stat(lock); err != nil {
		t.Fatal("git's lock was removed")
	}
	// While we wait others can go on.
	other := openRepo(t, dir, DirOptions{})
	p.dir.patience = time.Minute
	done := make(chan error)
	go func() {
		_, err := p.SetRef(ctx, move)
		done <- err
	}()
	if _, err := other.SetRef(ctx, Move{Ref: "refs/heads/other", New: s.commit}); err != nil {
		t.Fatal(err)
	}
	os.Remove(lock)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// Receipts of tries that came to nothing are not written.
	n := 0
	if err := p.Receipts(ctx, func(Receipt) error { n++; return nil }); err != nil || n != 2 {
		t.Fatalf("%d receipts for two moves, %v", n, err)
	}
	// A cancelled context ends the waiting.
	if err := os.WriteFile(lock, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if _, err := p.SetRef(short, Move{Ref: testRef, Old: s.commit}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

// TestWait: who opens a repository says how long a lock of git's is waited for.
func TestWait(t *testing.T) {
	ctx := context.Background()
	p, dir := newRepo(t, InitOptions{})
	s := makeSave("a", 1)
	if err := s.store(ctx, p); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, testRef+".lock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, wait := range []time.Duration{-1, 100 * time.Millisecond} {
		// Without the option, the end of the context would come first.
		short, cancel := context.WithTimeout(ctx, 20*time.Second)
		_, err := openRepo(t, dir, DirOptions{Wait: wait}).SetRef(short, Move{Ref: testRef, New: s.commit})
		cancel()
		if busy := new(BusyError); !errors.As(err, &busy) {
			t.Errorf("wait %v: %v", wait, err)
		}
	}
	if p.dir.patience != lockPatience {
		t.Errorf("the default is %v", p.dir.patience)
	}
	_, err := InitDir(ctx, dir, InitOptions{Wait: -1})
	if err != nil {
		t.Error("init:", err)
	}
}

// TestLockedByKedge: while another kedge holds the flock we wait, and say so
// when it takes too long.
func TestLockedByKedge(t *testing.T) {
	ctx := context.Background()
	p, dir := newRepo(t, InitOptions{})
	s := makeSave("a", 1)
	if err := s.store(ctx, p); err != nil {
		t.Fatal(err)
	}
	other := openRepo(t, dir, DirOptions{})
	other.dir.patience = 300 * time.Millisecond
	err := p.dir.tryRefLock(ctx, time.Now(), func(*refLock) error {
		_, err := other.SetRef(ctx, Move{Ref: testRef, New: s.commit})
		return err
	})
	if busy := new(BusyError); !errors.As(err, &busy) || busy.What != filepath.Join(dir, fileRefLock) {
		t.Fatal(err)
	}
}

// TestGitSlipsIn lets git move the ref at the last moment before kedge holds
// its lock, when kedge has compared once already.
func TestGitSlipsIn(t *testing.T) {
	ctx := context.Background()
	for _, state := range []string{"loose", "packed", "both"} {
		for _, remove := range []bool{false, true} {
			t.Run(fmt.Sprint(state, ", remove: ", remove), func(t *testing.T) {
				p, dir := newRepo(t, InitOptions{})
				a, b, c := makeSave("a", 1), makeSave("b", 1), makeSave("c", 1)
				for _, s := range []saved{a, b, c} {
					if err := s.store(ctx, p); err != nil {
						t.Fatal(err)
					}
				}
				git(t, dir, "update-ref", testRef, a.commit.String())
				if state != "loose" {
					git(t, dir, "pack-refs", "--all")
				}
				if state == "both" {
					git(t, dir, "update-ref", testRef, b.commit.String())
					git(t, dir, "update-ref", testRef, a.commit.String())
				}
				slips := 0
				p = openRepo(t, dir, DirOptions{FS: &fsx.FS{Intercept: func(op fsx.Op, do func() error) error {
					if op.Kind == fsx.KindLink && op.To == filepath.Join(dir, testRef+".lock") {
						if slips++; slips == 1 {
							git(t, dir, "update-ref", testRef, b.commit.String(), a.commit.String())
						}
					}
					return do()
				}}})
				m := Move{Ref: testRef, Old: a.commit, New: c.commit}
				if remove {
					m.New = pack.ID{}
				}
				_, err := p.SetRef(ctx, m)
				if changed := new(RefChangedError); !errors.As(err, &changed) || changed.Got != b.commit || slips == 0 {
					t.Fatal(err, slips)
				}
				if at := git(t, dir, "rev-parse", testRef); at != b.commit.String() {
					t.Fatal("git's move is lost: the ref is at", at)
				}
			})
		}
	}
	// And git packs the ref while kedge is about to remove the loose file.
	p, dir := newRepo(t, InitOptions{})
	s := makeSave("s", 1)
	if _, err := s.save(ctx, p); err != nil {
		t.Fatal(err)
	}
	slips := 0
	p = openRepo(t, dir, DirOptions{FS: &fsx.FS{Intercept: func(op fsx.Op, do func() error) error {
		if op.Kind == fsx.KindLink && strings.HasSuffix(op.To, "main.lock") {
			if slips++; slips == 1 {
				git(t, dir, "pack-refs", "--all", "--no-prune")
			}
		}
		return do()
	}}})
	if _, err := p.SetRef(ctx, Move{Ref: testRef, Old: s.commit}); err != nil {
		t.Fatal(err)
	}
	if out, err := tryGit(dir, "rev-parse", "--verify", "-q", testRef); err == nil {
		t.Fatal("a removed ref came back:", out)
	}
}
