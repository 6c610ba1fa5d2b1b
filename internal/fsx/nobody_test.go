package fsx_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// asNobody calls fn with the rights of a user who owns nothing. Only the thread
// changes, so everything must happen in fn's own goroutine. The directories
// above the test's own are opened for him to search.
func asNobody(t *testing.T, fn func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to become another user")
	}
	for dir := filepath.Dir(t.TempDir()); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755))
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Setfsgid(65534); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Setfsuid(65534); err != nil { // drops the capabilities on files too
			t.Error(err)
			return
		}
		fn()
	}()
	<-done
}
