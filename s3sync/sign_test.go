package s3sync_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/s3sync"
)

func mirrorKey(t *testing.T) ssh.Signer {
	t.Helper()
	file := filepath.Join(t.TempDir(), "mirror_key")
	key, made, err := s3sync.MirrorKey(new(fsx.FS), file)
	if err != nil || !made {
		t.Fatalf("a new key: %v, %v", made, err)
	}
	again, made, err := s3sync.MirrorKey(new(fsx.FS), file)
	if err != nil || made || !bytes.Equal(again.PublicKey().Marshal(), key.PublicKey().Marshal()) {
		t.Fatalf("the key read again: %v, %v", made, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its file: %v, %v", info, err)
	}
	return key
}

// OpenSSH agrees with what we sign, and we with what it signs.
func TestSignature(t *testing.T) {
	exe, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("needs ssh-keygen")
	}
	key, text, dir := mirrorKey(t), []byte("kedge-manifest 1\n"), t.TempDir()
	sig, err := s3sync.Sign(key, text)
	if err != nil {
		t.Fatal(err)
	}
	check := func(sig, text []byte) error {
		t.Helper()
		if err := os.WriteFile(dir+"/sig", sig, 0o600); err != nil {
			t.Fatal(err)
		}
		c := exec.Command(exe, "-Y", "check-novalidate", "-n", "kedge-manifest", "-s", dir+"/sig")
		c.Stdin = bytes.NewReader(text)
		return c.Run()
	}
	if err := check(sig, text); err != nil {
		t.Errorf("ssh-keygen on our signature: %v", err)
	}
	if check(sig, []byte("other\n")) == nil {
		t.Error("ssh-keygen takes it for another text")
	}
	if out, err := exec.Command(exe, "-q", "-t", "ed25519", "-N", "", "-f", dir+"/key").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	sign := func(namespace string) []byte {
		t.Helper()
		c := exec.Command(exe, "-Y", "sign", "-q", "-n", namespace, "-f", dir+"/key")
		c.Stdin = bytes.NewReader(text)
		out, err := c.Output()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if _, err := s3sync.Verify(text, sign("kedge-manifest")); err != nil {
		t.Errorf("OpenSSH's signature: %v", err)
	}
	if _, err := s3sync.Verify(text, sign("file")); err == nil {
		t.Error("a signature for another purpose was taken")
	}
	for i := range sig {
		bad := bytes.Clone(sig)
		bad[i] ^= 1
		if _, err := s3sync.Verify(text, bad); err == nil {
			t.Errorf("a signature with another byte %d was taken", i)
		}
	}
}

// Who names the keys that it trusts sees the generations that these signed, and no others.
func TestTrust(t *testing.T) {
	ctx := context.Background()
	m := newMemory()
	mine, other := mirrorKey(t), mirrorKey(t)
	s := newSource(t)
	run := func(key ssh.Signer) {
		t.Helper()
		s.save(2)
		b := &s3sync.Bucket{Objects: m, Prefix: "b/"}
		_, err := b.Mirror(ctx, s3sync.MirrorOptions{Dir: s.dir, Sign: func(text []byte) ([]byte, error) { return s3sync.Sign(key, text) }})
		if err != nil {
			t.Fatal(err)
		}
	}
	run(mine)
	run(other)
	for _, test := range []struct {
		keys []ssh.PublicKey
		n    uint64
	}{{nil, 2}, {[]ssh.PublicKey{mine.PublicKey()}, 1}, {[]ssh.PublicKey{other.PublicKey(), mine.PublicKey()}, 2}} {
		b := &s3sync.Bucket{Objects: m, Prefix: "b/", Check: s3sync.Trust(test.keys...)}
		g, err := b.Latest(ctx)
		if err != nil || g.N != test.n {
			t.Errorf("with %d keys: %v, %v", len(test.keys), g, err)
		}
	}
	b := &s3sync.Bucket{Objects: m, Prefix: "b/", Check: s3sync.Trust(mine.PublicKey())}
	if _, err := b.At(ctx, 2); !errors.As(err, new(*repo.RefusedError)) {
		t.Errorf("generation 2: %v", err)
	}
	for key, text := range m.objects {
		if bytes.Contains(text, []byte("\nn 1\n")) {
			m.objects[key] = bytes.Replace(text, []byte("refs/heads/x"), []byte("refs/heads/y"), 1)
		}
	}
	b.Check = s3sync.Trust()
	if _, err := b.At(ctx, 1); !errors.As(err, new(*pack.CorruptError)) {
		t.Errorf("a manifest that was changed: %v", err)
	}
}
