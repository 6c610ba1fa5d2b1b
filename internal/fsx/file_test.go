package fsx_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/internal/fsx/fault"
)

func TestFile(t *testing.T) {
	for _, watched := range []bool{false, true} {
		f := new(fsx.FS)
		if watched {
			f.Intercept = func(_ fsx.Op, do func() error) error { return do() }
		}
		name := t.TempDir() + "/f"
		file, err := f.Create(name, 0o600)
		must(t, err)
		if file.Name() != name {
			t.Errorf("name %q", file.Name())
		}
		for _, s := range []string{"hello", ", ", "world"} {
			if n, err := io.WriteString(file, s); n != len(s) || err != nil {
				t.Fatal(n, err)
			}
		}
		_, err = file.WriteAt([]byte("J"), 0)
		must(t, err)
		if size, err := file.Size(); size != 12 || err != nil {
			t.Errorf("size %d, %v", size, err)
		}
		off, err := file.Seek(-5, io.SeekEnd)
		if off != 7 || err != nil {
			t.Errorf("seek: %d, %v", off, err)
		}
		if _, err := file.Seek(-1, io.SeekStart); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("seek before the start: %v", err)
		}
		if _, err := file.Seek(0, 7); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("seek from nowhere: %v", err)
		}
		off, err = file.Seek(1, io.SeekCurrent)
		if off != 8 || err != nil {
			t.Errorf("seek: %d, %v", off, err)
		}
		_, err = file.Write([]byte("ORLD!"))
		must(t, err)
		must(t, file.Truncate(12))
		must(t, file.Sync())
		_, err = file.Seek(0, io.SeekStart)
		must(t, err)
		must(t, iotest.TestReader(file, []byte("Jello, wORLD")))
		must(t, file.Close())
		info, err := os.Stat(name)
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		if _, err := file.Write(nil); !errors.Is(err, os.ErrClosed) {
			t.Errorf("write after close: %v", err)
		}
		if err := file.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("second close: %v", err)
		}
	}
}

// An operation tells where it is, with the offset of a plain Write too.
func TestOpsOfFile(t *testing.T) {
	root := t.TempDir()
	var trace fault.Trace
	file, err := (&fsx.FS{Intercept: trace.Intercept}).Create(root+"/f", 0o600)
	must(t, err)
	file.Write([]byte("abc"))
	file.Write([]byte("de"))
	file.WriteAt([]byte("x"), 100)
	file.Seek(1, io.SeekStart)
	file.Read(make([]byte, 2))
	file.Read(make([]byte, 2))
	file.Truncate(4)
	file.Close()
	want := `create f
write f 0+3
write f 3+2
write f 100+1
read f 1
read f 3
truncate f 4
close f`
	if got := strings.Join(trace.Lines(root), "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if ops := trace.Ops(); string(ops[2].Data) != "de" {
		t.Errorf("data of the second write: %q", ops[2].Data)
	}
}

// After the first failure every change is refused with the same error, without
// trying; reading goes on; Close gives the descriptor back and says it again.
func TestFailureSticks(t *testing.T) {
	steps := []struct {
		kind fsx.Kind
		do   func(*fsx.File) error
	}{
		{fsx.KindWrite, func(f *fsx.File) error { _, err := f.Write([]byte("x")); return err }},
		{fsx.KindWrite, func(f *fsx.File) error { _, err := f.WriteAt([]byte("x"), 9); return err }},
		{fsx.KindTruncate, func(f *fsx.File) error { return f.Truncate(3) }},
		{fsx.KindSync, func(f *fsx.File) error { return f.Sync() }},
	}
	for _, bad := range steps {
		fail := fault.Plan{Err: syscall.EDQUOT, Match: fault.Only(bad.kind)}.At(1)
		changes := 0
		f := &fsx.FS{Intercept: func(op fsx.Op, do func() error) error {
			if fault.Mutates(op) {
				changes++
			}
			return fail.Intercept(op, do)
		}}
		name := t.TempDir() + "/f"
		write(t, name, "data")
		file, err := f.OpenWrite(name)
		must(t, err)
		first := bad.do(file)
		if !errors.Is(first, syscall.EDQUOT) || changes != 1 {
			t.Fatalf("%v: %v after %d changes", bad.kind, first, changes)
		}
		for _, next := range steps {
			if err := next.do(file); !errors.Is(err, first) {
				t.Errorf("%v after a failed %v: %v", next.kind, bad.kind, err)
			}
		}
		if changes != 1 {
			t.Errorf("after a failed %v: %d changes were tried", bad.kind, changes-1)
		}
		if data, err := io.ReadAll(file); err != nil || len(data) == 0 {
			t.Errorf("read after a failed %v: %q, %v", bad.kind, data, err)
		}
		before := descriptors(t)
		if err := file.Close(); !errors.Is(err, first) {
			t.Errorf("close after a failed %v: %v", bad.kind, err)
		}
		if after := descriptors(t); after != before-1 {
			t.Errorf("%d descriptors before close, %d after", before, after)
		}
	}
}

func TestFailedClose(t *testing.T) {
	f := &fsx.FS{Intercept: fault.Plan{Err: syscall.EIO, Match: fault.Only(fsx.KindClose)}.At(1).Intercept}
	before := descriptors(t)
	file, err := f.Create(t.TempDir()+"/f", 0o600)
	must(t, err)
	if err := file.Close(); !errors.Is(err, syscall.EIO) {
		t.Errorf("close: %v", err)
	}
	if err := file.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("second close: %v", err)
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// An open that Intercept turns into a failure keeps no descriptor.
func TestFailedOpen(t *testing.T) {
	name := t.TempDir() + "/f"
	write(t, name, "")
	before := descriptors(t)
	for range 10 {
		f := &fsx.FS{Intercept: fault.Plan{After: true}.At(1).Intercept}
		if _, err := f.Open(name); !errors.Is(err, syscall.EIO) {
			t.Errorf("open: %v", err)
		}
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// descriptors counts the open descriptors of the process.
func descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

// EINTR is asked for again, but not for ever: a storm of them is a failure.
func TestInterrupted(t *testing.T) {
	count, interrupts := 0, 3
	f := &fsx.FS{Intercept: func(op fsx.Op, do func() error) error {
		if count++; count <= interrupts {
			return syscall.EINTR
		}
		return do()
	}}
	name := t.TempDir() + "/f"
	file, err := f.Create(name, 0o600)
	must(t, err)
	count = 0
	_, err = file.Write([]byte("abc"))
	must(t, err)
	count = 0
	must(t, file.Sync())
	count, interrupts = 0, 1<<30
	if _, err := file.Write([]byte("abc")); !errors.Is(err, syscall.EINTR) || count > 1000 {
		t.Errorf("%v after %d attempts", err, count)
	}
	interrupts = 0
	file.Close()
	if data, _ := os.ReadFile(name); string(data) != "abc" {
		t.Errorf("file holds %q", data)
	}
}

// Several goroutines write through one File, as the writer of a pack does.
func TestWriteAtConcurrently(t *testing.T) {
	for _, f := range []*fsx.FS{{}, {Intercept: new(fault.Trace).Intercept}} {
		name := t.TempDir() + "/f"
		file, err := f.Create(name, 0o600)
		must(t, err)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 50 {
					if _, err := file.WriteAt(bytes.Repeat([]byte{'a' + byte(i)}, 100), int64(100*(8*j+i))); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		must(t, file.Close())
		data, err := os.ReadFile(name)
		must(t, err)
		for i, b := range data {
			if b != 'a'+byte(i/100%8) {
				t.Fatalf("byte %d is %q", i, b)
			}
		}
	}
}

func TestHotCallsDoNotAllocate(t *testing.T) {
	file, err := new(fsx.FS).Create(t.TempDir()+"/f", 0o600)
	must(t, err)
	defer file.Close()
	buf := make([]byte, 4096)
	_, err = file.WriteAt(buf, 0) // what ReadAt reads
	must(t, err)
	calls := map[string]func() error{
		"Write":   func() error { _, err := file.Write(buf); return err },
		"WriteAt": func() error { _, err := file.WriteAt(buf, 0); return err },
		"ReadAt":  func() error { _, err := file.ReadAt(buf, 0); return err },
	}
	for name, call := range calls {
		var failed error
		n := testing.AllocsPerRun(100, func() {
			if err := call(); err != nil {
				failed = err
			}
		})
		if n != 0 || failed != nil {
			t.Errorf("%s: %v allocations, %v", name, n, failed)
		}
	}
}

// TestStartSync: it leaves the bytes and the offset alone, is unseen, and refuses
// what every change refuses.
func TestStartSync(t *testing.T) {
	name := t.TempDir() + "/f"
	file, err := new(fsx.FS).Create(name, 0o666)
	must(t, err)
	_, err = file.Write(make([]byte, 1<<16))
	must(t, err)
	for _, at := range [][2]int64{{0, 1 << 16}, {4096, 1}, {1 << 20, 1 << 20}} {
		must(t, file.StartSync(at[0], at[1]))
	}
	_, err = file.Write([]byte("x"))
	must(t, err)
	if size, err := file.Size(); err != nil || size != 1<<16+1 {
		t.Errorf("%d bytes, %v", size, err)
	}
	must(t, file.Close())
	if err := file.StartSync(0, 1); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("of a closed file: %v", err)
	}

	seen := 0
	observed := &fsx.FS{Intercept: func(op fsx.Op, do func() error) error { seen++; return do() }}
	file, err = observed.OpenWrite(name)
	must(t, err)
	defer file.Close()
	before := seen
	must(t, file.StartSync(0, 1))
	if seen != before {
		t.Error("it was seen")
	}
	failed := fault.Plan{Err: syscall.EIO, Match: fault.Only(fsx.KindWrite)}.At(1)
	file, err = (&fsx.FS{Intercept: failed.Intercept}).OpenWrite(name)
	must(t, err)
	if _, err := file.Write([]byte("y")); err == nil {
		t.Fatal("no fault")
	}
	if err := file.StartSync(0, 1); !errors.Is(err, syscall.EIO) {
		t.Errorf("after a failed write: %v", err)
	}
	_ = file.Close()
}

// resident returns how many bytes of a file are in memory.
func resident(t *testing.T, name string) int {
	t.Helper()
	out, err := exec.Command("fincore", "--bytes", "--noheadings", "--output", "RES", name).Output()
	must(t, err)
	n, err := strconv.Atoi(strings.TrimSpace(string(out)))
	must(t, err)
	return n
}

// TestDropCache: what is synced leaves the page cache, what comes after it stays, and
// the bytes are the same.
func TestDropCache(t *testing.T) {
	name := t.TempDir() + "/f"
	var st unix.Statfs_t
	must(t, unix.Statfs(filepath.Dir(name), &st))
	if !slices.Contains([]int64{unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC}, int64(st.Type)) {
		t.Skip("who knows what this file system does with advice")
	}
	if _, err := exec.LookPath("fincore"); err != nil {
		t.Skip(err)
	}
	const size = 4 << 20
	data := bytes.Repeat([]byte("kedge!!\n"), size/8)
	file, err := new(fsx.FS).Create(name, 0o666)
	must(t, err)
	defer file.Close()
	_, err = file.Write(data)
	must(t, err)
	must(t, file.Sync())
	if n := resident(t, name); n != size {
		t.Skipf("%d bytes of %d are in memory before", n, size)
	}
	file.DropCache(0, size/2)
	if n := resident(t, name); n < size/2 || n > size/2+size/8 {
		t.Errorf("%d bytes are in memory, want %d", n, size/2)
	}
	file.DropCache(0, 0)
	if n := resident(t, name); n > size/8 {
		t.Errorf("%d bytes are in memory, want none", n)
	}
	got := make([]byte, size)
	if _, err := file.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("other bytes, %v", err)
	}
}
