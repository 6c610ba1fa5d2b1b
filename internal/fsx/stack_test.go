package fsx_test

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// levels is a depth at which a path is no longer a path.
func levels() int {
	if testing.Short() {
		return 3000
	}
	return 20000
}

// dig makes a chain of directories called "d", with a file in each, and comes
// back to the top.
func dig(t testing.TB, d *fsx.Dir, levels int) {
	t.Helper()
	stack := descend(t, d)
	defer stack.Close()
	for range levels {
		must(t, stack.Top().Mkdir("d", 0o700))
		must(t, stack.Push("d"))
		must(t, stack.Top().Symlink("/", "l"))
	}
}

// descend returns a Stack at d, which stays open when the Stack is closed.
func descend(t testing.TB, d *fsx.Dir) *fsx.Stack {
	t.Helper()
	must(t, d.Mkdir("tmp", 0o700))
	sub, err := d.Open("tmp")
	must(t, err)
	defer sub.Close()
	root, err := sub.Parent()
	must(t, err)
	must(t, d.Rmdir("tmp"))
	return fsx.NewStack(root)
}

func TestStack(t *testing.T) {
	both(t, func(t *testing.T, open opener) {
		d := openDir(t, open, inMemory(t))
		dig(t, d, levels())
		before := descriptors(t)
		stack := descend(t, d)
		var seen []uint64
		for i := range levels() {
			st, err := stack.Top().Stat()
			must(t, err)
			seen = append(seen, st.Ino)
			must(t, stack.Push("d"))
			if stack.Depth() != i+1 {
				t.Fatalf("depth %d after %d pushes", stack.Depth(), i+1)
			}
			if i%1000 == 0 || i == 70 {
				if n := descriptors(t) - before; n > 64 {
					t.Fatalf("%d descriptors at depth %d", n, i)
				}
			}
		}
		if err := stack.Push("none"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("push of nothing: %v", err)
		}
		if err := stack.Push("l"); !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("push of a link: %v", err)
		}
		for i := range slices.Backward(seen) {
			must(t, stack.Pop())
			if st, err := stack.Top().Stat(); err != nil || st.Ino != seen[i] {
				t.Fatalf("depth %d: another directory, %v", i, err)
			}
		}
		if err := stack.Pop(); err == nil {
			t.Error("popped the root")
		}
		must(t, stack.Push("d")) // which does not end it
		must(t, stack.Close())
		if after := descriptors(t); after != before {
			t.Errorf("%d descriptors before, %d after", before, after)
		}
		must(t, d.RemoveTree("d"))
	})
}

// A tree that is moved while a Stack is deep in it has another "..": what is
// still held is not taken for what was.
func TestStackMovedTree(t *testing.T) {
	root := inMemory(t)
	d := openDir(t, fsx.OpenDir, root)
	dig(t, d, 200)
	must(t, d.Mkdir("elsewhere", 0o700))
	before := descriptors(t)
	stack := descend(t, d)
	for range 200 {
		must(t, stack.Push("d"))
	}
	path := root
	for range 101 {
		path += "/d"
	}
	must(t, os.Rename(path, root+"/elsewhere/d"))
	for stack.Depth() > 101 {
		must(t, stack.Pop())
	}
	for range 2 {
		if err := stack.Pop(); !errors.Is(err, fsx.ErrMoved) {
			t.Errorf("pop: %v", err)
		}
	}
	if err := stack.Push("d"); !errors.Is(err, fsx.ErrMoved) {
		t.Errorf("push after it: %v", err)
	}
	must(t, stack.Close())
	if err := stack.Push("d"); err == nil {
		t.Error("push after close")
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestRemoveTree(t *testing.T) {
	both(t, func(t *testing.T, open opener) {
		root := t.TempDir()
		d := openDir(t, open, root)
		must(t, d.RemoveTree("none"))
		for i := range 5 {
			sub := root + "/tree/" + strconv.Itoa(i) + "/x/y"
			must(t, os.MkdirAll(sub, 0o755))
			write(t, sub+"/f", "")
			must(t, os.Symlink(root+"/kept", sub+"/l"))
			must(t, unix.Mkfifo(sub+"/fifo", 0o600))
		}
		must(t, os.Mkdir(root+"/kept", 0o755))
		write(t, root+"/kept/f", "x")
		must(t, os.Symlink("kept", root+"/link"))
		write(t, root+"/file", "")
		before := descriptors(t)
		for _, name := range []string{"tree", "link", "file"} {
			must(t, d.RemoveTree(name))
		}
		if got := listing(t, root); !slices.Equal(got, []string{"kept", "kept/f=x"}) {
			t.Errorf("left: %q", got)
		}
		if after := descriptors(t); after != before {
			t.Errorf("%d descriptors before, %d after", before, after)
		}
	})
}

func TestRemoveTreeDeepAndWide(t *testing.T) {
	root := inMemory(t)
	d := openDir(t, fsx.OpenDir, root)
	dig(t, d, levels())
	for i := range 5000 {
		write(t, root+"/d/"+strconv.Itoa(i), "")
		must(t, os.Mkdir(root+"/d/d"+strconv.Itoa(i), 0o700))
	}
	must(t, d.RemoveTree("d"))
	if got := listing(t, root); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}

// What is mounted below is of another file system, and not ours to empty.
func TestRemoveTreeStopsAtMount(t *testing.T) {
	small := mountSmall(t)
	write(t, small+"/f", "x")
	root := t.TempDir()
	must(t, os.MkdirAll(root+"/tree/mnt", 0o755))
	must(t, unix.Mount(small, root+"/tree/mnt", "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(root+"/tree/mnt", unix.MNT_DETACH)) })
	d := openDir(t, fsx.OpenDir, root)
	if err := d.RemoveTree("tree"); !errors.Is(err, unix.EXDEV) {
		t.Errorf("remove: %v", err)
	}
	if got := listing(t, small); !slices.Equal(got, []string{"f=x"}) {
		t.Errorf("left: %q", got)
	}
}

// A bind mount of the same file system has the same device, and is not ours either.
func TestRemoveTreeStopsAtBindMount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	root, other := t.TempDir(), t.TempDir()
	write(t, other+"/f", "x")
	must(t, os.MkdirAll(root+"/tree/mnt", 0o755))
	must(t, unix.Mount(other, root+"/tree/mnt", "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(root+"/tree/mnt", unix.MNT_DETACH)) })
	d := openDir(t, fsx.OpenDir, root)
	if err := d.RemoveTree("tree"); !errors.Is(err, unix.EXDEV) {
		t.Errorf("remove: %v", err)
	}
	if got := listing(t, other); !slices.Equal(got, []string{"f=x"}) {
		t.Errorf("left: %q", got)
	}
}

// A name that can't be removed is named, and is no endless loop.
func TestRemoveTreeFailure(t *testing.T) {
	root := t.TempDir()
	must(t, os.MkdirAll(root+"/tree/sub", 0o755))
	write(t, root+"/tree/sub/f", "")
	asNobody(t, func() {
		d, err := fsx.OpenDir(root)
		if err != nil {
			t.Error(err)
			return
		}
		defer d.Close()
		if err := d.RemoveTree("tree"); !errors.Is(err, os.ErrPermission) {
			t.Errorf("remove: %v", err)
		}
	})
	if got := listing(t, root); !slices.Equal(got, []string{"tree", "tree/sub", "tree/sub/f="}) {
		t.Errorf("left: %q", got)
	}
}
