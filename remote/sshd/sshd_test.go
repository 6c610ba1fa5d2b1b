package sshd

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/remote/access"
	"github.com/kedgebackup/kedge/repo"
)

// sweep says that floods are to be as large as they are claimed to be survived.
var sweep = os.Getenv("KEDGE_SWEEP") == "full"

// house is a server with two tenants, a and b, and a reader of both.
type house struct {
	t              *testing.T
	s              *Server
	addr           string
	root           string
	a, b, reader   ssh.Signer
	blind, unknown ssh.Signer // append without reading; in no file
	stop           context.CancelFunc
	ended          chan error

	mu  sync.Mutex
	log []string
}

func newSigner(t testing.TB) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// line returns a line of authorized_keys.
func line(options, command string, key ssh.Signer) string {
	return options + `command="` + command + `" ` + string(ssh.MarshalAuthorizedKey(key.PublicKey()))
}

// quick are limits of time for tests.
func quick() times {
	return times{handshake: time.Second, command: time.Second, alive: 300 * time.Millisecond, dead: 2 * time.Second,
		write: 2 * time.Second, stall: time.Second, part: 300 * time.Millisecond, bury: time.Second, rekey: 1 << 30}
}

// calm gives those who log in the time that they have in earnest: for tests that are not about
// limits of time, as the machine may be busy.
func calm(s *Server) {
	s.times.handshake, s.times.command = usualTimes().handshake, usualTimes().command
}

// newHouse starts a server. At the end of the test it is stopped, and nothing of it may be left.
func newHouse(t *testing.T, change func(*Server)) *house {
	t.Helper()
	before := runtime.NumGoroutine()
	h := &house{t: t, root: t.TempDir(), ended: make(chan error, 1)}
	for _, k := range []*ssh.Signer{&h.a, &h.b, &h.reader, &h.blind, &h.unknown} {
		*k = newSigner(t)
	}
	for _, name := range []string{"a", "b", "c"} {
		if _, err := repo.InitDir(t.Context(), filepath.Join(h.root, name), repo.InitOptions{FS: &fsx.FS{}}); err != nil {
			t.Fatal(err)
		}
	}
	keys := filepath.Join(h.root, ".kedge", "authorized_keys")
	if err := os.Mkdir(filepath.Dir(keys), 0o700); err != nil {
		t.Fatal(err)
	}
	text := line("restrict,", "kedge server --repo a --role append", h.a) + line("", "kedge server --repo b --role append", h.b) +
		line("no-pty,", "kedge server --repo a --repo b --role read", h.reader) + line("", "kedge server --repo a --role append --no-read", h.blind)
	if err := os.WriteFile(keys, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	h.s, err = New(Options{Root: h.root, HostKey: filepath.Join(h.root, ".kedge", "host_key"), AuthorizedKeys: keys, Grace: time.Second, Log: h.logf})
	if err != nil {
		t.Fatal(err)
	}
	h.s.times = quick()
	if change != nil {
		change(h.s)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = l.Addr().String()
	ctx, stop := context.WithCancel(t.Context())
	h.stop = stop
	go func() { h.ended <- h.s.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-h.ended:
			if err != nil {
				t.Errorf("the server ended with %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the server does not end")
		}
		before += 16 * h.stuck()
		for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				buf := make([]byte, 1<<20)
				t.Errorf("%d goroutines, %d before\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
				break
			}
		}
	})
	return h
}

// stuck returns how many connections are known to be impossible to end; see client.bury.
func (h *house) stuck() (n int) {
	h.s.tables.mu.Lock()
	defer h.s.tables.mu.Unlock()
	for _, k := range h.s.tables.stuck {
		n += k
	}
	return n
}

func (h *house) logf(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.log = append(h.log, fmt.Sprintf(format, args...))
}

// logged reports whether a line of the log holds a text, or soon does.
func (h *house) logged(text string) bool {
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		h.mu.Lock()
		found := strings.Contains(strings.Join(h.log, "\n"), text)
		h.mu.Unlock()
		if found || time.Now().After(end) {
			return found
		}
	}
}

func (h *house) config(key ssh.Signer) *ssh.ClientConfig {
	return &ssh.ClientConfig{User: "nobody", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, Timeout: 10 * time.Second,
		HostKeyCallback: ssh.FixedHostKey(h.s.signers[0].PublicKey())}
}

// dial logs in.
func (h *house) dial(key ssh.Signer) *ssh.Client {
	h.t.Helper()
	c, err := ssh.Dial("tcp", h.addr, h.config(key))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	return c
}

// good checks that a client that behaves is served, and before attackers are gone. How
// soon is for TestLobby, whose clock nobody else keeps busy.
func (h *house) good() {
	h.t.Helper()
	at := time.Now()
	var err error
	for range 3 { // with the places of a key taken by an attacker who has the key, its own
		if err = h.served(h.b, "b"); err == nil {
			break
		}
	}
	if err != nil {
		h.t.Errorf("a good client: %v", err)
	}
	if d := time.Since(at); d > usualTimes().handshake {
		h.t.Errorf("a good client had to wait %v", d)
	}
}

// served opens a repository with a key as bup does.
func (h *house) served(key ssh.Signer, name string) error {
	c, err := ssh.Dial("tcp", h.addr, h.config(key))
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := c.NewSession()
	if err != nil {
		return err
	}
	in, err := s.StdinPipe()
	if err != nil {
		return err
	}
	out, err := s.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.Start("kedge server"); err != nil {
		return err
	}
	r := bufio.NewReader(out)
	for _, command := range []string{"help", "set-dir " + name} {
		_, err := io.WriteString(in, command+"\n")
		if err == nil {
			err = readOK(r)
		}
		if err != nil {
			if ended := s.Wait(); err == io.EOF && ended != nil {
				return ended
			}
			return fmt.Errorf("%s: %w", command, err)
		}
	}
	if _, err := io.WriteString(in, "quit\n"); err != nil {
		return err
	}
	return s.Wait()
}

// readOK reads an answer of bup's protocol.
func readOK(r *bufio.Reader) error {
	for {
		text, err := r.ReadString('\n')
		switch {
		case err != nil:
			return err
		case text == "ok\n":
			return nil
		case strings.HasPrefix(text, "error "):
			return errors.New(text)
		}
	}
}

// What is not allowed to one key is to another, and the other way round.
func TestRepositories(t *testing.T) {
	h := newHouse(t, calm)
	for _, tt := range []struct {
		key  ssh.Signer
		name string
		ok   bool
	}{
		{h.a, "a", true}, {h.a, "/a", true}, {h.a, "~/a", true}, {h.a, h.root + "/a", true}, {h.a, "", true},
		{h.a, "b", false}, {h.a, "nope", false}, {h.a, "../a", false}, {h.a, ".kedge", false}, {h.a, h.root, false},
		{h.b, "b", true}, {h.b, "a", false}, {h.b, h.root + "/b/../a", false},
		{h.reader, "a", true}, {h.reader, "b", true}, {h.reader, "c", false},
		{h.blind, "a", true}, {h.blind, "b", false},
	} {
		if err := h.served(tt.key, tt.name); (err == nil) != tt.ok {
			t.Errorf("%q: %v", tt.name, err)
		}
	}
}

// A key is let in as long as its line is there.
func TestKeysAreReadAnew(t *testing.T) {
	h := newHouse(t, calm)
	keys := h.s.o.AuthorizedKeys
	if err := h.served(h.unknown, "c"); err == nil || !h.logged("the key is unknown") {
		t.Errorf("an unknown key: %v %q", err, h.log)
	}
	k, err := access.ParseKeyFile(ssh.MarshalAuthorizedKey(h.unknown.PublicKey()))
	if err != nil {
		t.Fatal(err)
	}
	k.Grant = access.Grant{Role: access.Read, Repos: []string{"c"}}
	if err := access.Edit(&fsx.FS{}, keys, func(b []byte) ([]byte, error) {
		return access.AddKey(append(b, "# x\nenvironment=\"A=B\",command=\"kedge server --repo b --role read\" ssh-ed25519 AAAA\n"...), k)
	}); err != nil {
		t.Fatal(err)
	}
	if err := h.served(h.unknown, "c"); err != nil {
		t.Errorf("a key that was added: %v", err)
	}
	if !h.logged("authorized_keys: line 6: ") {
		t.Errorf("a bad line is not told: %q", h.log)
	}
	if err := access.Edit(&fsx.FS{}, keys, func(b []byte) ([]byte, error) { return access.RemoveKey(b, k), nil }); err != nil {
		t.Fatal(err)
	}
	if err := h.served(h.unknown, "c"); err == nil {
		t.Error("a key that was removed is let in")
	}
	if err := os.Chmod(keys, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := h.served(h.b, "b"); err == nil || !h.logged("others may write it") {
		t.Errorf("a file that others may write: %v", err)
	}
	if err := os.Remove(keys); err != nil {
		t.Fatal(err)
	}
	if err := h.served(h.b, "b"); err == nil {
		t.Error("without a file of keys one is let in")
	}
}

// from= and expiry-time hold here as they do with sshd.
func TestFromAndExpiry(t *testing.T) {
	h := newHouse(t, calm)
	for options, ok := range map[string]bool{
		`from="127.0.0.0/8",`: true, `from="10.0.0.0/8",`: false, `from="*,!127.0.0.1",`: false, `expiry-time="20200101Z",`: false, `expiry-time="29990101",`: true,
		`from="127.*",expiry-time="29990101",restrict,`: true, `permitopen="x:1",`: false,
	} {
		if err := os.WriteFile(h.s.o.AuthorizedKeys, []byte(line(options, "kedge server --repo b --role read", h.b)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := h.served(h.b, "b"); (err == nil) != ok {
			t.Errorf("%s: %v", options, err)
		}
	}
}

// taken waits until so many places are taken, and so many wait to be told.
func (h *house) taken(n, sorry int) {
	h.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		h.s.tables.mu.Lock()
		taken, waiting := h.s.tables.taken, h.s.tables.sorry
		h.s.tables.mu.Unlock()
		if taken == n && waiting == sorry {
			return
		}
		if time.Now().After(end) {
			h.t.Fatalf("%d and %d places are taken, not %d and %d", taken, waiting, n, sorry)
		}
	}
}

// Places are limited for each key and for all, and whoever gets none is told.
func TestPlaces(t *testing.T) {
	h := newHouse(t, func(s *Server) {
		s.tables.most, s.tables.perKey = 3, 2
		s.times.handshake, s.times.command = time.Minute, time.Minute
	})
	h.dial(h.a)
	second := h.dial(h.a)
	h.taken(2, 0) // who has logged in may not have his place yet
	if err := h.served(h.a, "a"); exitCode(err) != 7 {
		t.Errorf("a third session of a key: %v", err)
	}
	h.good()
	h.taken(2, 0)
	third := h.dial(h.reader)
	h.taken(3, 0)
	if err := h.served(h.b, "b"); exitCode(err) != 7 {
		t.Errorf("a fourth session of all: %v", err)
	}
	third.Close()
	second.Close()
	h.taken(1, 0)
	if err := h.served(h.a, "a"); err != nil {
		t.Errorf("the place of who has left: %v", err)
	}
	h.taken(1, 0)
	// Those who only wait to be told are limited, too.
	h.dial(h.a)
	h.taken(2, 0)
	var waiting []*ssh.Client
	for range maxSorry {
		waiting = append(waiting, h.dial(h.a))
	}
	h.taken(2, maxSorry)
	if err := h.served(h.a, "a"); err == nil || exitCode(err) != -1 {
		t.Errorf("one too many: %v", err)
	}
	for _, c := range waiting {
		c.Close()
	}
}

// exitCode returns the exit code of a command that failed, -1 if it has none.
func exitCode(err error) int {
	var exit *ssh.ExitError
	if errors.As(err, &exit) {
		return exit.ExitStatus()
	}
	return -1
}

// Stopping waits for sessions as long as there is grace, and not for what only waits.
func TestStop(t *testing.T) {
	for _, obeys := range []bool{true, false} {
		h := newHouse(t, func(s *Server) { s.times.command = time.Minute })
		idle, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer idle.Close()
		s, err := h.dial(h.a).NewSession()
		if err != nil {
			t.Fatal(err)
		}
		in, _ := s.StdinPipe()
		out, _ := s.StdoutPipe()
		if err := s.Start("kedge server"); err != nil {
			t.Fatal(err)
		}
		h.stop()
		r := bufio.NewReader(out)
		if _, err := io.WriteString(in, "help\n"); err != nil {
			t.Fatal(err)
		}
		if err := readOK(r); err != nil {
			t.Errorf("a session is not served to its end: %v", err)
		}
		for end := time.Now().Add(500 * time.Millisecond); ; time.Sleep(5 * time.Millisecond) {
			c, err := net.Dial("tcp", h.addr)
			if err != nil {
				break
			}
			c.Close()
			if time.Now().After(end) {
				t.Fatal("new connections are taken")
			}
		}
		if obeys {
			if _, err := io.WriteString(in, "quit\n"); err != nil {
				t.Fatal(err)
			}
			if err := s.Wait(); err != nil {
				t.Errorf("the session ends with %v", err)
			}
		}
	}
}

// The algorithms are those that the ssh package holds to be secure.
func TestAlgorithms(t *testing.T) {
	c := (&login{s: &Server{signers: []ssh.Signer{newSigner(t)}}}).config()
	secure := ssh.SupportedAlgorithms()
	for _, tt := range []struct{ have, of []string }{
		{c.KeyExchanges, secure.KeyExchanges}, {c.Ciphers, secure.Ciphers}, {c.MACs, secure.MACs}, {c.PublicKeyAuthAlgorithms, secure.PublicKeyAuths},
	} {
		for _, name := range tt.have {
			if !strings.Contains(" "+strings.Join(tt.of, " ")+" ", " "+name+" ") {
				t.Errorf("%s is not secure", name)
			}
		}
		if len(tt.have) == 0 {
			t.Error("a list is empty, and means the default")
		}
	}
}

// A line of the log is one line, whatever stands in it.
func TestLog(t *testing.T) {
	var got string
	s := &Server{o: Options{Log: func(format string, args ...any) { got = fmt.Sprintf(format, args...) }}}
	s.log("%s: %s", "a\nb", "\x1b[2J\u202e\x00%s\xffé"+strings.Repeat("x", 5000))
	if len(got) > 1100 || !strings.HasPrefix(got, `a\nb: \x1b[2J\u202e\x00%s�éxxx`) {
		t.Errorf("%.80q", got)
	}
}
