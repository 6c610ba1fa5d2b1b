package remote

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// sshServer is an SSH server whose commands are functions. It stalls where it is told to.
type sshServer struct {
	addr    Address
	config  ssh.ServerConfig
	command func(command string, ch ssh.Channel) (status uint32)
	stall   string // "session", "exec": never answer that
	wait    sync.WaitGroup
}

// newSSHServer starts a server that lets one key in and echoes what it gets.
func newSSHServer(t *testing.T, client ssh.PublicKey, hostKeys ...ssh.Signer) *sshServer {
	t.Helper()
	return prepareSSHServer(client, hostKeys...).start(t)
}

func prepareSSHServer(client ssh.PublicKey, hostKeys ...ssh.Signer) *sshServer {
	s := &sshServer{command: func(_ string, ch ssh.Channel) uint32 {
		_, _ = io.Copy(ch, ch)
		return 0
	}}
	s.config.PublicKeyCallback = func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if client == nil || !bytes.Equal(key.Marshal(), client.Marshal()) {
			return nil, errors.New("no")
		}
		return nil, nil
	}
	for _, k := range hostKeys {
		s.config.AddHostKey(k)
	}
	return s
}

func (s *sshServer) start(t *testing.T) *sshServer {
	t.Helper()
	s.addr = listen(t, &s.wait, s.serve)
	return s
}

// listen serves connections on loopback until the test ends, and closes them then.
func listen(t *testing.T, wait *sync.WaitGroup, serve func(net.Conn)) Address {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	wait.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { _ = conn.Close() })
			wait.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		wait.Wait()
	})
	return Address{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port}
}

func (s *sshServer) serve(conn net.Conn) {
	c, chans, reqs, err := ssh.NewServerConn(conn, &s.config)
	if err != nil {
		return
	}
	defer c.Close()
	go ssh.DiscardRequests(reqs)
	for nc := range chans {
		if s.stall == "session" {
			continue
		}
		ch, requests, err := nc.Accept()
		if err != nil {
			return
		}
		s.wait.Go(func() { s.session(ch, requests) })
	}
}

func (s *sshServer) session(ch ssh.Channel, requests <-chan *ssh.Request) {
	for r := range requests {
		if r.Type != "exec" || s.stall == "exec" {
			continue
		}
		var exec struct{ Command string }
		_ = ssh.Unmarshal(r.Payload, &exec)
		_ = r.Reply(true, nil)
		status := s.command(exec.Command, ch)
		_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
		_ = ch.Close()
	}
}

func newKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer(t, private)
}

func newRSAKey(t *testing.T) ssh.Signer {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return signer(t, private)
}

func signer(t *testing.T, private any) ssh.Signer {
	t.Helper()
	s, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// writeFile writes a file of the test and returns its name.
func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	name = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// newIdentity writes the file of a new private key.
func newIdentity(t *testing.T, passphrase string) (file string, public ssh.PublicKey, private ed25519.PrivateKey) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(private, "test")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "test", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, "id", string(pem.EncodeToMemory(block))), signer(t, private).PublicKey(), private
}

// knownLineOf is a line of known_hosts.
func knownLineOf(a Address, key ssh.PublicKey) string {
	return knownName(a) + " " + string(ssh.MarshalAuthorizedKey(key))
}

// builtin returns Options for a server that is known.
func builtin(t *testing.T, identity string, knownHosts string) Options {
	t.Helper()
	return Options{SSH: "builtin", Identities: []string{identity}, KnownHosts: writeFile(t, "known_hosts", knownHosts), Timeout: 20 * time.Second}
}
