package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// mounted makes a file system in a file and mounts it.
func mounted(t testing.TB, kind, size string) (dir, image string) {
	t.Helper()
	needRoot(t)
	base := t.TempDir()
	image, dir = filepath.Join(base, "image"), mkdir(t, base, "mnt")
	must(t, "truncate", "-s", size, image)
	mkfs := map[string][]string{"ext4": {"mkfs.ext4", "-q"}, "xfs": {"mkfs.xfs", "-q"}}[kind]
	must(t, mkfs[0], append(mkfs[1:], image)...)
	if r := command(t, nil, "mount", "-o", "loop", image, dir); r.code != 0 {
		t.Skipf("no loop mounts here: %s", r.err)
	}
	t.Cleanup(func() { command(t, nil, "umount", "-l", dir) })
	return dir, image
}

// goingDown is the shutdown request of ext4 and xfs; the argument 2 asks them not to
// write their log first: what was not synced is gone, as in a power cut.
const goingDown = 0x8004587d

func cut(t testing.TB, dir string) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	check(t, err)
	defer unix.Close(fd)
	if err := unix.IoctlSetPointerInt(fd, goingDown, 2); err != nil {
		t.Skipf("this file system cannot be shut down: %v", err)
	}
}

// TestPowerCut cuts the power right after a save reported success. The save is
// there when the power is back, and so are those before it (I1, I4).
func TestPowerCut(t *testing.T) {
	rounds := 3
	if full {
		rounds = 50
	}
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			dir, image := mounted(t, kind, "400M")
			src := mkdir(t, t.TempDir(), "src")
			repo := filepath.Join(dir, "repo")
			kedge(t, repo, "init")
			var was []snapshot
			for i := range rounds {
				write(t, fmt.Sprintf("%s/%d", src, i), []byte(must(t, "seq", fmt.Sprint(i), fmt.Sprint(i*7000+50000))))
				kedge(t, repo, "backup", "-n", "x", src)
				was = append(was, take(t, src))
				cut(t, dir)
				must(t, "umount", dir)
				must(t, "mount", "-o", "loop", image, dir)
				if n := must(t, "git", "-C", repo, "rev-list", "--count", "x"); n != fmt.Sprintf("%d\n", i+1) {
					t.Fatalf("after %d saves and %d power cuts there are %s saves", i+1, i+1, n)
				}
				gitClean(t, repo)
				for j, want := range was {
					same(t, want, restoredSave(t, repo, src, j))
				}
			}
			kedge(t, repo, "fsck")
		})
	}
}

// TestFullDisk saves onto a file system with less and less room, until it works:
// whatever fails says so, the older save restores, and with room again the same
// command succeeds.
func TestFullDisk(t *testing.T) {
	dir, _ := mounted(t, "ext4", "64M")
	src := mkdir(t, t.TempDir(), "src")
	write(t, src+"/old", []byte("old\n"))
	repo := filepath.Join(dir, "repo")
	kedge(t, repo, "backup", "-n", "x", src)
	before := take(t, src)
	noise := make([]byte, 4<<20)
	f, err := os.Open("/dev/urandom")
	check(t, err)
	_, err = f.Read(noise)
	check(t, err)
	f.Close()
	write(t, src+"/noise", noise)
	now := take(t, src)
	ballast := dir + "/ballast"
	for room := int64(0); room <= 6<<20; room += 1 << 20 {
		var st unix.Statfs_t
		check(t, unix.Statfs(dir, &st))
		check(t, os.WriteFile(ballast, nil, 0o600))
		fd, err := unix.Open(ballast, unix.O_WRONLY, 0)
		check(t, err)
		// The file system needs some blocks to keep account of the ballast.
		for n := int64(st.Bfree)*st.Bsize - room; unix.Fallocate(fd, 0, 0, n) != nil; {
			n -= 4 * st.Bsize
		}
		unix.Close(fd)
		r := tryKedge(t, repo, "backup", "-n", "x", src)
		if room == 0 && r.code != 1 {
			t.Fatalf("a save onto a full disk: exit %d\n%s", r.code, r.err)
		}
		check(t, os.Remove(ballast))
		same(t, before, restoredSave(t, repo, src, 0))
		gitClean(t, repo)
		if r.code == 0 {
			break
		}
	}
	kedge(t, repo, "backup", "-n", "x", src)
	same(t, now, restored(t, repo, src))
	gitClean(t, repo)
	leftovers(t, repo)
}
