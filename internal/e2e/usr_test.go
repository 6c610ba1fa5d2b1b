package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What people have on their disks, over each way: /usr is saved, saved again unchanged,
// listed, checked and restored, and compared byte by byte with its metadata. KEDGE_USR
// names another directory.
func TestRemoteUsr(t *testing.T) {
	if !full {
		t.Skip("takes many minutes and 12 GB; KEDGE_SWEEP=full")
	}
	src := os.Getenv("KEDGE_USR")
	if src == "" {
		src = "/usr"
	}
	want := take(t, src)
	all := append(ways[:len(ways):len(ways)], way{"openssh-bup", "system", func(t testing.TB) *server {
		return startLogins(t, map[string]string{"bup": debianBup(t)})
	}})
	for _, w := range all {
		t.Run(w.name, func(t *testing.T) {
			s := w.serv(t)
			repo := filepath.Join(s.root, "build")
			var c client
			if w.name == "openssh-bup" {
				c = s.addLogin(t, w.ssh, repo[1:])
			} else {
				c = s.addClient(t, w.ssh, "build", "append")
			}
			last := time.Now()
			lap := func(what string) {
				t.Logf("%s: %v", what, time.Since(last).Round(time.Millisecond))
				last = time.Now()
			}
			c.run(t, "init")
			kedge(t, c.home, "index", src)
			lap("index")
			for _, what := range []string{"save", "unchanged save"} {
				if r := c.try(t, "save", "-n", "x", src); r.code != 0 {
					t.Fatalf("%s: exit %d\n%s", what, r.code, r.err)
				}
				lap(what)
			}
			if trees := must(t, "git", "-C", repo, "log", "--format=%T", "x"); len(strings.Fields(trees)) != 2 ||
				strings.Fields(trees)[0] != strings.Fields(trees)[1] {
				t.Errorf("an unchanged save has another tree:\n%s", trees)
			}
			top := c.run(t, "ls", "x/latest"+src)
			if list, err := os.ReadDir(src); err != nil || strings.Count(top, "\n") != len(list) {
				t.Errorf("ls has %d lines for %d names", strings.Count(top, "\n"), len(list))
			}
			lap("ls")
			out := target(t)
			c.run(t, "restore", "-C", out, "x/latest"+src+"/.")
			lap("restore")
			same(t, want, take(t, out))
			must(t, "rm", "-rf", out)
			last = time.Now()
			c.run(t, "fsck")
			lap("fsck")
			must(t, "rm", "-rf", repo)
		})
	}
}
