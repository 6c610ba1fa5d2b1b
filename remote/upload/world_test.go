package upload

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/repotest"
)

// TestMain lets git start this program in place of git-upload-pack: it passes all on to the
// test, or serves by itself if the test wants to know what that takes.
func TestMain(m *testing.M) {
	peak, socket := os.Getenv("UPLOAD_TEST_PEAK"), os.Getenv("UPLOAD_TEST_SOCKET")
	var err error
	switch {
	case peak != "":
		err = serveStdio(os.Args[1])
		text, _ := os.ReadFile("/proc/self/status")
		_ = os.WriteFile(peak, text, 0o600)
	case socket != "":
		err = relay(socket, os.Args[1])
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		os.Exit(1)
	}
}

// relay connects standard input and output with the test.
func relay(socket, dir string) error {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c, "%s\x00%s\n", dir, os.Getenv("GIT_PROTOCOL")); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(c, os.Stdin)
		_ = c.(*net.UnixConn).CloseWrite()
	}()
	_, err = io.Copy(os.Stdout, c)
	return err
}

// socket is where the relays of this process connect to.
var socket = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "upload")
	if err != nil {
		return "", err
	}
	l, err := net.Listen("unix", dir+"/socket")
	if err != nil {
		return "", err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serveRelay(c)
		}
	}()
	return dir + "/socket", nil
})

func serveRelay(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	head, err := in.ReadString('\n')
	if err != nil {
		return
	}
	dir, protocol, _ := strings.Cut(strings.TrimSuffix(head, "\n"), "\x00")
	ctx := context.Background()
	r, err := repo.OpenDir(ctx, dir, repo.DirOptions{ReadOnly: true})
	if err != nil {
		return
	}
	defer r.Close()
	_ = Serve(ctx, stdio{in, c}, r, Options{Protocol: protocol})
}

// stdio is standard input and output, without limits of time.
type stdio struct {
	io.Reader
	io.Writer
}

func serveStdio(dir string) error {
	ctx := context.Background()
	r, err := repo.OpenDir(ctx, dir, repo.DirOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer r.Close()
	return Serve(ctx, stdio{os.Stdin, os.Stdout}, r, Options{Protocol: os.Getenv("GIT_PROTOCOL")})
}

// result is what a program said.
type result struct {
	out, err string
	code     int
}

// tryGit runs git, for which this package serves repositories.
func tryGit(t testing.TB, env []string, args ...string) result {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	to, err := socket()
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range args {
		if a == "UPLOAD" {
			args[i] = "--upload-pack=" + self
		}
	}
	cmd := exec.Command("git", args...)
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C", "UPLOAD_TEST_SOCKET=" + to,
		"GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@b",
		"GIT_AUTHOR_DATE=1700000000 +0000", "GIT_COMMITTER_DATE=1700000000 +0000", "GIT_ALLOW_PROTOCOL=file",
	}, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	said := strings.ReplaceAll(errs.String(), "warning: GOCOVERDIR not set, no coverage data emitted\n", "")
	return result{out.String(), said, cmd.ProcessState.ExitCode()}
}

// git is tryGit that must succeed.
func git(t testing.TB, args ...string) string {
	t.Helper()
	r := tryGit(t, nil, args...)
	if r.code != 0 {
		t.Fatalf("git %q: exit %d\n%s%s", args, r.code, r.out, r.err)
	}
	return r.out
}

// clean lets git look at every object of a repository.
func clean(t testing.TB, dir string) {
	t.Helper()
	r := tryGit(t, nil, "-C", dir, "fsck", "--full", "--strict", "--no-dangling", "--no-progress")
	for _, harmless := range []string{"notice: HEAD points to an unborn branch (master)\n", "notice: HEAD points to an unborn branch (main)\n", "notice: No default references\n"} {
		r.err = strings.Replace(r.err, harmless, "", 1)
	}
	if r.code != 0 || r.out != "" || r.err != "" {
		t.Errorf("git fsck: exit %d\n%s%s", r.code, r.out, r.err)
	}
}

// contents describes the refs of a repository and all that they reach.
func contents(t testing.TB, dir string) string {
	t.Helper()
	return git(t, "-C", dir, "for-each-ref", "--format=%(objectname) %(refname) %(*objectname)") +
		sortLines(git(t, "-C", dir, "rev-list", "--objects", "--no-object-names", "--all"))
}

func sortLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := 1; i < len(lines); i++ {
		for k := i; k > 0 && lines[k] < lines[k-1]; k-- {
			lines[k], lines[k-1] = lines[k-1], lines[k]
		}
	}
	return strings.Join(lines, "\n")
}

// newRepo makes a repository with saves, each on the one before, on a ref.
func newRepo(t testing.TB, ref string, seeds ...string) (dir string, tips []pack.ID) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "repo")
	if _, err := repo.InitDir(context.Background(), dir, repo.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	return dir, save(t, dir, ref, pack.ID{}, seeds...)
}

// save adds saves to a repository.
func save(t testing.TB, dir, ref string, on pack.ID, seeds ...string) (tips []pack.ID) {
	t.Helper()
	ctx := context.Background()
	r, err := repo.OpenDir(ctx, dir, repo.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, seed := range seeds {
		s := repotest.NewSave(seed, 20)
		if !on.IsZero() {
			s = repotest.NewSave(seed, 20, on)
		}
		if err := repotest.Store(ctx, r, s); err != nil {
			t.Fatal(err)
		}
		if _, err := r.SetRef(ctx, repo.Move{Ref: ref, Old: on, New: s.Commit}); err != nil {
			t.Fatal(err)
		}
		on = s.Commit
		tips = append(tips, on)
	}
	return tips
}

// client is the other end of a Serve, which speaks as the test likes.
type client struct {
	net.Conn
	t    testing.TB
	done chan error
}

// dial serves a repository to a raw client.
func dial(t testing.TB, dir string, o Options) *client {
	t.Helper()
	r, err := repo.OpenDir(context.Background(), dir, repo.DirOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	// A socket, not a net.Pipe: what is written need not be read at once.
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range pair {
		f := os.NewFile(uintptr(fd), "socket")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	c := &client{Conn: ends[0], t: t, done: make(chan error, 1)}
	go func() {
		defer r.Close()
		err := Serve(context.Background(), ends[1], r, o)
		ends[1].Close()
		c.done <- err
	}()
	t.Cleanup(func() { c.Close() })
	return c
}

// end waits for the server and returns why it ended.
func (c *client) end() error {
	c.t.Helper()
	select {
	case err := <-c.done:
		return err
	case <-time.After(30 * time.Second):
		c.t.Fatal("the server does not end")
		return nil
	}
}

// say sends lines; "" is a flush.
func (c *client) say(lines ...string) {
	c.t.Helper()
	for _, l := range lines {
		if _, err := io.WriteString(c, line4(l)); err != nil && !errors.Is(err, syscall.EPIPE) {
			c.t.Fatal(err)
		}
	}
}

// line4 returns a pkt-line.
func line4(l string) string {
	if l == "" {
		return "0000"
	}
	return fmt.Sprintf("%04x%s", len(l)+4, l)
}

// hear reads lines up to a flush, or the end of the connection.
func (c *client) hear() (lines []string) {
	c.t.Helper()
	for {
		l, ok := c.one()
		if !ok || l == "" {
			return lines
		}
		lines = append(lines, l)
	}
}

// one reads a line; ok is false at the end of the connection.
func (c *client) one() (l string, ok bool) {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err == io.EOF || errors.Is(err, syscall.ECONNRESET) {
		return "", false
	} else if err != nil {
		c.t.Fatal(err)
	}
	n := 0
	if _, err := fmt.Sscanf(string(head[:]), "%04x", &n); err != nil {
		c.t.Fatalf("%q is no length", head)
	}
	if n == 0 {
		return "", true
	}
	b := make([]byte, n-4)
	if _, err := io.ReadFull(c, b); err != nil {
		c.t.Fatal(err)
	}
	if strings.HasPrefix(string(b), "ERR ") {
		_ = c.Conn.(*net.UnixConn).CloseWrite() // as git does then
	}
	return string(b), true
}

func shell(command string) (string, error) {
	out, err := exec.Command("sh", "-c", command).CombinedOutput()
	return string(out), err
}
