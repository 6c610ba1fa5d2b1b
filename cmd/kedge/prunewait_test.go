package main

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/repo"
)

// A prune waits for sessions as gc does, as long as --wait says; a dry run waits for nobody.
func TestPruneWaits(t *testing.T) {
	u := newPerson(t)
	for range 3 {
		u.do("backup -q -n x --strip src")
	}
	p, err := repo.OpenDir(context.Background(), filepath.Join(u.dir, "repo"), repo.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	s, err := p.Begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if out, _ := u.do("prune --dry-run --wait 0s --keep-last 1 x"); !strings.Contains(out, "would leave out 2 saves of 3") {
		t.Errorf("a dry run: %q", out)
	}
	for _, line := range []string{"prune --wait 0s --keep-last 1 x", "prune --wait 300ms --keep-last 1 x", "prune --wait 0s --undo x", "rm --unsafe --wait 0s x"} {
		if _, stderr, code := u.run(context.Background(), line); code != exitBusy || !strings.Contains(stderr, "1 session live") || !strings.Contains(stderr, "--wait 1h") {
			t.Errorf("%s: exit %d\n%s", line, code, stderr)
		}
	}
	done := make(chan error)
	go func() {
		time.Sleep(300 * time.Millisecond) // prune waits by then, or will see that nobody is there
		done <- s.Close()
	}()
	out, stderr, code := u.run(context.Background(), "prune --wait 10m --keep-last 1 x")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if code != 0 || strings.Count(out, "\n") != 3 {
		t.Errorf("exit %d\n%s%s", code, out, stderr)
	}
	if out, _ := u.do("ls x"); strings.Count(out, "\n") != 2 { // the save and latest
		t.Errorf("%q", out)
	}

	// Nobody has to wait to the end.
	if s, err = p.Begin(context.Background()); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithCancelCause(context.Background())
	time.AfterFunc(100*time.Millisecond, func() { cancel(errors.New("interrupted")) })
	if _, _, code := u.run(ctx, "prune --wait 10m --undo x"); code != exitInterrupted {
		t.Errorf("interrupted: exit %d", code)
	}
}
