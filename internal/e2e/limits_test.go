package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// memoryLimit is what no command may pass (I7): 200 MiB, in KiB as the kernel counts.
const memoryLimit = 200 << 10

// measured runs kedge and holds it to the memory limit.
func measured(t testing.TB, repo string, args ...string) {
	t.Helper()
	c := exec.Command(binary, append([]string{"-d", repo}, args...)...)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("kedge %q: %v\n%s", args, err, out)
	}
	ru := c.ProcessState.SysUsage().(*syscall.Rusage)
	t.Logf("%-8s %4d MiB, %6.2f s CPU", args[0], ru.Maxrss>>10, (c.ProcessState.UserTime() + c.ProcessState.SystemTime()).Seconds())
	if ru.Maxrss > memoryLimit {
		t.Errorf("kedge %s took %d MiB", args[0], ru.Maxrss>>10)
	}
}

// everything saves, lists, checks and restores a tree within the memory limit.
func everything(t testing.TB, src string) (repo, out string) {
	t.Helper()
	repo, out = filepath.Join(t.TempDir(), "repo"), filepath.Join(t.TempDir(), "out")
	kedge(t, repo, "init")
	measured(t, repo, "index", src)
	measured(t, repo, "save", "-n", "x", src)
	measured(t, repo, "index", src)
	measured(t, repo, "save", "-n", "x", src)
	measured(t, repo, "fsck")
	measured(t, repo, "restore", "-C", out, "x/latest"+src+"/.")
	return repo, out
}

// One directory of very many files.
func TestWidth(t *testing.T) {
	n := 20000
	if full {
		n = 1000000
	} else if testing.Short() {
		n = 2000
	}
	src := mkdir(t, t.TempDir(), "src")
	for i := range n {
		write(t, fmt.Sprintf("%s/file-%07d", src, i), []byte(fmt.Sprint(i)))
	}
	repo, out := everything(t, src)
	if got := len(names(t, out)); got != n {
		t.Errorf("%d files came back as %d", n, got)
	}
	if got := strings.Count(kedge(t, repo, "ls", "x/latest"+src), "\n"); got != n {
		t.Errorf("ls lists %d of %d files", got, n)
	}
	gitClean(t, repo)
}

// Very many names of one inode: its contents are stored once, and it comes back as one.
func TestHardLinks(t *testing.T) {
	n := 5000
	if full {
		n = 64999
	}
	src := mkdir(t, t.TempDir(), "src")
	write(t, src+"/0", []byte(must(t, "seq", "1", "100000")))
	for i := 1; i < n; i++ {
		check(t, os.Link(src+"/0", fmt.Sprintf("%s/%d", mkdir(t, src, fmt.Sprint("d", i%7)), i)))
	}
	_, out := everything(t, src)
	var st unix.Stat_t
	check(t, unix.Stat(out+"/0", &st))
	if int(st.Nlink) != n {
		t.Errorf("an inode of %d links came back with %d", n, st.Nlink)
	}
}

// A path far longer than any system call takes.
func TestDepth(t *testing.T) {
	for _, c := range []struct {
		levels  int
		oracles bool
	}{{1000, true}, {20000, false}} {
		if c.levels > 1000 && testing.Short() {
			continue
		}
		t.Run(fmt.Sprint(c.levels), func(t *testing.T) {
			src := mkdir(t, t.TempDir(), "src")
			dig(t, src, c.levels)
			t.Cleanup(func() { command(t, nil, "rm", "-rf", src) })
			repo, out := everything(t, src)
			t.Cleanup(func() { command(t, nil, "rm", "-rf", out) })
			if got := depth(t, out); got != c.levels {
				t.Errorf("%d levels came back as %d", c.levels, got)
			}
			if c.oracles {
				gitClean(t, repo)
			}
			if c.oracles && command(t, nil, "which", "bup").code == 0 {
				// bup restores by recursion, of which Python allows less than that.
				b, skip := t.TempDir(), 200
				must(t, "bup", "-d", repo, "restore", "-q", "-C", b, "x/latest"+src+strings.Repeat("/d", skip)+"/.")
				if got := depth(t, b); got != c.levels-skip {
					t.Errorf("bup: %d levels came back as %d", c.levels-skip, got)
				}
			}
		})
	}
}

// dig makes directories inside one another, with a file at the bottom.
func dig(t testing.TB, dir string, levels int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	check(t, err)
	for range levels {
		check(t, unix.Mkdirat(fd, "d", 0o755))
		next, err := unix.Openat(fd, "d", unix.O_DIRECTORY|unix.O_RDONLY, 0)
		check(t, err)
		unix.Close(fd)
		fd = next
	}
	f, err := unix.Openat(fd, "bottom", unix.O_CREAT|unix.O_WRONLY, 0o644)
	check(t, err)
	_, err = unix.Write(f, []byte("bottom"))
	check(t, err)
	unix.Close(f)
	unix.Close(fd)
}

func depth(t testing.TB, dir string) (levels int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	check(t, err)
	for {
		next, err := unix.Openat(fd, "d", unix.O_DIRECTORY|unix.O_RDONLY, 0)
		if err != nil {
			break
		}
		unix.Close(fd)
		fd = next
		levels++
	}
	var st unix.Stat_t
	if err := unix.Fstatat(fd, "bottom", &st, 0); err != nil || st.Size != 6 {
		t.Errorf("the file at the bottom: %v, %d bytes", err, st.Size)
	}
	unix.Close(fd)
	return levels
}

// Someone who can write in a tree that root saves flips a directory for a
// symbolic link to a secret, as fast as possible: the secret is never saved (I6).
func TestSaveRace(t *testing.T) {
	rounds := 15
	if full {
		rounds = 300
	}
	dir := t.TempDir()
	src, secret := mkdir(t, dir, "src"), mkdir(t, dir, "secret")
	write(t, secret+"/key", []byte("the secret"))
	write(t, mkdir(t, src, "a")+"/key", []byte("harmless"))
	for i := range 200 {
		write(t, fmt.Sprintf("%s/a/%d", src, i), []byte("filler"))
	}
	check(t, os.Symlink(secret, src+"/b"))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, src+"/a", unix.AT_FDCWD, src+"/b", unix.RENAME_EXCHANGE)
			}
		}
	}()
	repo := filepath.Join(dir, "repo")
	kedge(t, repo, "init")
	for range rounds {
		kedge := func(args ...string) {
			if r := tryKedge(t, repo, args...); r.code != 0 && r.code != 3 {
				t.Errorf("kedge %q: exit %d\n%s", args, r.code, r.err)
			}
		}
		kedge("index", "--fake-invalid", src)
		kedge("save", "-n", "x", src)
	}
	close(stop)
	<-done
	id := strings.TrimSpace(must(t, "sh", "-c", "printf 'the secret' | git hash-object --stdin"))
	if r := command(t, nil, "git", "-C", repo, "cat-file", "-e", id); r.code == 0 {
		t.Error("the secret was saved")
	}
	gitClean(t, repo)
}
