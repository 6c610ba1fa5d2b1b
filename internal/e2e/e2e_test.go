// Package e2e holds the proofs on the whole program: real trees through the real
// binary, with git and bup as witnesses. It has no code outside its tests.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// binary is the kedge under test, built with the hooks of the fault sweeps
// (build tag faults), which do nothing unless KEDGE_FAULT asks for something.
var binary string

// full says that sweeps are to be run whole (make sweep); otherwise a sample is.
var full = os.Getenv("KEDGE_SWEEP") == "full"

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "kedge-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "kedge")
		build := exec.Command("go", "build", "-tags", "faults", "-o", binary, "github.com/kedgebackup/kedge/cmd/kedge")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
			return 1
		}
		// Save names are in local time: a fixed zone keeps the tests' words stable.
		os.Setenv("TZ", "UTC")
		return m.Run()
	}())
}

// result is what a program did.
type result struct {
	out, err string
	code     int
}

// command runs a program in an environment without anyone's configuration.
func command(t testing.TB, env []string, name string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, name, args...)
	c.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home(t), "TZ=UTC", "LC_ALL=C.UTF-8",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
	}, env...)
	var out, msg bytes.Buffer
	c.Stdout, c.Stderr = &out, &msg
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s %q: %v", name, args, err)
	}
	return result{out.String(), msg.String(), c.ProcessState.ExitCode()}
}

// home is a home directory that exists and is empty.
func home(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(filepath.Dir(binary), "home")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// kedge runs kedge on a repository and expects it to succeed.
func kedge(t testing.TB, repo string, args ...string) string {
	t.Helper()
	r := tryKedge(t, repo, args...)
	if r.code != 0 {
		t.Fatalf("kedge %q: exit %d\n%s%s", args, r.code, r.out, r.err)
	}
	return r.out
}

func tryKedge(t testing.TB, repo string, args ...string) result {
	t.Helper()
	return command(t, nil, binary, append([]string{"-d", repo}, args...)...)
}

// must runs another program and expects it to succeed.
func must(t testing.TB, name string, args ...string) string {
	t.Helper()
	r := command(t, nil, name, args...)
	if r.code != 0 {
		t.Fatalf("%s %q: exit %d\n%s%s", name, args, r.code, r.out, r.err)
	}
	return r.out
}

// gitClean lets git look at every object and every link between them. It must
// find nothing to say.
func gitClean(t testing.TB, repo string) {
	t.Helper()
	r := command(t, nil, "git", "-C", repo, "fsck", "--full", "--strict", "--no-dangling", "--no-progress")
	// HEAD is of no use to a backup; git remarks on it until there is a save of that name.
	r.err = strings.Replace(r.err, "notice: HEAD points to an unborn branch (main)\n", "", 1)
	r.err = strings.Replace(r.err, "notice: No default references\n", "", 1)
	if r.code != 0 || strings.TrimSpace(r.err) != "" || strings.TrimSpace(r.out) != "" {
		t.Fatalf("git fsck: exit %d\n%s%s", r.code, r.out, r.err)
	}
}

// saved makes a repository with one save of src, named x.
func saved(t testing.TB, src string) (repo string) {
	t.Helper()
	repo = filepath.Join(t.TempDir(), "repo")
	kedge(t, repo, "init")
	saveAgain(t, repo, src)
	return repo
}

func saveAgain(t testing.TB, repo, src string) {
	t.Helper()
	kedge(t, repo, "index", src)
	kedge(t, repo, "save", "-n", "x", src)
}

// needRoot skips what only root can do.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// mkdir makes a directory with its parents.
func mkdir(t testing.TB, elem ...string) string {
	t.Helper()
	dir := filepath.Join(elem...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t testing.TB, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
}
