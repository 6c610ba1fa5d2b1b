package index

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

// TestUnreadable needs a user who may not read everything, so it runs itself
// again as one.
func TestUnreadable(t *testing.T) {
	if os.Getuid() == 0 {
		runAsNobody(t)
		return
	}
	src, name := scratch(t)
	mktree(t, src, "a/1", "closed/1", "closed/d/2", "locked/1", "z")
	o := Options{File: name, Roots: []string{src}}
	update(t, o)
	markAll(t, name, inAnHour())
	modes := func(closed, locked os.FileMode) {
		t.Helper()
		for p, m := range map[string]os.FileMode{"closed": closed, "locked": locked} {
			if err := os.Chmod(filepath.Join(src, p), m); err != nil {
				t.Fatal(err)
			}
		}
	}
	modes(0o300, 0o600) // one can't be listed, the other not entered
	defer modes(0o700, 0o700)
	var warned []string
	o.Warn = func(p string, err error) { warned = append(warned, p[len(src):]) }
	if res := update(t, o); res.Errors != 2 || res.Gone != 0 {
		t.Errorf("%+v", res)
	}
	wantLines(t, "warned", warned, "/closed", "/locked/1")
	wantLines(t, "kept", statuses(t, name, src),
		"  ./a/1", "  ./a", "  ./closed/1", "  ./closed/d/2", "  ./closed/d", "M ./closed", "M ./locked/1", "M ./locked", "  ./z", "M .")
	if res := update(t, o); res.Errors != 2 || res.Rewritten {
		t.Errorf("the same again: %+v", res)
	}
	o.Roots = []string{src + "/locked/1", src + "/locked/d/e"}
	if res := update(t, o); res.Errors != 2 || res.Gone != 0 {
		t.Errorf("as roots: %+v", res)
	}
}

func runAsNobody(t *testing.T) {
	exe := filepath.Join(t.TempDir(), "index.test")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, program, 0o755); err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(exe); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	tmp := filepath.Join(filepath.Dir(exe), "tmp")
	if err := os.Mkdir(tmp, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(tmp, 0o777); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}

// TestFileSystems walks /dev, below which most systems have others: devpts,
// which is never entered, and others, which are unless told not to.
func TestFileSystems(t *testing.T) {
	var dev, pts, shm unix.Stat_t
	if unix.Stat("/dev", &dev) != nil || unix.Stat("/dev/pts/ptmx", &pts) != nil || dev.Dev == pts.Dev {
		t.Skip("no devpts at /dev/pts")
	}
	_, name := scratch(t)
	o := Options{File: name, Roots: []string{"/dev"}, Warn: func(string, error) {}}
	update(t, o)
	f := openIndex(t, name)
	has := func(p string) bool {
		_, _, ok, err := f.Lookup(p)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if !has("/dev/pts") || has("/dev/pts/ptmx") || !has("/dev/null") {
		t.Error("a kernel file system was entered, or left out")
	}
	if unix.Stat("/dev/shm", &shm) == nil && shm.Dev != dev.Dev {
		mark := fmt.Sprintf("/dev/shm/kedge-test-%d", os.Getpid())
		if err := os.WriteFile(mark, nil, 0o600); err != nil {
			t.Skip(err)
		}
		defer os.Remove(mark)
		for _, one := range []bool{false, true} {
			o.OneFileSystem = one
			update(t, o)
			f = openIndex(t, name)
			rec, _, ok, _ := f.Lookup(mark)
			if exists := ok && rec.Flags&Exists != 0; exists == one || !has("/dev/shm") {
				t.Errorf("one file system %v: %v", one, exists)
			}
		}
		o.Roots = []string{"/dev/shm"} // an explicit root is entered
		update(t, o)
		f = openIndex(t, name)
		if rec, _, _, _ := f.Lookup(mark); rec.Flags&Exists == 0 {
			t.Error("an explicit root was not entered")
		}
	}
	o.Roots = []string{"/dev/pts"}
	update(t, o)
	f = openIndex(t, name)
	if !has("/dev/pts/ptmx") {
		t.Error("a root that is a kernel file system was not entered")
	}
}

// TestRootDirectory walks "/" itself, all of it but one directory left out.
func TestRootDirectory(t *testing.T) {
	entries, err := os.ReadDir("/")
	if err != nil {
		t.Fatal(err)
	}
	src, name := scratch(t)
	mktree(t, src, "f")
	var x Exclude
	keep := "/" + strings.Split(src, "/")[1]
	for _, e := range entries {
		if p := "/" + e.Name(); p != keep {
			if err := x.AddPath(p); err != nil {
				t.Fatal(err)
			}
		}
	}
	for dir := filepath.Dir(src); dir != "/"; dir = filepath.Dir(dir) {
		rest, _ := os.ReadDir(dir)
		for _, e := range rest {
			if p := filepath.Join(dir, e.Name()); !Within(src, p) {
				x.AddPath(p)
			}
		}
	}
	o := Options{File: name, Roots: []string{"/", src}, Exclude: &x, Warn: func(string, error) {}}
	update(t, o)
	f := openIndex(t, name)
	for p := src + "/f"; ; p = filepath.Dir(p) {
		if _, _, ok, err := f.Lookup(p); !ok || err != nil {
			t.Errorf("%s is not in the index (%v)", p, err)
		}
		if p == "/" {
			break
		}
	}
	got := contents(t, f)
	if last := got[len(got)-1]; last.Path != "/" || last.Below != uint64(len(got)-1) || !isDir(last.Stat.Mode) {
		t.Errorf("the root: %+v", last)
	}
}
