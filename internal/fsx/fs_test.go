package fsx_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/internal/fsx/crash"
	"github.com/kedgebackup/kedge/internal/fsx/fault"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, name, data string) {
	t.Helper()
	must(t, os.WriteFile(name, []byte(data), 0o644))
}

// listing returns the names in dir with the contents of files, in order.
func listing(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	must(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		if d.Type().IsRegular() {
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			rel += "=" + string(data)
		}
		out = append(out, rel)
		return nil
	}))
	return out
}

func TestOrderOfCalls(t *testing.T) {
	tests := []struct {
		name string
		run  func(f *fsx.FS, root string) error
		want string
	}{
		{"replace", func(f *fsx.FS, root string) error {
			return f.Replace(root+"/config", []byte("12345"), 0o644)
		}, `create config.tmp-XXXX
write config.tmp-XXXX 0+5
sync config.tmp-XXXX
close config.tmp-XXXX
rename config.tmp-XXXX config
syncdir .`},
		{"mkdirall", func(f *fsx.FS, root string) error {
			return f.MkdirAll(root+"/a/b/c", 0o755)
		}, `mkdir a
syncdir .
mkdir a/b
syncdir a
mkdir a/b/c
syncdir a/b`},
		{"mkdirall of what is there", func(f *fsx.FS, root string) error {
			return f.MkdirAll(root+"/old", 0o755)
		}, ""},
		{"removeall", func(f *fsx.FS, root string) error {
			return f.RemoveAll(root + "/old")
		}, `remove old
remove old/x
remove old/y
remove old/y/z
remove old/y
remove old`},
		{"readfile", func(f *fsx.FS, root string) error {
			_, err := f.ReadFile(root+"/old/x", 10)
			return err
		}, "close old/x"},
		{"lock", func(f *fsx.FS, root string) error {
			l, err := f.Lock(root+"/lock", fsx.Exclusive, 0)
			if err != nil {
				return err
			}
			if _, err := l.File().Write([]byte("me")); err != nil {
				return err
			}
			return l.Unlock()
		}, "lock lock\nwrite lock 0+2\nclose lock"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			must(t, os.MkdirAll(root+"/old/y/z", 0o755))
			write(t, root+"/old/x", "x")
			trace := fault.Trace{Match: func(op fsx.Op) bool {
				return fault.Mutates(op) || op.Kind == fsx.KindClose
			}}
			must(t, tt.run(&fsx.FS{Intercept: trace.Intercept}, root))
			lines := trace.Lines(root)
			if got := strings.Join(lines, "\n"); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// A failed Replace leaves the old file and nothing else; one that fails at the
// last step leaves the new one. An EINTR is a failure of Close
// alone, which must not be done twice.
func TestReplaceSweep(t *testing.T) {
	for _, plan := range []fault.Plan{
		{Err: syscall.EIO}, {Err: syscall.ENOSPC, Short: true}, {Err: syscall.EROFS, Forever: true},
		{Err: syscall.EIO, After: true}, {Err: syscall.EINTR},
	} {
		name := fmt.Sprintf("%v forever=%v after=%v", plan.Err, plan.Forever, plan.After)
		failures := plan.Sweep(func(f *fault.Fail) {
			root := t.TempDir()
			write(t, root+"/f", "old")
			err := (&fsx.FS{Intercept: f.Intercept}).Replace(root+"/f", []byte("new"), 0o644)
			got := listing(t, root)
			wantErr := f.Fired() && (!errors.Is(plan.Err, syscall.EINTR) || f.Op().Kind == fsx.KindClose)
			if wantErr && !errors.Is(err, plan.Err) || !wantErr && err != nil {
				t.Errorf("%s at %v: %v", name, f.Op().Kind, err)
			}
			switch {
			case plan.Forever && f.Fired() && f.Op().Kind != fsx.KindSyncDir:
				// Nothing works any more: the temporary file could not be removed.
				if !slices.Contains(got, "f=old") {
					t.Errorf("%s at %v: %q", name, f.Op().Kind, got)
				}
			case err == nil || f.Op().Kind == fsx.KindSyncDir || plan.After && f.Op().Kind == fsx.KindRename:
				if !slices.Equal(got, []string{"f=new"}) {
					t.Errorf("%s at %v: %q", name, f.Op().Kind, got)
				}
			case plan.After && f.Op().Kind == fsx.KindCreate:
				// Who is told that nothing was made can't remove it.
			default:
				if !slices.Equal(got, []string{"f=old"}) {
					t.Errorf("%s at %v: %q", name, f.Op().Kind, got)
				}
			}
		})
		if failures < 6 {
			t.Errorf("%s: %d failures", name, failures)
		}
	}
}

// A power cut at any point of a Replace leaves the old file or the new one, and
// the new one after it returned.
func TestReplacePowerCuts(t *testing.T) {
	root := t.TempDir()
	before, after := strings.Repeat("a", 9000), strings.Repeat("b", 20000)
	write(t, root+"/f", before)
	rec, err := crash.New(root)
	must(t, err)
	must(t, (&fsx.FS{Intercept: rec.Intercept}).Replace(root+"/f", []byte(after), 0o644))
	states, err := rec.Sweep(t.TempDir(), 10, func(cut crash.Cut, dir string) error {
		data, err := os.ReadFile(dir + "/f")
		if err != nil {
			return err
		}
		if string(data) != after && (cut.K == rec.Len() || string(data) != before) {
			return errors.New("neither the old file nor the new one")
		}
		return nil
	})
	must(t, err)
	if want := 31 * (rec.Len() + 1); states != want || rec.Len() != 5 {
		t.Errorf("%d states of %d changes, want %d", states, rec.Len(), want)
	}
}

func TestMkdir(t *testing.T) {
	root := t.TempDir()
	var f *fsx.FS // a nil FS is the operating system's
	must(t, f.Mkdir(root+"/a", 0o755))
	must(t, f.Mkdir(root+"/a", 0o755))
	must(t, os.Symlink("a", root+"/link"))
	must(t, f.Mkdir(root+"/link", 0o755))
	must(t, f.MkdirAll(root+"/link/b", 0o755))
	write(t, root+"/file", "")
	if err := f.Mkdir(root+"/file", 0o755); !errors.Is(err, fs.ErrExist) {
		t.Errorf("mkdir over a file: %v", err)
	}
	if err := f.MkdirAll(root+"/file/sub", 0o755); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("mkdir below a file: %v", err)
	}
	must(t, os.Symlink("nowhere", root+"/dangling"))
	if err := f.Mkdir(root+"/dangling", 0o755); !errors.Is(err, fs.ErrExist) {
		t.Errorf("mkdir over a dangling link: %v", err)
	}
}

func TestLinkRenameRemove(t *testing.T) {
	root := t.TempDir()
	f := new(fsx.FS)
	write(t, root+"/a", "1")
	write(t, root+"/b", "2")
	if err := f.Link(root+"/a", root+"/b"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("link over a file: %v", err)
	}
	must(t, f.Link(root+"/a", root+"/c"))
	must(t, f.Rename(root+"/b", root+"/a"))
	must(t, f.Remove(root+"/c"))
	if got := listing(t, root); !slices.Equal(got, []string{"a=2"}) {
		t.Errorf("left: %q", got)
	}
	if err := f.Remove(root + "/c"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("remove of nothing: %v", err)
	}
	must(t, f.RemoveAll(root+"/c"))
	if _, err := f.Create(root+"/a", 0o644); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create over a file: %v", err)
	}
	if err := f.SyncDir(root + "/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("sync of no directory: %v", err)
	}
}

func TestRemoveAllStopsAtFailure(t *testing.T) {
	failures := fault.Plan{Err: syscall.EIO}.Sweep(func(f *fault.Fail) {
		root := t.TempDir()
		must(t, os.MkdirAll(root+"/a/b", 0o755))
		write(t, root+"/a/b/x", "")
		write(t, root+"/a/y", "")
		err := (&fsx.FS{Intercept: f.Intercept}).RemoveAll(root + "/a")
		if _, statErr := os.Stat(root + "/a"); f.Fired() != (err != nil) || (err == nil) != os.IsNotExist(statErr) {
			t.Errorf("failed at %v %s: error %v, directory %v", f.Op().Kind, f.Op().Path, err, statErr)
		}
	})
	if failures != 8 {
		t.Errorf("%d failures, want 8", failures)
	}
}

func TestReadDirIsSorted(t *testing.T) {
	root := t.TempDir()
	want := []string{"B", "a", "a-b", "a.b", "ab", "\xff"}
	for _, name := range []string{"ab", "\xff", "a", "B", "a.b", "a-b"} {
		write(t, filepath.Join(root, name), "")
	}
	entries, err := new(fsx.FS).ReadDir(root)
	must(t, err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestReadFile(t *testing.T) {
	name := t.TempDir() + "/f"
	f := new(fsx.FS)
	for _, size := range []int{0, 1, 511, 512, 70000} {
		want := strings.Repeat("x", size)
		write(t, name, want)
		got, err := f.ReadFile(name, int64(size))
		if err != nil || string(got) != want {
			t.Errorf("size %d: %d bytes, %v", size, len(got), err)
		}
		if size > 0 {
			if _, err := f.ReadFile(name, int64(size-1)); err == nil || !strings.Contains(err.Error(), "the limit is") {
				t.Errorf("size %d over the limit: %v", size, err)
			}
		}
	}
	must(t, os.Truncate(name, 1<<40)) // must not be allocated to find out
	if _, err := f.ReadFile(name, 1<<20); err == nil {
		t.Error("1 TiB passed a limit of 1 MiB")
	}
	// A file of /proc says that it is empty, and is not.
	if data, err := f.ReadFile("/proc/self/status", 1<<20); err != nil || len(data) == 0 {
		t.Errorf("/proc/self/status: %d bytes, %v", len(data), err)
	}
	if _, err := f.ReadFile("/proc/self/status", 10); err == nil {
		t.Error("/proc/self/status passed a limit of 10 bytes")
	}
}

// Intercept may claim that all is well and do nothing; then there is no result
// to give, and that must be an error and no panic.
func TestNothingDone(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/f", "data")
	plain, err := new(fsx.FS).Open(root + "/f")
	must(t, err)
	must(t, plain.Close())
	f := &fsx.FS{Intercept: func(fsx.Op, func() error) error { return nil }}
	if _, err := f.Open(root + "/f"); err == nil {
		t.Error("open gave a file")
	}
	if _, err := f.Lstat(root + "/f"); err == nil {
		t.Error("lstat gave a result")
	}
	if _, err := f.Lock(root+"/f", fsx.Shared, 0); err == nil {
		t.Error("lock gave a lock")
	}
	lazy := false
	f.Intercept = func(_ fsx.Op, do func() error) error {
		if lazy {
			return nil
		}
		return do()
	}
	file, err := f.OpenWrite(root + "/f")
	must(t, err)
	defer file.Close()
	lazy = true
	if n, err := file.ReadAt(make([]byte, 4), 0); n != 0 || err == nil {
		t.Errorf("read gave %d bytes, %v", n, err)
	}
	if _, err := file.Size(); err == nil {
		t.Error("size gave a size")
	}
	if _, err := file.WriteAt([]byte("x"), 0); err == nil {
		t.Error("a write that was not done was reported as done")
	}
}
