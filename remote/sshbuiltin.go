package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/user"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/kedgebackup/kedge/repo"
)

// A server is asked for a sign of life every keepaliveEvery; when nothing at all came for
// so many times in a row it is given up.
const (
	keepaliveEvery  = 15 * time.Second
	keepaliveMisses = 3
)

// systemKnownHosts is read after the user's own file.
const systemKnownHosts = "/etc/ssh/ssh_known_hosts"

// dialSSH has a command run on another host, by the builtin client: one TCP connection,
// one session channel, keys for a login and nothing else. It does not read ~/.ssh/config:
// names, ports, users, keys and jump hosts that stand there are the system's ssh's.
//
// All of it, up to the point where the command runs, takes no longer than Options.Timeout.
func dialSSH(ctx context.Context, a Address, o Options, command string) (*link, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, &timeoutError{fmt.Sprintf("no answer for %v", o.Timeout)})
	defer cancel()
	var d net.Dialer
	tcp, err := d.DialContext(ctx, "tcp", dialName(a))
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	conn := &heardConn{Conn: tcp}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	l, err := login(ctx, conn, a, o, command)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return l, nil
}

// login proves who is who on a connection and starts a command. Whoever called closes
// conn if it fails; ctx ending does so as well.
func login(ctx context.Context, conn *heardConn, a Address, o Options, command string) (*link, error) {
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	known, err := o.known(me.HomeDir)
	if err != nil {
		return nil, err
	}
	keys, err := openKeyring(ctx, me.HomeDir, &o)
	if err != nil {
		return nil, err
	}
	defer keys.Close()
	a.Path = ""
	l := newLink(a, o, command)
	l.over = make(chan struct{})
	host := &hostCheck{name: knownName(a), known: known, accept: o.AcceptNew, said: l.said}
	config := clientConfig(me, a, keys, host, l.said)
	c, chans, reqs, err := ssh.NewClientConn(conn, dialName(a), config)
	if err != nil {
		return nil, loginFailure(err, host, keys)
	}
	client := ssh.NewClient(c, chans, reqs)
	session, err := openSession(ctx, client)
	if err == nil {
		err = l.run(client, session, command)
	}
	if err != nil {
		_ = client.Close()
		return nil, fmt.Errorf("it does not run %q: %w", command, err)
	}
	go keepAlive(client, conn, l, keepaliveEvery)
	return l, nil
}

// openSession opens a session. A channel that is asked for in the moment in which the
// connection is lost is never answered, closed or not; so this is left behind when ctx
// ends.
func openSession(ctx context.Context, client *ssh.Client) (*ssh.Session, error) {
	type opened struct {
		*ssh.Session
		error
	}
	c := make(chan opened, 1)
	go func() {
		s, err := client.NewSession()
		c <- opened{s, err}
	}()
	select {
	case o := <-c:
		return o.Session, o.error
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// known reads the keys of hosts.
func (o *Options) known(home string) (*knownHosts, error) {
	if o.KnownHosts != "" {
		return readKnownHosts(o.FS, o.KnownHosts)
	}
	return readKnownHosts(o.FS, filepath.Join(home, ".ssh", "known_hosts"), systemKnownHosts)
}

// clientConfig pins what is negotiated to the algorithms without known weakness.
func clientConfig(me *user.User, a Address, keys *keyring, host *hostCheck, said io.Writer) *ssh.ClientConfig {
	algorithms := ssh.SupportedAlgorithms()
	name := a.User
	if name == "" {
		name = me.Username
	}
	return &ssh.ClientConfig{
		Config: ssh.Config{KeyExchanges: algorithms.KeyExchanges, Ciphers: algorithms.Ciphers, MACs: algorithms.MACs},
		User:   name,
		Auth: []ssh.AuthMethod{
			ssh.PublicKeysCallback(func() ([]ssh.Signer, error) { return keys.keys, nil }),
		},
		HostKeyCallback:   host.check,
		HostKeyAlgorithms: host.known.algorithms(host.name),
		BannerCallback: func(text string) error {
			_, err := io.WriteString(said, text+"\n")
			return err
		},
		ClientVersion: "SSH-2.0-kedge",
	}
}

// hostCheck decides whether a host is the one that it should be. It keeps why not.
type hostCheck struct {
	name   string
	known  *knownHosts
	accept bool
	said   io.Writer
	failed error
}

func (h *hostCheck) check(_ string, _ net.Addr, key ssh.PublicKey) error {
	h.failed = h.known.check(h.name, key)
	e := new(HostKeyError)
	if errors.As(h.failed, &e) && h.accept && !e.Changed && !e.Revoked {
		if h.failed = h.known.add(h.name, key); h.failed == nil {
			// A change of the key in the same connection is a change.
			h.known.lines = append(h.known.lines, knownLine{h.known.file, []string{h.name}, false, key})
			_, _ = fmt.Fprintf(h.said, "host %s was not known: its key %s was added to %s\n", h.name, e.Fingerprint, h.known.file)
		}
	}
	return h.failed
}

// loginFailure says why a login failed.
func loginFailure(err error, host *hostCheck, keys *keyring) error {
	text := err.Error()
	switch {
	case host.failed != nil:
		return host.failed
	case strings.Contains(text, "unable to authenticate"), strings.Contains(text, "ssh: disconnect"):
		return &repo.RefusedError{Reason: "the login was refused; offered were " + keys.String()}
	case errors.Is(err, io.EOF):
		return errors.New("it hung up during the login")
	}
	return err
}

// run starts a command in a session.
func (l *link) run(client *ssh.Client, session *ssh.Session, command string) (err error) {
	var out io.Reader
	if l.in, err = session.StdinPipe(); err != nil {
		return err
	}
	if out, err = session.StdoutPipe(); err != nil {
		return err
	}
	session.Stderr = l.said
	l.out = struct {
		io.Reader
		io.Closer
	}{out, client}
	l.stop = func(bool) { _ = client.Close() }
	if err := session.Start(command); err != nil {
		return err
	}
	go func() {
		l.code = exitStatus(session.Wait())
		_ = client.Close()
		l.said.flush()
		close(l.over)
	}()
	return nil
}

// exitStatus returns the exit status of a command, -1 if it did not come to one.
func exitStatus(err error) int {
	exit := new(ssh.ExitError)
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.Signal() == "":
		return exit.ExitStatus()
	}
	return -1
}

// keepAlive asks the server for a sign of life until the link ends, and ends it if none
// comes. Every byte is one: where the way up is slow an answer can be late for long.
func keepAlive(client *ssh.Client, conn *heardConn, l *link, every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	asking := make(chan struct{}, 1) // an answer is still to come
	last, misses := conn.heard.Load(), 0
	for {
		select {
		case <-l.over:
			return
		case <-t.C:
		}
		if n := conn.heard.Load(); n != last {
			last, misses = n, 0
		} else if misses++; misses > keepaliveMisses {
			_, _ = fmt.Fprintf(l.said, "no sign of life for %v\n", time.Duration(misses)*every)
			_ = client.Close()
			return
		}
		select {
		case asking <- struct{}{}:
			go func() { // ends with the connection at the latest
				_, _, _ = client.SendRequest("keepalive@openssh.com", true, nil)
				<-asking
			}()
		default:
		}
	}
}

// heardConn counts what comes in.
type heardConn struct {
	net.Conn
	heard atomic.Int64
}

// Read reads from the connection.
func (c *heardConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.heard.Add(int64(n))
	return n, err
}
