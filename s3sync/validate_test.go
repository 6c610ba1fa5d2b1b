package s3sync_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/s3sync"
)

// broken returns the names of the promises that a store does not keep.
func broken(t *testing.T, s s3sync.Objects) (needed, other []string, left int) {
	t.Helper()
	left, err := s3sync.Validate(context.Background(), s, "p/", func(p s3sync.Promise) {
		t.Logf("%-17s %v %s", p.Name, p.Kept, p.Detail)
		switch {
		case p.Kept:
		case p.Needed:
			needed = append(needed, p.Name)
		default:
			other = append(other, p.Name)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return needed, other, left
}

func TestValidate(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		m := newMemory()
		needed, other, left := broken(t, m)
		if len(needed) > 0 || !slices.Equal(other, []string{"versions", "object-lock", "no-delete"}) || left > 0 || len(m.objects) > 0 {
			t.Errorf("%q, %q, %d left", needed, other, left)
		}
	})
	t.Run("vault", func(t *testing.T) {
		v := newVault() // takes no parts
		needed, other, left := broken(t, v)
		if !slices.Equal(needed, []string{"multipart"}) || !slices.Equal(other, []string{"no-delete"}) || left > 0 {
			t.Errorf("%q, %q, %d left", needed, other, left)
		}
	})
	t.Run("lenient", func(t *testing.T) {
		m := newMemory()
		m.lenient = true
		if needed, _, _ := broken(t, m); !slices.Equal(needed, []string{"exclusive-create", "multipart"}) {
			t.Errorf("%q", needed)
		}
	})
	t.Run("lenient parts", func(t *testing.T) {
		m := newMemory()
		m.lenientParts = true
		if needed, _, _ := broken(t, m); !slices.Equal(needed, []string{"multipart"}) {
			t.Errorf("%q", needed)
		}
	})
	t.Run("no right to delete", func(t *testing.T) {
		m := newMemory()
		m.before = func(_ int64, op, _ string) error {
			if op == "delete" {
				return errors.New("403")
			}
			return nil
		}
		if needed, other, left := broken(t, m); len(needed) > 0 || slices.Contains(other, "no-delete") || !slices.Contains(other, "object-lock") || left == 0 {
			t.Errorf("%q, %q, %d left", needed, other, left)
		}
	})
	t.Run("unlocked", func(t *testing.T) {
		if _, other, _ := broken(t, forgetful{newVault()}); !slices.Contains(other, "object-lock") {
			t.Errorf("%q", other)
		}
	})
	t.Run("slow to list", func(t *testing.T) {
		if needed, _, _ := broken(t, &lazy{memory: newMemory()}); !slices.Equal(needed, []string{"list-after-write"}) {
			t.Errorf("%q", needed)
		}
	})
	t.Run("gateway", func(t *testing.T) {
		s, err := s3sync.NewS3(startGateway(t))
		if err != nil {
			t.Fatal(err)
		}
		if needed, other, left := broken(t, s); len(needed) > 0 || slices.Contains(other, "checksums") || left > 0 {
			t.Errorf("%q, %q, %d left", needed, other, left)
		}
	})
	t.Run("gateway with locks", func(t *testing.T) {
		if needed, other, left := broken(t, startVault(t)); len(needed) > 0 || !slices.Equal(other, []string{"no-delete"}) || left > 0 {
			t.Errorf("%q, %q, %d left", needed, other, left)
		}
	})
	t.Run("rclone", func(t *testing.T) {
		needed, _, _ := broken(t, startRclone(t))
		if !slices.Contains(needed, "exclusive-create") {
			t.Errorf("%q", needed)
		}
	})
}

// forgetful says that it locks, and does not.
type forgetful struct{ *vault }

func (forgetful) Retain(context.Context, string, string, time.Time) error { return nil }

// lazy lists what there was one listing before.
type lazy struct {
	*memory
	seen map[string]bool
}

func (l *lazy) List(ctx context.Context, prefix, after string, fn func(s3sync.Object) error) error {
	was := l.seen
	l.seen = make(map[string]bool)
	return l.memory.List(ctx, prefix, after, func(o s3sync.Object) error {
		l.seen[o.Key] = true
		if !was[o.Key] {
			return nil
		}
		return fn(o)
	})
}

// startRclone starts a server that ignores preconditions.
func startRclone(t *testing.T) *s3sync.S3 {
	t.Helper()
	exe, err := exec.LookPath("rclone")
	if err != nil {
		t.Skip("needs rclone")
	}
	if out, err := exec.Command(exe, "serve", "--help").CombinedOutput(); err != nil || !strings.Contains(string(out), " s3 ") {
		t.Skip("this rclone serves no S3")
	}
	dir, port := t.TempDir(), freePort(t)
	if err := os.MkdirAll(filepath.Join(dir, "root/backup"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "--config", dir+"/none.conf", "serve", "s3", dir+"/root", "--addr", fmt.Sprintf("127.0.0.1:%d", port),
		"--auth-key", "kedge,kedgesecret", "--vfs-cache-mode", "writes", "--cache-dir", dir+"/cache")
	cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	for range 200 {
		if r, err := http.Get(url); err == nil {
			r.Body.Close()
			break
		}
		time.Sleep(25 * time.Millisecond)
	}
	s, err := s3sync.NewS3(s3sync.S3Options{Bucket: "backup", Endpoint: url, Region: "us-east-1", PathStyle: true, Credentials: testKeys()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPolicies(t *testing.T) {
	for _, text := range []string{s3sync.BucketPolicy("my-bucket", "p/"), s3sync.BucketLifecycle("my-bucket", "p/")} {
		if !json.Valid([]byte(text)) || strings.Contains(text, "BUCKET") || strings.Contains(text, "PREFIX") || !strings.Contains(text, "p/") {
			t.Error(text)
		}
	}
}
