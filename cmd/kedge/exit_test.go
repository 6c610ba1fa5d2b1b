package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

func TestExitCode(t *testing.T) {
	alive := context.Background()
	dead, cancel := context.WithCancel(alive)
	cancel()
	noRepo := &repo.NotFoundError{What: "repository", Name: "/nowhere/at/all"}
	for _, tt := range []struct {
		ctx       context.Context
		err       error
		want, bup int
	}{
		{alive, nil, 0, 0},
		{dead, nil, 0, 0}, // the signal came too late to stop anything
		{alive, errors.New("x"), 1, 2},
		{alive, usagef("x"), 2, 97},
		{alive, withHint(usagef("x"), "y"), 2, 97},
		{alive, &partialError{"x"}, 3, 2},
		{alive, withHint(&partialError{"x"}, "y"), 3, 2},
		{alive, fmt.Errorf("x: %w", noRepo), 4, 15},
		{alive, &repo.NotFoundError{What: "repository", Name: "/"}, 4, 14},
		{alive, &repo.NotFoundError{What: "path", Name: "x"}, 4, 1},
		{alive, &codedError{exitNotFound, fs.ErrNotExist}, 4, 1},
		{alive, fmt.Errorf("x: %w", &pack.CorruptError{File: "x"}), 5, 2},
		{alive, &repo.MissingError{}, 5, 2},
		{alive, &codedError{exitRefused, errors.New("x")}, 6, 2},
		{alive, fmt.Errorf("x: %w", &repo.RefusedError{Reason: "x"}), 6, 2},
		{alive, fmt.Errorf("x: %w", fsx.ErrLocked), 7, 2},
		{alive, &repo.BusyError{}, 7, 2},
		{alive, &repo.RefChangedError{}, 7, 2},
		{alive, context.DeadlineExceeded, 7, 2},
		{dead, errors.New("read: file already closed"), 130, 130},
		{alive, context.Canceled, 130, 130},
		{alive, &fs.PathError{Op: "open", Path: "x", Err: syscall.ENOSPC}, 1, 2},
	} {
		a := testApp("bup")
		ls, _, _ := a.root().Find([]string{"ls"})
		got := exitCode(tt.ctx, tt.err)
		if bup := a.programCode(got, tt.err, ls); got != tt.want || bup != tt.bup {
			t.Errorf("%#v: exit %d, as bup %d, want %d and %d", tt.err, got, bup, tt.want, tt.bup)
		}
	}
}

func TestHints(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{usagef("x"), "'kedge COMMAND --help' lists the options of a command"},
		{withHint(usagef("x"), "try y"), "try y"},
		{&repo.NotFoundError{What: "repository"}, "'kedge init' makes one; -d DIR or $KEDGE_DIR says where it is"},
		{&repo.NotFoundError{What: "name", Near: []string{"etc", "e\x1bc"}}, `did you mean etc or e\x1bc?|'kedge ls' lists the save names`},
		{&repo.NotFoundError{What: "path", Near: []string{"passwd"}}, "did you mean passwd?"},
		{&pack.CorruptError{}, "'kedge fsck' tells which saves and paths are affected"},
		{&repo.MissingError{}, "'kedge fsck' tells which saves and paths are affected"},
		{withHint(&pack.CorruptError{}, "remove it"), "remove it"},
		{withHint(withHint(errors.New("x"), "inner"), "outer"), "outer|inner"},
		{&fs.PathError{Err: syscall.ENOSPC}, "nothing that was saved before is lost; make room and run the command again"},
		{&fs.PathError{Err: syscall.EACCES}, "check who owns it, and how it is mounted"},
		{errors.New("x"), ""},
	} {
		if got := strings.Join(hints("kedge", tt.err), "|"); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.err, got, tt.want)
		}
	}
}

// docs/exit-codes.md explains each code in the words the program uses.
func TestExitCodesDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/exit-codes.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range exitText {
		if row := fmt.Sprintf("| %d | %s |", e.code, e.text); !strings.Contains(string(page), row) {
			t.Errorf("docs/exit-codes.md has no row %q", row)
		}
	}
}

func TestDefaultDir(t *testing.T) {
	for _, tt := range []struct {
		name string
		env  map[string]string
		want string
	}{
		{"kedge", map[string]string{"KEDGE_DIR": "/k", "BUP_DIR": "/b", "HOME": "/h"}, "/k"},
		{"kedge", map[string]string{"BUP_DIR": "/b", "HOME": "/h"}, "/h/.kedge"},
		{"kedge", nil, "/var/lib/kedge"},
		{"bup", map[string]string{"KEDGE_DIR": "/k", "BUP_DIR": "/b", "HOME": "/h"}, "/b"},
		{"bup", map[string]string{"HOME": "/h"}, "/h/.bup"},
	} {
		a := testApp(tt.name)
		a.Env = func(k string) string { return tt.env[k] }
		if got, err := a.home(); got != tt.want || err != nil {
			t.Errorf("%s %v: %q, %v, want %q", tt.name, tt.env, got, err, tt.want)
		}
	}
	if programName("/usr/bin/bup") != "bup" || programName("kedge-1.2") != "kedge" {
		t.Error("wrong name")
	}
}
