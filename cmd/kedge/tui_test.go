package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestWarn(t *testing.T) {
	var b strings.Builder
	u := &tui{name: "kedge", err: &b}
	u.warn("/a\n\x1b[2J", &fs.PathError{Op: "open", Path: "/a\n\x1b[2J", Err: syscall.EACCES})
	u.warn("/b", fmt.Errorf("it \x1b[m changed while being read"))
	u.warn("/c", fmt.Errorf("chown: %w", &fs.PathError{Op: "lchown", Path: "/tmp/x", Err: syscall.EPERM}))
	want := `kedge: warning: /a\n\x1b[2J: permission denied
kedge: warning: /b: it \x1b[m changed while being read
kedge: warning: /c: chown: lchown /tmp/x: operation not permitted
`
	if b.String() != want || u.warned() != 3 {
		t.Errorf("%d warnings\n%swant\n%s", u.warned(), b.String(), want)
	}
}

func TestFail(t *testing.T) {
	var b strings.Builder
	u := &tui{name: "bup", err: &b}
	u.fail(errors.New("pack \x07 is bad"), []string{"run it again"})
	if want := "bup: error: pack \\x07 is bad\nbup: hint: run it again\n"; b.String() != want {
		t.Errorf("%q", b.String())
	}
}

// Progress never mixes with lines, and is never drawn where there is no terminal.
func TestProgress(t *testing.T) {
	var b strings.Builder
	u := &tui{name: "kedge", err: &b, width: 20}
	text := func() string { return "saving größere Dinge, viele" }
	u.progress(text)
	u.progress(text) // too soon
	u.line("done")
	u.done()
	if want := "\r\x1b[Ksaving größere Ding\r\x1b[Kkedge: done\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
	b.Reset()
	u.last = time.Time{}
	u.progress(text)
	u.done()
	u.done()
	if want := "\r\x1b[Ksaving größere Ding\r\x1b[K"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
	b.Reset()
	silent := &tui{name: "kedge", err: &b}
	silent.progress(func() string { t.Error("progress without a terminal"); return "" })
	silent.note("nobody reads this")
	if b.Len() > 0 {
		t.Errorf("%q", b.String())
	}
}

func TestConcurrentLines(t *testing.T) {
	var b strings.Builder
	u := &tui{name: "kedge", err: &b, width: 80}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				u.warn("/p", errors.New("x"))
				u.line("y")
				u.progress(func() string { return "p" })
			}
		})
	}
	wg.Wait()
	u.done()
	if n := strings.Count(b.String(), "kedge: y\n"); n != 400 {
		t.Errorf("%d lines", n)
	}
	if n := strings.Count(b.String(), "kedge: warning: /p: x\n"); n != 1 || u.warned() != 1 {
		t.Errorf("%d times the same warning, %d counted", n, u.warned())
	}
}
