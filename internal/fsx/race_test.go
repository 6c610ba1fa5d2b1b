package fsx_test

import (
	"errors"
	"io"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// flip exchanges two names over and over until the returned function is called.
func flip(t *testing.T, dir, a, b string) (stop func()) {
	t.Helper()
	d, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	must(t, err)
	if err := unix.Renameat2(d, a, d, b, unix.RENAME_EXCHANGE); err != nil {
		unix.Close(d)
		t.Skip("can't exchange names here:", err)
	}
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer unix.Close(d)
		for {
			select {
			case <-quit:
				return
			default:
				unix.Renameat2(d, a, d, b, unix.RENAME_EXCHANGE)
			}
		}
	})
	return func() {
		close(quit)
		wg.Wait()
	}
}

// arena is a tree with a directory "flip" that somebody exchanges for a link to
// a directory outside of it, where a file of the same name holds a secret.
func arena(t *testing.T) (root, outside string) {
	t.Helper()
	base := inMemory(t)
	root, outside = base+"/root", base+"/outside"
	must(t, os.MkdirAll(root+"/flip/sub", 0o755))
	must(t, os.MkdirAll(outside+"/sub", 0o755))
	write(t, root+"/flip/sub/f", "public")
	write(t, outside+"/sub/f", "secret")
	must(t, os.Symlink(outside, root+"/flop"))
	return root, outside
}

func rounds() int {
	if testing.Short() {
		return 2000
	}
	return 20000
}

// readVia opens a file below a directory and gives its bytes.
func readVia(d *fsx.Dir, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer d.Close()
	f, _, err := d.OpenFile("f")
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	return string(data), err
}

// However the names flip, what is opened stands in the tree.
func TestRaceOpen(t *testing.T) {
	both(t, func(t *testing.T, open opener) {
		root, _ := arena(t)
		d := openDir(t, open, root)
		ways := map[string]func() (string, error){
			"by path": func() (string, error) { return readVia(open(root + "/flip/sub")) },
			"by steps": func() (string, error) {
				dir, err := d.Open("flip")
				if err != nil {
					return "", err
				}
				defer dir.Close()
				return readVia(dir.Open("sub"))
			},
		}
		for way, read := range ways {
			stop := flip(t, root, "flip", "flop")
			opened, refused := 0, 0
			for range rounds() {
				data, err := read()
				switch {
				case err == nil && data == "public":
					opened++
				case errors.Is(err, unix.ENOTDIR):
					refused++
				default:
					stop()
					t.Fatalf("%s: %q, %v", way, data, err)
				}
			}
			stop()
			t.Logf("%s: opened %d times, refused %d times", way, opened, refused)
		}
	})
}

// A regular file that becomes a FIFO, and back, never blocks the reader.
func TestRaceFIFO(t *testing.T) {
	both(t, func(t *testing.T, open opener) {
		root := inMemory(t)
		write(t, root+"/f", "data")
		must(t, unix.Mkfifo(root+"/fifo", 0o600))
		d := openDir(t, open, root)
		defer flip(t, root, "f", "fifo")()
		for range rounds() {
			f, _, err := d.OpenFile("f")
			if errors.Is(err, fsx.ErrNotRegular) {
				continue
			}
			must(t, err)
			if data, err := io.ReadAll(f); string(data) != "data" || err != nil {
				t.Fatalf("%q, %v", data, err)
			}
			must(t, f.Close())
		}
	})
}

// A regular file that becomes a link to one outside is not read through it.
func TestRaceFileLink(t *testing.T) {
	both(t, func(t *testing.T, open opener) {
		root, outside := arena(t)
		must(t, os.Symlink(outside+"/sub/f", root+"/flip/sub/l"))
		d := openDir(t, open, root+"/flip/sub")
		defer flip(t, root+"/flip/sub", "f", "l")()
		for range rounds() {
			f, _, err := d.OpenFile("f")
			if errors.Is(err, fsx.ErrNotRegular) {
				continue
			}
			must(t, err)
			if data, err := io.ReadAll(f); string(data) != "public" || err != nil {
				t.Fatalf("%q, %v", data, err)
			}
			must(t, f.Close())
		}
	})
}

// Files made and trees removed while the names flip touch nothing outside.
func TestRaceWrite(t *testing.T) {
	both(t, func(t *testing.T, open opener) {
		root, outside := arena(t)
		d := openDir(t, open, root)
		stop := flip(t, root, "flip", "flop")
		for range rounds() / 10 {
			dir, err := d.Open("flip")
			if errors.Is(err, unix.ENOTDIR) {
				continue
			}
			must(t, err)
			must(t, makeTarget(dir, "f", "made", true))
			must(t, dir.Mkdir("sub2", 0o755))
			must(t, dir.Symlink("x", "link"))
			must(t, dir.Rename("link", "link2"))
			for _, name := range []string{"sub2", "link2", "f"} {
				must(t, dir.RemoveTree(name))
			}
			must(t, dir.Close())
		}
		stop()
		checkOutside(t, outside)
	})
}

// Trees are removed while the names below them flip.
func TestRaceRemoveTree(t *testing.T) {
	both(t, func(t *testing.T, open opener) {
		root, outside := arena(t)
		d := openDir(t, open, root)
		stop := flip(t, root, "flip", "flop")
		for range rounds() / 20 {
			must(t, d.Mkdir("tree", 0o755))
			must(t, os.MkdirAll(root+"/tree/flip/sub", 0o755))
			must(t, os.Symlink(outside, root+"/tree/flop"))
			inner := flip(t, root+"/tree", "flip", "flop")
			err := d.RemoveTree("tree")
			inner()
			// The two may have changed places between the listing and the removal;
			// what it was then is named, and the next attempt removes the rest.
			if err != nil && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.EISDIR) {
				t.Fatal(err)
			}
			must(t, d.RemoveTree("tree"))
		}
		stop()
		checkOutside(t, outside)
	})
}

func checkOutside(t *testing.T, outside string) {
	t.Helper()
	got := listing(t, outside)
	if len(got) != 2 || got[0] != "sub" || got[1] != "sub/f=secret" {
		t.Errorf("outside: %q", got)
	}
}
