package restore

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/repo/meta"
)

// TestRacer has somebody exchange directories of the target for symbolic links
// while a restore, with all rights, writes, changes owners and deletes in them.
// What the links lead to must stay as it is, whatever becomes of the restore.
func TestRacer(t *testing.T) {
	base := scratch(t)
	out, outside := filepath.Join(base, "out"), filepath.Join(base, "outside")
	var top []entry
	for d := range 8 {
		var kids []entry
		for i := range 12 {
			kids = append(kids, entry{name: fmt.Sprintf("f%d", i), body: fmt.Sprint("new ", d, i), mode: meta.TypeFile | 0o4755,
				edit: func(m *meta.Meta) { m.UID, m.GID = int64(os.Geteuid()), int64(os.Getegid()) }},
				symlink(fmt.Sprintf("l%d", i), "f0"))
		}
		kids = append(kids, entry{name: "big", chunks: []string{"ab", "cd", "ef"}}, dir("sub", file1("x", "x")),
			linked("h1", "h", "/h1"), linked("h2", "h", "/h1"), entry{name: "fifo", mode: meta.TypeFIFO | 0o622})
		top = append(top, dir(fmt.Sprintf("d%d", d), kids...))
		// Outside there is the same, so that every name that is written is there.
		for i := range 12 {
			write(t, filepath.Join(outside, fmt.Sprintf("f%d", i)), "outside")
			write(t, filepath.Join(outside, fmt.Sprintf("surplus%d", i)), "outside")
		}
		write(t, filepath.Join(outside, "sub/x"), "outside")
		write(t, filepath.Join(outside, "big"), "outside")
	}
	r := saved(t, top...)
	want := snapshot(t, outside)

	var stop atomic.Bool
	ended := make(chan int)
	go func() {
		flips := 0
		for !stop.Load() {
			for d := range 8 {
				a, b := filepath.Join(out, fmt.Sprintf("d%d", d)), filepath.Join(out, "aside")
				os.Rename(a, b)
				if os.Symlink(outside, a) == nil {
					flips++
				}
				os.Remove(a)
				os.Rename(b, a)
				os.RemoveAll(b)
			}
		}
		ended <- flips
	}()
	rounds := 0
	for end := time.Now().Add(raceFor(t)); time.Now().Before(end); rounds++ {
		for _, how := range []Overwrite{IfChanged, Always} {
			_, err := Run(context.Background(), Options{Repo: r, Out: out, Paths: []string{"s/latest/."}, Overwrite: how, Delete: true, System: true})
			if err != nil && os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
	}
	stop.Store(true)
	flips := <-ended
	if flips == 0 || rounds == 0 {
		t.Fatalf("%d flips, %d rounds: nothing was tested", flips, rounds)
	}
	t.Logf("%d flips during %d restores", flips, rounds)
	sameTrees(t, snapshot(t, outside), want)

	// Left in peace, it is right.
	res, e := restored(t, Options{Repo: r, Out: out, Paths: []string{"s/latest/."}, Overwrite: Always, Delete: true, System: true})
	clean(t, res, e)
	if got := content(t, filepath.Join(out, "d3/f7")); got != "new 3 7" {
		t.Errorf("%q", got)
	}
}

func raceFor(t *testing.T) time.Duration {
	if testing.Short() {
		return time.Second
	}
	return 5 * time.Second
}

// TestTrapsInTheTarget has links, a hard link and a FIFO where files go: they are
// replaced or named, and never followed or written into.
func TestTrapsInTheTarget(t *testing.T) {
	base := scratch(t)
	out := filepath.Join(base, "out")
	secret := filepath.Join(base, "secret")
	write(t, secret, "secret")
	write(t, filepath.Join(base, "etc/passwd"), "outside")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{"etc": "../etc", "top": "../secret"} {
		if err := os.Symlink(to, filepath.Join(out, from)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(secret, filepath.Join(out, "hard")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(out, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := saved(t, append(etc(), file1("hard", "new"), file1("pipe", "new"), entry{name: "setuid", mode: meta.TypeFile | 0o4755, body: "new"})...)
	res, e := restored(t, Options{Repo: r, Out: out, Paths: []string{"s/latest/."}})
	if res.Errors != 1 { // etc
		t.Errorf("%+v %q", res, e.warn)
	}
	if content(t, secret) != "secret" || content(t, filepath.Join(base, "etc/passwd")) != "outside" {
		t.Error("something outside was written")
	}
	if content(t, filepath.Join(out, "top"))+content(t, filepath.Join(out, "hard"))+content(t, filepath.Join(out, "pipe")) != "topnewnew" {
		t.Error("not restored")
	}
	if list, _ := os.ReadDir(filepath.Join(base, "etc")); len(list) != 1 {
		t.Errorf("outside there is %v", list)
	}
}

// TestOutThroughLink: the target itself may be named through a symbolic link.
func TestOutThroughLink(t *testing.T) {
	base := scratch(t)
	if err := os.Mkdir(filepath.Join(base, "real"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", filepath.Join(base, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(base, "broken")); err != nil {
		t.Fatal(err)
	}
	r := saved(t, etc()...)
	res, e := restored(t, Options{Repo: r, Out: filepath.Join(base, "link/new/er"), Paths: []string{"s/latest/top"}})
	clean(t, res, e)
	if content(t, filepath.Join(base, "real/new/er/top")) != "top" {
		t.Error("not there")
	}
	for _, bad := range []string{"broken", "broken/x", "real/new/er/top", "real/new/er/top/x"} {
		if _, _, err := try(Options{Repo: r, Out: filepath.Join(base, bad), Paths: []string{"s/latest/top"}}); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}
