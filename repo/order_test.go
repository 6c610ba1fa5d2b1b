package repo

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/internal/fsx/fault"
)

// order normalises a trace: random names of sessions and the ids of packs.
func order(trace *fault.Trace, root string) string {
	text := strings.Join(trace.Lines(root), "\n")
	for _, r := range []struct{ re, with string }{
		{`(tmp|sessions)/[0-9a-f]{16}`, "$1/S"},
		{`\d+\+\d+`, "…"},
	} {
		text = regexp.MustCompile(r.re).ReplaceAllString(text, r.with)
	}
	// How many writes a file takes is not what matters here.
	return strings.Join(slices.Compact(strings.Split(text, "\n")), "\n")
}

// wantOrder compares the changes of a function with the wanted sequence.
func wantOrder(t *testing.T, trace *fault.Trace, dir, want string) {
	t.Helper()
	var lines []string
	for _, line := range strings.Split(strings.TrimSpace(want), "\n") {
		lines = append(lines, strings.TrimSpace(line))
	}
	if got := order(trace, dir); got != strings.Join(lines, "\n") {
		t.Fatalf("order of system calls:\n%s\n\nwanted:\n%s", got, strings.Join(lines, "\n"))
	}
}

func TestDirCommitOrder(t *testing.T) {
	ctx := context.Background()
	trace := &fault.Trace{Match: fault.Mutates}
	dir := t.TempDir()
	d := NewDir(&fsx.FS{Intercept: trace.Intercept}, dir)
	defer d.Close()
	p, err := d.Create(ctx)
	if err != nil {
		t.Fatal(err)
	}
	trace.Reset()
	if _, err := p.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := p.Commit("objects/pack/x"); err != nil {
		t.Fatal(err)
	}
	wantOrder(t, trace, dir, `
		write kedge/tmp/S/000001 …
		sync kedge/tmp/S/000001
		mkdir objects
		syncdir .
		mkdir objects/pack
		syncdir objects
		link kedge/tmp/S/000001 objects/pack/x
		syncdir objects/pack
		remove kedge/tmp/S/000001`)
}

func TestSaveOrder(t *testing.T) {
	ctx := context.Background()
	p, dir := newRepo(t, InitOptions{})
	p.Close()
	trace := &fault.Trace{Match: fault.Mutates}
	p = openRepo(t, dir, DirOptions{FS: &fsx.FS{Intercept: trace.Intercept}})
	s := makeSave("s", 3)
	if err := s.store(ctx, p); err != nil {
		t.Fatal(err)
	}
	// The names of the packs follow from what stands in them, which is fixed.
	names := packNames(p)
	text := order(trace, dir)
	if len(names) != 2 {
		t.Fatal(names)
	}
	data := regexp.MustCompile(`link kedge/tmp/S/\d+ objects/pack/(pack-[0-9a-f]{40})\.pack`).FindStringSubmatch(text)[1]
	trees := names[0]
	if trees == data {
		trees = names[1]
	}
	want := `
		lock kedge/reflock
		syncdir kedge
		lock kedge/maint
		lock kedge/sessions/S
		mkdir kedge/tmp/S
		create kedge/tmp/S/000001
		create kedge/tmp/S/000002
		write kedge/tmp/S/000001 …
		create kedge/tmp/S/000003
		write kedge/tmp/S/000003 …
		sync kedge/tmp/S/000001
		sync kedge/tmp/S/000003
		link kedge/tmp/S/000001 objects/pack/DATA.pack
		link kedge/tmp/S/000003 objects/pack/DATA.idx
		syncdir objects/pack
		remove kedge/tmp/S/000001
		remove kedge/tmp/S/000003
		lock kedge/closed
		write kedge/closed …
		sync kedge/closed
		write kedge/tmp/S/000002 …
		create kedge/tmp/S/000004
		write kedge/tmp/S/000004 …
		sync kedge/tmp/S/000002
		sync kedge/tmp/S/000004
		link kedge/tmp/S/000002 objects/pack/TREES.pack
		link kedge/tmp/S/000004 objects/pack/TREES.idx
		syncdir objects/pack
		remove kedge/tmp/S/000002
		remove kedge/tmp/S/000004
		lock kedge/closed
		write kedge/closed …
		sync kedge/closed
		remove kedge/tmp/S
		remove kedge/sessions/S`
	wantOrder(t, trace, dir, strings.NewReplacer("DATA", data, "TREES", trees).Replace(want))

	trace.Reset()
	if _, err := p.SetRef(ctx, Move{Ref: testRef, New: s.commit}); err != nil {
		t.Fatal(err)
	}
	wantOrder(t, trace, dir, `
		lock kedge/reflock
		remove kedge/stage
		create kedge/stage
		write kedge/stage …
		sync kedge/stage
		create kedge/receipts.tmp-XXXX
		write kedge/receipts.tmp-XXXX …
		sync kedge/receipts.tmp-XXXX
		rename kedge/receipts.tmp-XXXX kedge/receipts
		syncdir kedge
		write kedge/receipts …
		sync kedge/receipts
		mkdir logs
		syncdir .
		mkdir logs/refs
		syncdir logs
		mkdir logs/refs/heads
		syncdir logs/refs
		link kedge/reflock refs/heads/main.lock
		rename kedge/stage refs/heads/main
		create logs/refs/heads/main
		write logs/refs/heads/main …
		remove refs/heads/main.lock
		syncdir refs/heads`)

	next := makeSave("next", 3, s.commit)
	if err := next.store(ctx, p); err != nil {
		t.Fatal(err)
	}
	trace.Reset()
	if _, err := p.SetRef(ctx, Move{Ref: testRef, Old: s.commit, New: next.commit}); err != nil {
		t.Fatal(err)
	}
	wantOrder(t, trace, dir, `
		lock kedge/reflock
		remove kedge/stage
		create kedge/stage
		write kedge/stage …
		sync kedge/stage
		write kedge/receipts …
		sync kedge/receipts
		link kedge/reflock refs/heads/main.lock
		rename kedge/stage refs/heads/main
		write logs/refs/heads/main …
		remove refs/heads/main.lock
		syncdir refs/heads`)
}

func packNames(p *Packs) (names []string) {
	for _, f := range p.table.Load().packs {
		names = append(names, f.name)
	}
	return names
}
