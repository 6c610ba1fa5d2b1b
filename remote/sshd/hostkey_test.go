package sshd

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// A server that has another key, a weak one or none, does not start.
func TestHostKey(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "new", "host_key")
	first, err := hostKey(&fsx.FS{}, file)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	again, err := hostKey(&fsx.FS{}, file)
	if err != nil || string(again.PublicKey().Marshal()) != string(first.PublicKey().Marshal()) {
		t.Errorf("another key the second time: %v", err)
	}
	if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
	var wg sync.WaitGroup
	prints := make([]string, 8)
	for i := range prints {
		wg.Go(func() {
			k, err := hostKey(&fsx.FS{}, filepath.Join(dir, "race"))
			if err != nil {
				t.Error(err)
				return
			}
			prints[i] = ssh.FingerprintSHA256(k.PublicKey())
		})
	}
	wg.Wait()
	for _, p := range prints {
		if p != prints[0] {
			t.Errorf("two that start at once have different keys")
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(string) error{
		"others may read it": func(f string) error { return os.WriteFile(f, text, 0o644) },
		"no private key":     func(f string) error { return os.WriteFile(f, []byte("x"), 0o600) },
		"no regular file":    func(f string) error { return os.Mkdir(f, 0o700) },
	} {
		f := filepath.Join(dir, strings.ReplaceAll(name, " ", ""))
		if err := change(f); err != nil {
			t.Fatal(err)
		}
		if _, err := hostKey(&fsx.FS{}, f); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// rotating starts a server that has a key and one that is to come.
func rotating(t *testing.T) (h *house, now, next ssh.PublicKey) {
	t.Helper()
	h = newHouse(t, func(s *Server) {
		s.signers = append(s.signers, newSigner(t))
		calm(s)
	})
	return h, h.s.signers[0].PublicKey(), h.s.signers[1].PublicKey()
}

// Clients are told of the key that is to come, and get proofs of it, and of nothing else.
func TestProofOfHostKeys(t *testing.T) {
	h, now, next := rotating(t)
	c, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn, channels, requests, err := ssh.NewClientConn(c, h.addr, h.config(h.a))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for range channels {
		}
	}()
	blob := func(keys ...ssh.PublicKey) (s string) {
		for _, k := range keys {
			s += str(string(k.Marshal()))
		}
		return s
	}
	if r := <-requests; r.Type != "hostkeys-00@openssh.com" || r.WantReply || string(r.Payload) != blob(now, next) {
		t.Errorf("the client is told %q %q", r.Type, r.Payload)
	}
	go ssh.DiscardRequests(requests)
	for name, tt := range map[string]struct {
		asked string
		keys  []ssh.PublicKey // that are proved
	}{
		"both": {blob(now, next), []ssh.PublicKey{now, next}}, "the next": {blob(next), []ssh.PublicKey{next}}, "in another order": {blob(next, now), []ssh.PublicKey{next, now}},
		"none": {"", nil}, "one twice": {blob(next, next), nil}, "another's": {blob(h.a.PublicKey()), nil}, "its own and another's": {blob(next, h.a.PublicKey()), nil},
		"half a key": {blob(next)[:20], nil}, "a key with bytes behind it": {blob(next) + "x", nil}, "a length that is too long": {num(1<<32 - 1), nil},
	} {
		ok, answer, err := conn.SendRequest("hostkeys-prove-00@openssh.com", true, []byte(tt.asked))
		if err != nil || ok != (len(tt.keys) > 0) {
			t.Errorf("%s: %v, %v", name, ok, err)
			continue
		}
		for _, k := range tt.keys {
			var one struct {
				Signature []byte
				Rest      []byte `ssh:"rest"`
			}
			var sig ssh.Signature
			if err := ssh.Unmarshal(answer, &one); err != nil {
				t.Fatal(err)
			}
			answer = one.Rest
			if err := ssh.Unmarshal(one.Signature, &sig); err != nil {
				t.Fatal(err)
			}
			if err := k.Verify([]byte(str("hostkeys-prove-00@openssh.com")+str(string(conn.SessionID()))+blob(k)), &sig); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if len(answer) != 0 {
			t.Errorf("%s: more is proved than was asked for", name)
		}
	}
}

// A host key of RSA signs with SHA-2.
func TestRSAHostKey(t *testing.T) {
	private, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	if sig, err := sign(signer, []byte("x")); err != nil || sig.Format != ssh.KeyAlgoRSASHA512 {
		t.Errorf("%v, %v", sig, err)
	}
}

// OpenSSH's client learns the next key in passing, and knows the server when it has it.
func TestRotation(t *testing.T) {
	program, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("no ssh")
	}
	h, _, next := rotating(t)
	dir := t.TempDir()
	key, known := filepath.Join(dir, "key"), filepath.Join(dir, "known")
	block, err := ssh.MarshalPrivateKey(newEd25519(t, h), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	host, port, _ := strings.Cut(h.addr, ":")
	if err := os.WriteFile(known, []byte("["+host+"]:"+port+" "+h.s.HostKeys()[0].Line+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	save := func() error {
		cmd := exec.Command(program, "-F", "none", "-p", port, "-i", key, "-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile="+known,
			"-o", "StrictHostKeyChecking=yes", "-o", "UpdateHostKeys=yes", "-o", "BatchMode=yes", host, "kedge server")
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if text, _ := os.ReadFile(known); strings.Contains(string(text), h.s.HostKeys()[len(h.s.HostKeys())-1].Line) {
				break
			}
		}
		_, _ = io.WriteString(in, "help\nset-dir b\nquit\n")
		return cmd.Wait()
	}
	if err := save(); err != nil {
		t.Fatal(err)
	}
	h.taken(0, 0)
	h.s.signers = h.s.signers[1:]
	if err := save(); err != nil {
		t.Errorf("after the rotation: %v", err)
	}
	text, err := os.ReadFile(known)
	if err != nil || !strings.Contains(string(text), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(next)))) {
		t.Errorf("known_hosts is %q, %v", text, err)
	}
}

// newEd25519 makes a key that may use b.
func newEd25519(t *testing.T, h *house) ed25519.PrivateKey {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.s.o.AuthorizedKeys, []byte(line("", "kedge server --repo b --role append", signer)), 0o600); err != nil {
		t.Fatal(err)
	}
	return private
}

// The key that is to come stands beside the other, and is as secret.
func TestNextHostKey(t *testing.T) {
	name := filepath.Join(t.TempDir(), "host_key")
	if list, err := hostKeys(&fsx.FS{}, name); err != nil || len(list) != 1 {
		t.Fatalf("%d keys, %v", len(list), err)
	}
	next, err := hostKey(&fsx.FS{}, name+".next")
	if err != nil {
		t.Fatal(err)
	}
	if list, err := hostKeys(&fsx.FS{}, name); err != nil || len(list) != 2 || string(list[1].PublicKey().Marshal()) != string(next.PublicKey().Marshal()) {
		t.Errorf("%d keys, %v", len(list), err)
	}
	if err := os.Chmod(name+".next", 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := hostKeys(&fsx.FS{}, name); err == nil || !strings.Contains(err.Error(), "others may read it") {
		t.Errorf("a key that others may read: %v", err)
	}
}
