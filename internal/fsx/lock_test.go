package fsx_test

import (
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

func TestLockModes(t *testing.T) {
	name := t.TempDir() + "/lock"
	f := new(fsx.FS)
	tests := []struct {
		held, wanted fsx.LockMode
		ok           bool
	}{
		{fsx.Shared, fsx.Shared, true},
		{fsx.Shared, fsx.Exclusive, false},
		{fsx.Exclusive, fsx.Shared, false},
		{fsx.Exclusive, fsx.Exclusive, false},
	}
	for _, tt := range tests {
		held, err := f.Lock(name, tt.held, 0)
		must(t, err)
		for _, wait := range []time.Duration{0, 12 * time.Millisecond} {
			second, err := f.Lock(name, tt.wanted, wait)
			if tt.ok != (err == nil) || !tt.ok && !errors.Is(err, fsx.ErrLocked) {
				t.Errorf("%v held, %v wanted: %v", tt.held, tt.wanted, err)
			}
			if err == nil {
				must(t, second.Unlock())
			}
		}
		must(t, held.Unlock())
		third, err := f.Lock(name, tt.wanted, 0)
		must(t, err)
		must(t, third.Unlock())
		if err := third.Unlock(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("second unlock: %v", err)
		}
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("%v, %v", info, err)
	}
}

// Who waits gets the lock when it is given back.
func TestLockWaits(t *testing.T) {
	name := t.TempDir() + "/lock"
	f := new(fsx.FS)
	held, err := f.Lock(name, fsx.Exclusive, 0)
	must(t, err)
	var released atomic.Bool
	done := make(chan error)
	go func() {
		second, err := f.Lock(name, fsx.Exclusive, time.Minute)
		if err == nil {
			if !released.Load() {
				err = errors.New("locked twice")
			}
			second.Unlock()
		}
		done <- err
	}()
	time.Sleep(30 * time.Millisecond)
	released.Store(true)
	must(t, held.Unlock())
	must(t, <-done)
}

// The holder removes the file before it gives the lock back, as a session does.
// Who waited on the old file must not believe that he holds the lock: the next
// one would make a new file and lock that.
func TestLockOfRemovedFile(t *testing.T) {
	name := t.TempDir() + "/lock"
	f := new(fsx.FS)
	for range 20 {
		held, err := f.Lock(name, fsx.Exclusive, 0)
		must(t, err)
		got := make(chan *fsx.Lock)
		for range 2 {
			go func() {
				second, err := f.Lock(name, fsx.Exclusive, time.Minute)
				if err != nil {
					t.Error(err)
				}
				got <- second
			}()
		}
		time.Sleep(2 * time.Millisecond)
		must(t, f.Remove(name))
		must(t, held.Unlock())
		for range 2 {
			second := <-got
			if second == nil {
				t.FailNow()
			}
			_, err := second.File().WriteAt([]byte("mine"), 0)
			must(t, err)
			if data, err := os.ReadFile(name); err != nil || string(data) != "mine" {
				t.Errorf("the lock is on another file than the name: %q, %v", data, err)
			}
			if third, err := f.Lock(name, fsx.Shared, 0); !errors.Is(err, fsx.ErrLocked) {
				t.Errorf("locked twice: %v", err)
				third.Unlock()
			}
			must(t, second.Unlock())
		}
	}
}

// A repository that may only be read can be locked for reading.
func TestLockReadOnly(t *testing.T) {
	dir := t.TempDir()
	name := dir + "/lock"
	write(t, name, "")
	must(t, os.Chmod(name, 0o444))
	must(t, os.Chmod(dir, 0o755))
	asNobody(t, func() {
		f := new(fsx.FS)
		l, err := f.Lock(name, fsx.Shared, 0)
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := l.File().Write([]byte("x")); err == nil {
			t.Error("could write")
		}
		l.Unlock()
		if _, err := f.Lock(name, fsx.Exclusive, 0); !errors.Is(err, os.ErrPermission) {
			t.Errorf("exclusive: %v", err)
		}
	})
}

func TestLockInNoDirectory(t *testing.T) {
	_, err := new(fsx.FS).Lock(t.TempDir()+"/none/lock", fsx.Exclusive, time.Minute)
	if !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
