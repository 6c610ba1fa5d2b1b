package restore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/kedgebackup/kedge/repo"
)

// needs skips a test where a program, or the right to use it, is not there.
func needs(t testing.TB, root bool, programs ...string) {
	t.Helper()
	if root && os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip(err)
		}
	}
}

func command(t testing.TB, dir string, env []string, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// hardTree makes one of everything in dir. It needs root.
func hardTree(t testing.TB, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write(t, at("plain"), "plain")
	write(t, at("empty"), "")
	rnd := rand.New(rand.NewPCG(5, 6))
	write(t, at("big"), randomBytes(rnd, 500_000)+strings.Repeat("\x00", 300_000)+textBytes(rnd, 300_000))
	write(t, at("sub/x.bup"), "name")
	write(t, at("sub/\xff\n"), "name")
	must(os.Mkdir(at("sub/none"), 0o700))
	must(os.Link(at("plain"), at("sub/hard")))
	must(os.Symlink("../plain", at("sub/link")))
	must(os.Symlink("/nowhere", at("dangling")))
	must(os.Lchown(at("dangling"), 1000, 1001))
	must(syscall.Mknod(at("char"), syscall.S_IFCHR|0o600, 1<<8|3))
	must(syscall.Mknod(at("block"), syscall.S_IFBLK|0o660, 7<<8|200))
	must(syscall.Mkfifo(at("fifo"), 0o622))
	must(syscall.Mknod(at("sock"), syscall.S_IFSOCK|0o755, 0))
	must(syscall.Setxattr(at("plain"), "user.k", []byte("v\x00w"), 0))
	must(syscall.Setxattr(at("sub"), "user.dir", []byte("1"), 0))
	must(syscall.Setxattr(at("empty"), "trusted.t", []byte("2"), 0))
	write(t, at("su"), "x")
	must(os.Chown(at("su"), 65534, 1))
	must(os.Chmod(at("su"), 0o755|os.ModeSetuid|os.ModeSetgid))
	must(syscall.Setxattr(at("su"), "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	write(t, at("acl"), "x")
	must(os.Mkdir(at("acldir"), 0o755))
	command(t, dir, nil, "setfacl", "-m", "u:nobody:rw,g:12345:r", "acl")
	command(t, dir, nil, "setfacl", "-m", "u:nobody:rwx", "-m", "d:u:daemon:rwx,d:g:777:r", "acldir")
	must(os.Chmod(at("sub"), 0o777|os.ModeSticky))
	for i, name := range []string{"plain", "big", "sub/link", "fifo", "char", "sub/none", "sub", "acldir", ""} {
		stamp := []syscall.Timespec{{Sec: int64(1000 + i), Nsec: 1}, {Sec: int64(i*1_000_000_000 - 2_000_000_000), Nsec: int64(i * 111_111_111)}}
		if name != "sub/link" {
			must(syscall.UtimesNano(at(name), stamp))
		}
	}
}

// bupSave saves a directory with bup and opens the repository.
func bupSave(t testing.TB, base, src string) (r *repo.Packs, bupDir string) {
	t.Helper()
	bupDir = filepath.Join(base, "bup")
	env := []string{"BUP_DIR=" + bupDir}
	command(t, base, env, "bup", "init")
	command(t, base, env, "bup", "index", src)
	command(t, base, env, "bup", "save", "-n", "s", "--strip", src)
	r, err := repo.OpenDir(context.Background(), bupDir, repo.DirOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, bupDir
}

// TestRestoresWhatBupSaved: the tree is what it was, in everything.
func TestRestoresWhatBupSaved(t *testing.T) {
	needs(t, true, "bup", "git", "setfacl")
	base := scratch(t)
	src := filepath.Join(base, "src")
	hardTree(t, src)
	r, _ := bupSave(t, base, src)
	want := snapshot(t, src)
	for _, o := range []Options{{}, {Verify: true, Sparse: true}, {Workers: 1}, {Numeric: true}} {
		out := filepath.Join(base, "out")
		o.Repo, o.Out, o.Paths = r, out, []string{"s/latest/."}
		res, e := restored(t, o)
		clean(t, res, e)
		sameTrees(t, snapshot(t, out), want)
		o.System = true
		if res, e = restored(t, o); res.Files+res.Dirs != 0 {
			t.Errorf("again: %+v %q", res, e.seen)
		}
		if err := os.RemoveAll(out); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPathsAsBup compares what the forms of a path mean with bup's restore.
func TestPathsAsBup(t *testing.T) {
	needs(t, true, "bup", "git", "setfacl")
	base := scratch(t)
	src := filepath.Join(base, "src")
	hardTree(t, src)
	r, bupDir := bupSave(t, base, src)
	for i, path := range []string{"s/latest", "s/latest/", "s/latest/.", "/s/latest/sub", "s/latest/sub/", "s/latest/sub/.", "s/latest/sub/none",
		"s/latest/plain", "s/latest/big", "s/latest/sub/link", "s/latest/dangling", "s/latest/fifo", "s/latest/sub/hard"} {
		ours, theirs := filepath.Join(base, fmt.Sprint("ours", i)), filepath.Join(base, fmt.Sprint("theirs", i))
		res, e := restored(t, Options{Repo: r, Out: ours, Paths: []string{path}})
		clean(t, res, e)
		if err := os.Mkdir(theirs, 0o755); err != nil {
			t.Fatal(err)
		}
		command(t, base, []string{"BUP_DIR=" + bupDir}, "bup", "restore", "-C", theirs, path)
		got, want := snapshot(t, ours), snapshot(t, theirs)
		if !strings.HasSuffix(path, ".") { // the target itself is as it was made
			delete(got, ".")
			delete(want, ".")
		}
		sameTrees(t, got, want)
	}
}
