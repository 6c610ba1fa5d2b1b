package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/kedgebackup/kedge/repo"
)

func TestBuiltin(t *testing.T) {
	id, public, _ := newIdentity(t, "")
	host := newKey(t)
	s := prepareSSHServer(public, host)
	var asked string
	s.command = func(command string, ch ssh.Channel) uint32 {
		asked = command
		_, _ = io.WriteString(ch.Stderr(), "from afar\n")
		_, _ = io.Copy(ch, ch)
		return 0
	}
	s.config.BannerCallback = func(ssh.ConnMetadata) string { return "keep \x1b[2J out" }
	s.start(t)
	o := builtin(t, id, knownLineOf(s.addr, host.PublicKey()))
	var stderr heard
	o.Stderr = &stderr
	if err := reach(t.Context(), s.addr, o, echo); err != nil {
		t.Fatal(err)
	}
	if asked != "kedge server" {
		t.Errorf("asked for %q", asked)
	}
	if stderr.String() != "keep ?[2J out\nfrom afar\n" {
		t.Errorf("stderr: %q", stderr.String())
	}
}

// Much in both directions at once gets through, whatever the windows.
func TestBuiltinBulk(t *testing.T) {
	id, public, _ := newIdentity(t, "")
	host := newKey(t)
	s := newSSHServer(t, public, host)
	o := builtin(t, id, knownLineOf(s.addr, host.PublicKey()))
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<19)
	err := reach(t.Context(), s.addr, o, func(conn io.ReadWriteCloser, _ Options) error {
		wrote := make(chan error, 1)
		go func() {
			_, err := conn.Write(sent)
			wrote <- err
		}()
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(conn, got); err != nil {
			return err
		}
		if !bytes.Equal(got, sent) {
			t.Error("other bytes came back")
		}
		return errors.Join(<-wrote, conn.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Close ends while somebody reads from a server that says nothing and does not end.
func TestBuiltinCloseOfASilentServer(t *testing.T) {
	id, public, _ := newIdentity(t, "")
	host := newKey(t)
	s := prepareSSHServer(public, host)
	s.command = func(_ string, ch ssh.Channel) uint32 {
		<-t.Context().Done()
		return 0
	}
	s.start(t)
	o := builtin(t, id, knownLineOf(s.addr, host.PublicKey()))
	closed := make(chan error, 1)
	go func() {
		closed <- reach(t.Context(), s.addr, o, func(conn io.ReadWriteCloser, _ Options) error {
			conn.(*link).grace = 100 * time.Millisecond
			read := make(chan error, 1)
			go func() {
				_, err := conn.Read(make([]byte, 1))
				read <- err
			}()
			time.Sleep(50 * time.Millisecond) // so that it reads
			_ = conn.Close()
			return <-read
		})
	}()
	select {
	case err := <-closed:
		if err == nil {
			t.Error("something was read")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("Close waits for ever")
	}
}

func TestBuiltinFallsBackToBup(t *testing.T) {
	id, public, _ := newIdentity(t, "")
	host := newKey(t)
	s := prepareSSHServer(public, host)
	var asked []string
	s.command = func(command string, ch ssh.Channel) uint32 {
		if asked = append(asked, command); command == kedgeServer {
			return 127
		}
		_, _ = io.Copy(ch, ch)
		return 0
	}
	s.start(t)
	o := builtin(t, id, knownLineOf(s.addr, host.PublicKey()))
	if err := reach(t.Context(), s.addr, o, echo); err != nil {
		t.Fatal(err)
	}
	if len(asked) != 2 || asked[1] != bupServer {
		t.Errorf("asked for %q", asked)
	}
}

func TestHostKeys(t *testing.T) {
	id, public, _ := newIdentity(t, "")
	host, hostRSA, other := newKey(t), newRSAKey(t), newKey(t)
	at := func(keys ...ssh.Signer) Address { return newSSHServer(t, public, keys...).addr }
	a, onlyRSA, both := at(host), at(hostRSA), at(host, hostRSA)
	known := knownLineOf
	tests := []struct {
		name  string
		a     Address
		known string
		want  *HostKeyError // nil: it is let through
	}{
		{"known", a, known(a, host.PublicKey()), nil},
		{"RSA only", onlyRSA, known(onlyRSA, hostRSA.PublicKey()), nil},
		{"RSA known of a host with two", both, known(both, hostRSA.PublicKey()), nil},
		{"one of two known", a, known(a, other.PublicKey()) + known(a, host.PublicKey()), nil},
		{"unknown", a, "", &HostKeyError{}},
		{"known on another port", a, known(Address{Host: a.Host, Port: 22}, host.PublicKey()), &HostKeyError{}},
		{"changed", a, known(a, other.PublicKey()), &HostKeyError{Changed: true}},
		{"changed to another kind", onlyRSA, known(onlyRSA, other.PublicKey()), &HostKeyError{Changed: true}},
		{"revoked", a, known(a, host.PublicKey()) + "@revoked * " + string(ssh.MarshalAuthorizedKey(host.PublicKey())), &HostKeyError{Revoked: true}},
		{"another one revoked", a, known(a, host.PublicKey()) + "@revoked * " + string(ssh.MarshalAuthorizedKey(other.PublicKey())), nil},
		{"negated", a, "!" + strings.Replace(known(a, host.PublicKey()), " ", ",* ", 1), &HostKeyError{}},
		{"authority of another kind", a, "@cert-authority * " + string(ssh.MarshalAuthorizedKey(host.PublicKey())), &HostKeyError{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := builtin(t, id, tt.known)
			err := reach(t.Context(), tt.a, o, echo)
			got := new(HostKeyError)
			if tt.want == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.As(err, &got) {
				t.Fatal(err)
			}
			print := ssh.FingerprintSHA256(host.PublicKey())
			if tt.a == onlyRSA {
				print = ssh.FingerprintSHA256(hostRSA.PublicKey())
			}
			want := HostKeyError{knownName(tt.a), print, tt.want.Changed, tt.want.Revoked, o.KnownHosts}
			if *got != want || !strings.Contains(err.Error(), print) {
				t.Errorf("got  %+v\nwant %+v", *got, want)
			}
		})
	}
}

// A host that is not known is taken on demand, with one line about it, and is known from
// then on; one that changed, or is revoked, is not.
func TestAcceptNew(t *testing.T) {
	id, public, _ := newIdentity(t, "")
	host, other := newKey(t), newKey(t)
	a := newSSHServer(t, public, host).addr
	o := builtin(t, id, "# no end of line")
	var stderr heard
	o.Stderr, o.AcceptNew = &stderr, true
	if err := reach(t.Context(), a, o, echo); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("host %s was not known: its key %s was added to %s\n", knownName(a), ssh.FingerprintSHA256(host.PublicKey()), o.KnownHosts)
	if stderr.String() != want {
		t.Errorf("stderr: %q", stderr.String())
	}
	if text, _ := os.ReadFile(o.KnownHosts); string(text) != "# no end of line\n"+knownLineOf(a, host.PublicKey()) {
		t.Errorf("known_hosts: %q", text)
	}
	o.AcceptNew = false
	if err := reach(t.Context(), a, o, echo); err != nil {
		t.Error(err)
	}

	o.AcceptNew, o.KnownHosts = true, filepath.Join(t.TempDir(), "new", "known_hosts")
	if err := reach(t.Context(), a, o, echo); err != nil {
		t.Error(err)
	}
	for _, known := range []string{
		knownLineOf(a, other.PublicKey()),
		"@revoked * " + string(ssh.MarshalAuthorizedKey(host.PublicKey())),
	} {
		o := builtin(t, id, known)
		o.AcceptNew = true
		if err := reach(t.Context(), a, o, echo); !errors.As(err, new(*HostKeyError)) {
			t.Errorf("%s: %v", known, err)
		}
		if text, _ := os.ReadFile(o.KnownHosts); string(text) != known {
			t.Errorf("known_hosts: %q", text)
		}
	}
}

// Wherever a server stops, connecting ends in time.
func TestStalls(t *testing.T) {
	id, public, _ := newIdentity(t, "")
	host := newKey(t)
	hold := make(chan struct{})
	stalled := func(stall string) Address {
		s := prepareSSHServer(public, host)
		s.stall = stall
		return s.start(t).addr
	}
	auth := prepareSSHServer(public, host)
	auth.config.PublicKeyCallback = func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
		<-hold
		return nil, errors.New("no")
	}
	auth.start(t)
	t.Cleanup(func() { close(hold) }) // before the server waits for its connections
	raw := func(serve func(net.Conn)) Address { return listen(t, new(sync.WaitGroup), serve) }
	silent := func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }
	tests := map[string]Address{
		"nothing":     raw(silent),
		"half banner": raw(func(conn net.Conn) { _, _ = io.WriteString(conn, "SSH-2.0-x"); silent(conn) }),
		"no kex":      raw(func(conn net.Conn) { _, _ = io.WriteString(conn, "SSH-2.0-x\r\n"); silent(conn) }),
		"half kex": raw(func(conn net.Conn) {
			_, _ = io.WriteString(conn, "SSH-2.0-x\r\n\x00\x00\x01\x00")
			silent(conn)
		}),
		"slow banner": raw(func(conn net.Conn) {
			for {
				if _, err := io.WriteString(conn, "x\n"); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		}),
		"login":   auth.addr,
		"session": stalled("session"),
		"exec":    stalled("exec"),
	}
	for name, a := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := builtin(t, id, knownLineOf(a, host.PublicKey()))
			o.Timeout = 500 * time.Millisecond
			err := reach(t.Context(), a, o, echo)
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no answer for 500ms") {
				t.Error(err)
			}
		})
	}
	// One that talks without an end is cut off long before the time is over.
	a := raw(func(conn net.Conn) {
		for {
			if _, err := io.WriteString(conn, strings.Repeat("x", 200)+"\n"); err != nil {
				return
			}
		}
	})
	if err := reach(t.Context(), a, builtin(t, id, ""), echo); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestLoginRefused(t *testing.T) {
	id, public, _ := newIdentity(t, "")
	host := newKey(t)
	s := newSSHServer(t, nil, host)
	err := reach(t.Context(), s.addr, builtin(t, id, knownLineOf(s.addr, host.PublicKey())), echo)
	if !errors.As(err, new(*repo.RefusedError)) || !strings.Contains(err.Error(), ssh.FingerprintSHA256(public)) {
		t.Error(err)
	}
}

// serveAgent runs an agent that holds a key.
func serveAgent(t *testing.T, private any) (socket string) {
	t.Helper()
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: private}); err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wait.Go(func() { _ = agent.ServeAgent(ring, conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wait.Wait()
	})
	return socket
}

func TestKeys(t *testing.T) {
	plain, public, private := newIdentity(t, "")
	locked, lockedPublic, lockedPrivate := newIdentity(t, "geheim")
	host := newKey(t)
	s := newSSHServer(t, public, host)
	sLocked := newSSHServer(t, lockedPublic, host)
	known := knownLineOf(s.addr, host.PublicKey()) + knownLineOf(sLocked.addr, host.PublicKey())
	junk := writeFile(t, "junk", "no key")
	pub := writeFile(t, "id.pub", string(ssh.MarshalAuthorizedKey(public)))
	holder, lockedHolder := serveAgent(t, private), serveAgent(t, lockedPrivate)
	tests := []struct {
		name  string
		a     Address
		ids   []string
		agent string
		want  string // of the error; "": none
	}{
		{"file", s.addr, []string{plain}, "", ""},
		{"the second file", s.addr, []string{newIdentityFile(t), plain}, "", ""},
		{"agent", s.addr, nil, holder, ""},
		{"public half, agent", s.addr, []string{pub}, holder, ""},
		{"public half, no agent", s.addr, []string{pub}, "", "no agent has the private one"},
		{"encrypted, agent", sLocked.addr, []string{locked}, lockedHolder, ""},
		{"encrypted, no agent", sLocked.addr, []string{locked}, "", "it is encrypted, and no agent has it: run ssh-add " + locked},
		{"encrypted, other agent", sLocked.addr, []string{locked}, holder, "run ssh-add"},
		{"agent is not offered beside a file", s.addr, []string{newIdentityFile(t)}, holder, "the login was refused"},
		{"no file", s.addr, []string{"/nowhere/id"}, "", "/nowhere/id"},
		{"no key", s.addr, []string{junk}, "", "key " + junk},
		{"agent is gone", s.addr, []string{plain}, "/nowhere/agent", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := builtin(t, "", known)
			o.Identities = tt.ids
			o.Env = func(name string) string {
				if name == "SSH_AUTH_SOCK" {
					return tt.agent
				}
				return ""
			}
			err := reach(t.Context(), tt.a, o, echo)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%v; want %q", err, tt.want)
			}
		})
	}
}

func newIdentityFile(t *testing.T) string {
	file, _, _ := newIdentity(t, "")
	return file
}

// The usual files are looked for in a home; what cannot be used there is named when
// there is nothing else.
func TestUsualKeys(t *testing.T) {
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := openKeyring(t.Context(), home, &Options{}); err == nil || !strings.Contains(err.Error(), "no key to log in with") {
		t.Error(err)
	}
	locked, _, _ := newIdentity(t, "geheim")
	move := func(from, to string) {
		if err := os.Rename(from, filepath.Join(home, ".ssh", to)); err != nil {
			t.Fatal(err)
		}
	}
	move(locked, "id_ed25519")
	if _, err := openKeyring(t.Context(), home, &Options{}); err == nil || !strings.Contains(err.Error(), "run ssh-add") {
		t.Error(err)
	}
	plain, public, _ := newIdentity(t, "")
	move(plain, "id_ecdsa")
	k, err := openKeyring(t.Context(), home, &Options{})
	if err != nil || len(k.keys) != 1 || !sameKey(k.keys[0].PublicKey(), public) {
		t.Fatal(err, k)
	}
	k.Close()
}

// A server whose host has vanished is noticed, though nothing is being sent.
func TestKeepAlive(t *testing.T) {
	id, public, _ := newIdentity(t, "")
	host := newKey(t)
	s := newSSHServer(t, public, host)
	var frozen atomic.Bool
	var wait sync.WaitGroup
	a := listen(t, &wait, func(conn net.Conn) {
		far, err := net.Dial("tcp", dialName(s.addr))
		if err != nil {
			return
		}
		defer far.Close()
		wait.Go(func() { freezable(far, conn, &frozen) })
		freezable(conn, far, &frozen)
	})
	o := builtin(t, id, knownLineOf(a, host.PublicKey()))
	conn, err := net.Dial("tcp", dialName(a))
	if err != nil {
		t.Fatal(err)
	}
	hc := &heardConn{Conn: conn}
	l, err := login(t.Context(), hc, a, o, kedgeServer)
	if err != nil {
		t.Fatal(err)
	}
	const every = 100 * time.Millisecond // a busy machine may take some of them to answer
	client := l.out.(struct {
		io.Reader
		io.Closer
	}).Closer.(*ssh.Client)
	done := make(chan struct{})
	go func() {
		keepAlive(client, hc, l, every)
		close(done)
	}()
	// As long as answers come it goes on.
	before := hc.heard.Load()
	for hc.heard.Load() < before+500 {
		time.Sleep(every)
	}
	if _, err := io.WriteString(l, "ping\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(l, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	frozen.Store(true)
	if n, err := l.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes came from nowhere", n)
	}
	if !strings.Contains(l.LastWords(), "no sign of life") {
		t.Errorf("last words: %q", l.LastWords())
	}
	<-done
	_ = l.Close()
}

// freezable copies until it is frozen, and then takes without giving.
func freezable(to, from net.Conn, frozen *atomic.Bool) {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if err != nil {
			_ = to.Close()
			return
		}
		if !frozen.Load() {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
}
