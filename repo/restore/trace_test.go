package restore

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/repo"
)

// TestTrace compares the system calls for one file with those that the comment
// of type file promises.
func TestTrace(t *testing.T) {
	if dir := os.Getenv("KEDGE_TRACED_REPO"); dir != "" { // the traced process
		r, err := repo.OpenDir(context.Background(), dir, repo.DirOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		res, err := Run(context.Background(), Options{Repo: r, Out: os.Getenv("KEDGE_TRACED_OUT"), Paths: []string{os.Getenv("KEDGE_TRACED_PATH")}, Sparse: true})
		if err != nil || res.Files != 1 {
			t.Fatal(res, err)
		}
		return
	}
	needs(t, true, "strace")
	s := newSaver(t)
	big := textBytes(rand.New(rand.NewPCG(1, 2)), 600_000) // so little in the pack that one goroutine reads it
	zeros := strings.Repeat("\x00", 8192)
	s.save("s", file1("f", "some content"), file1("hole", "x"+zeros), file1("holes", "x"+zeros+"x"), entry{name: "big", chunks: []string{big[:200_000], big[200_000:500_000], big[500_000:]}})
	s.done()
	const dress = " → fchown → fchmod → flistxattr → utimensat → linkat → close"
	for _, c := range []struct{ path, want string }{
		{"s/latest/f", "openat(O_TMPFILE) → pwrite64(12, 0)" + dress},
		{"s/latest/hole", "openat(O_TMPFILE) → pwrite64(4096, 0) → ftruncate" + dress},
		{"s/latest/holes", "openat(O_TMPFILE) → pwrite64(4096, 0) → pwrite64(2, 8192)" + dress},
		{"s/latest/big", "openat(O_TMPFILE) → pwrite64(131072, 0) → pwrite64(131072, 131072) → pwrite64(131072, 262144) → pwrite64(131072, 393216) → pwrite64(75712, 524288)" + dress},
	} {
		if got := traced(t, s.dir, c.path); got != c.want {
			t.Errorf("calls for %s\n%s, want\n%s", c.path, got, c.want)
		}
	}
}

// traced restores a path in another process and returns the calls about the
// descriptor that O_TMPFILE gave.
func traced(t *testing.T, dir, path string) string {
	base := scratch(t)
	log := filepath.Join(base, "trace")
	cmd := exec.Command("strace", "-f", "-o", log,
		"-e", "trace=openat,openat2,write,pwrite64,fchown,fchownat,fchmod,fchmodat,flistxattr,fsetxattr,fremovexattr,utimensat,linkat,renameat,renameat2,unlinkat,mkdirat,close,fsync,ioctl,ftruncate",
		os.Args[0], "-test.run", "^TestTrace$")
	cmd.Env = append(os.Environ(), "KEDGE_TRACED_REPO="+dir, "KEDGE_TRACED_PATH="+path, "KEDGE_TRACED_OUT="+filepath.Join(base, "out"))
	if out, err := cmd.CombinedOutput(); err != nil {
		if bytes.Contains(out, []byte("ptrace")) {
			t.Skipf("%s", out)
		}
		t.Fatalf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	lines := wholeCalls(string(text))
	tmpfile := regexp.MustCompile(`^openat\(\d+, "\.", [^)]*O_TMPFILE[^)]*\) += (\d+)$`)
	wrote := regexp.MustCompile(`, (\d+), (\d+)\) +=`)
	var got []string
	fd := ""
	for _, line := range lines {
		if m := tmpfile.FindStringSubmatch(line); m != nil && fd == "" {
			fd, got = m[1], append(got, "openat(O_TMPFILE)")
			continue
		}
		name, rest, _ := strings.Cut(line, "(")
		if fd == "" || !strings.HasPrefix(rest, fd+",") && !strings.HasPrefix(rest, fd+")") && !strings.Contains(rest, `"/proc/self/fd/`+fd+`"`) {
			continue
		}
		if m := wrote.FindStringSubmatch(line); name == "pwrite64" && m != nil {
			name = fmt.Sprintf("pwrite64(%s, %s)", m[1], m[2])
		}
		got = append(got, name)
		if name == "close" {
			break
		}
	}
	if fd == "" {
		if strings.Contains(string(text), "O_TMPFILE") {
			t.Fatalf("no file was made\n%s", text)
		}
		t.Skip("no O_TMPFILE here")
	}
	return strings.Join(got, " → ")
}

// wholeCalls returns the calls of a trace without the numbers of the threads, in the
// order in which they began. Where several threads are in a call strace writes its
// beginning and its end apart:
//
//	41 openat(5, ".", O_RDWR|O_TMPFILE, 0600 <unfinished ...>
//	42 close(3)     = 0
//	41 <... openat resumed>) = 6
func wholeCalls(text string) (calls []string) {
	begun := make(map[string]int)
	for line := range strings.Lines(text) {
		thread, call, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		call = strings.TrimSpace(call)
		if front, ok := strings.CutSuffix(call, "<unfinished ...>"); ok {
			begun[thread] = len(calls)
			calls = append(calls, strings.TrimRight(front, " "))
			continue
		}
		if rest, ok := strings.CutPrefix(call, "<... "); ok {
			_, end, _ := strings.Cut(rest, " resumed>")
			if i, ok := begun[thread]; ok {
				calls[i] += end
				delete(begun, thread)
			}
			continue
		}
		calls = append(calls, call)
	}
	return calls
}
