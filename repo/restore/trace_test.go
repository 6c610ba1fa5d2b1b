package restore

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/repo"
)

// TestTrace compares the system calls for one small file with those that the
// comment of type file promises.
func TestTrace(t *testing.T) {
	if dir := os.Getenv("KEDGE_TRACED_REPO"); dir != "" { // the traced process
		r, err := repo.OpenDir(context.Background(), dir, repo.DirOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		res, err := Run(context.Background(), Options{Repo: r, Out: os.Getenv("KEDGE_TRACED_OUT"), Paths: []string{"s/latest/f"}})
		if err != nil || res.Files != 1 {
			t.Fatal(res, err)
		}
		return
	}
	needs(t, true, "strace")
	s := newSaver(t)
	s.save("s", file1("f", "some content"))
	s.done()
	base := scratch(t)
	log := filepath.Join(base, "trace")
	cmd := exec.Command("strace", "-f", "-o", log,
		"-e", "trace=openat,openat2,write,pwrite64,fchown,fchownat,fchmod,fchmodat,flistxattr,fsetxattr,fremovexattr,utimensat,linkat,renameat,renameat2,unlinkat,mkdirat,close,fsync,ioctl,ftruncate",
		os.Args[0], "-test.run", "^TestTrace$")
	cmd.Env = append(os.Environ(), "KEDGE_TRACED_REPO="+s.dir, "KEDGE_TRACED_OUT="+filepath.Join(base, "out"))
	if out, err := cmd.CombinedOutput(); err != nil {
		if bytes.Contains(out, []byte("ptrace")) {
			t.Skipf("%s", out)
		}
		t.Fatalf("%v\n%s", err, out)
	}
	// Whatever is about the descriptor that O_TMPFILE gave, by the thread that got it.
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	made := regexp.MustCompile(`(?m)^(\d+) openat\(\d+, "\.", [^)]*O_TMPFILE[^)]*\) = (\d+)$`).FindSubmatch(text)
	if made == nil {
		t.Skip("no O_TMPFILE here")
	}
	var got []string
	for _, line := range strings.Split(string(text[bytes.Index(text, made[0]):]), "\n") {
		pid, call, _ := strings.Cut(line, " ")
		name, rest, _ := strings.Cut(strings.TrimSpace(call), "(")
		if pid != string(made[1]) || strings.HasPrefix(call, "<") {
			continue
		}
		fd := string(made[2])
		if name == "openat" && strings.Contains(rest, "O_TMPFILE") {
			name = "openat(O_TMPFILE)"
		} else if !strings.HasPrefix(rest, fd+",") && !strings.HasPrefix(rest, fd+")") && !strings.Contains(rest, `"/proc/self/fd/`+fd+`"`) {
			continue
		}
		got = append(got, name)
		if name == "close" {
			break
		}
	}
	const want = "openat(O_TMPFILE) → pwrite64 → fchown → fchmod → flistxattr → utimensat → linkat → close"
	if seq := strings.Join(got, " → "); seq != want {
		t.Errorf("calls\n%s, want\n%s", seq, want)
	}
}
