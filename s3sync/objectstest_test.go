package s3sync_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/kedgebackup/kedge/s3sync"
)

// memory is an object store in memory, which can fail as a network does. It passes the
// same conformance suite as the real ones.
type memory struct {
	mu      sync.Mutex
	objects map[string][]byte
	times   map[string]time.Time
	late    map[string]bool       // manifests that were created when there was a newer one
	sums    map[string]s3sync.Sum // of the parts of objects that were made of parts
	uploads map[string]*upload
	taken   map[string]int64 // bytes that came for each key
	calls   atomic.Int64
	now     func() time.Time
	// lenient stores overwrite what is there, or do if it comes in parts, and blind ones list
	// no parts.
	lenient, lenientParts, blind bool
	// before is asked before each request; an error is what the request ends in. after is
	// asked when it was done.
	before, after func(n int64, op, key string) error
}

// upload is an object that is being made of parts.
type upload struct {
	key   string
	parts map[int][]byte
}

func newMemory() *memory {
	return &memory{
		objects: make(map[string][]byte), times: make(map[string]time.Time), late: make(map[string]bool),
		sums: make(map[string]s3sync.Sum), uploads: make(map[string]*upload), taken: make(map[string]int64),
		now: time.Now,
	}
}

// request does one request.
func (m *memory) request(ctx context.Context, op, key string, fn func() error) error {
	n := m.calls.Add(1)
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.before != nil {
		if err := m.before(n, op, key); err != nil {
			return err
		}
	}
	m.mu.Lock()
	err := fn()
	m.mu.Unlock()
	if m.after != nil && err == nil {
		err = m.after(n, op, key)
	}
	return err
}

func (m *memory) Put(ctx context.Context, key string, b s3sync.Body) (string, error) {
	data, err := io.ReadAll(io.NewSectionReader(b, 0, b.Size))
	if err != nil {
		return "", err
	}
	return "", m.request(ctx, "put", key, func() error {
		m.taken[key] += int64(len(data))
		if int64(len(data)) != b.Size || s3sync.SumOf(data) != b.SHA256 {
			return s3sync.Temporary(errors.New("the checksum does not match"))
		}
		return m.create(key, data)
	})
}

// create makes an object. The lock is held.
func (m *memory) create(key string, data []byte) error {
	if _, ok := m.objects[key]; ok && !m.lenient {
		return fmt.Errorf("%s: %w", key, s3sync.ErrExists)
	}
	delete(m.late, key)
	if dir := path.Dir(key) + "/"; strings.HasSuffix(dir, "manifests/") {
		for k := range m.objects {
			if strings.HasPrefix(k, dir) && k < key {
				m.late[key] = true
			}
		}
	}
	m.objects[key], m.times[key] = data, m.now()
	delete(m.sums, key)
	return nil
}

func (m *memory) Begin(ctx context.Context, key string) (id string, err error) {
	err = m.request(ctx, "begin", key, func() error {
		id = fmt.Sprint("upload ", len(m.uploads)+1)
		m.uploads[id] = &upload{key, make(map[int][]byte)}
		return nil
	})
	return id, err
}

// open returns an upload. The lock is held.
func (m *memory) open(key, id string) (*upload, error) {
	if u := m.uploads[id]; u != nil && u.key == key {
		return u, nil
	}
	return nil, &fs.PathError{Op: "upload", Path: id, Err: fs.ErrNotExist}
}

func (m *memory) PutPart(ctx context.Context, key, id string, n int, b s3sync.Body) (p s3sync.Part, err error) {
	data, err := io.ReadAll(io.NewSectionReader(b, 0, b.Size))
	if err != nil {
		return p, err
	}
	err = m.request(ctx, "part", key, func() error {
		m.taken[key] += int64(len(data))
		u, err := m.open(key, id)
		if err != nil {
			return err
		}
		if s3sync.SumOf(data) != b.SHA256 {
			return s3sync.Temporary(errors.New("the checksum does not match"))
		}
		u.parts[n] = data
		p = s3sync.Part{N: n, Size: b.Size, SHA256: b.SHA256, Tag: b.SHA256.String()[:8]}
		return nil
	})
	return p, err
}

func (m *memory) Parts(ctx context.Context, key, id string) (parts []s3sync.Part, err error) {
	err = m.request(ctx, "parts", key, func() error {
		u, err := m.open(key, id)
		if err != nil {
			return err
		}
		if m.blind {
			return errors.New("501 not implemented")
		}
		for n, data := range u.parts {
			sum := s3sync.SumOf(data)
			parts = append(parts, s3sync.Part{N: n, Size: int64(len(data)), SHA256: sum, Tag: sum.String()[:8]})
		}
		slices.SortFunc(parts, func(a, b s3sync.Part) int { return a.N - b.N })
		return nil
	})
	return parts, err
}

func (m *memory) Complete(ctx context.Context, key, id string, parts []s3sync.Part) (string, error) {
	return "", m.request(ctx, "complete", key, func() error {
		u, err := m.open(key, id)
		if err != nil {
			return err
		}
		var data, sums []byte
		for i, p := range parts {
			sum := s3sync.SumOf(u.parts[p.N])
			if p.N != i+1 || p.Tag != sum.String()[:8] || u.parts[p.N] == nil {
				return &fs.PathError{Op: "part", Path: id, Err: fs.ErrNotExist}
			}
			data, sums = append(data, u.parts[p.N]...), append(sums, sum[:]...)
		}
		if m.lenientParts {
			delete(m.objects, key)
		}
		if err := m.create(key, data); err != nil {
			return err
		}
		m.sums[key] = s3sync.SumOf(sums)
		u.key = "" // done; the entry keeps its id from being given again
		return nil
	})
}

func (m *memory) Abort(ctx context.Context, key, id string) error {
	return m.request(ctx, "abort", key, func() error {
		if u, err := m.open(key, id); err == nil {
			u.key, u.parts = "", nil
		}
		return nil
	})
}

// orphans returns how many uploads hold parts and were neither completed nor aborted.
func (m *memory) orphans() (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, u := range m.uploads {
		if u.key != "" && len(u.parts) > 0 {
			n++
		}
	}
	return n
}

func (m *memory) Get(ctx context.Context, key, _ string, p []byte, off int64) (n int, err error) {
	err = m.request(ctx, "get", key, func() error {
		data, ok := m.objects[key]
		if !ok {
			return fs.ErrNotExist
		}
		if off >= int64(len(data)) && len(p) > 0 {
			return io.EOF
		}
		if n = copy(p, data[off:]); n < len(p) {
			return io.EOF
		}
		return nil
	})
	return n, err
}

func (m *memory) Stat(ctx context.Context, key, _ string) (o s3sync.Object, err error) {
	err = m.request(ctx, "stat", key, func() error {
		data, ok := m.objects[key]
		if !ok {
			return fs.ErrNotExist
		}
		o = s3sync.Object{Key: key, Size: int64(len(data)), Modified: m.times[key]}
		if sum, ok := m.sums[key]; ok {
			o.PartSums = sum
		} else {
			o.SHA256 = s3sync.SumOf(data)
		}
		return nil
	})
	return o, err
}

func (m *memory) List(ctx context.Context, prefix, after string, fn func(s3sync.Object) error) error {
	var list []s3sync.Object
	err := m.request(ctx, "list", prefix, func() error {
		for key, data := range m.objects {
			if strings.HasPrefix(key, prefix) && key > after {
				list = append(list, s3sync.Object{Key: key, Size: int64(len(data)), Modified: m.times[key]})
			}
		}
		return nil
	})
	slices.SortFunc(list, func(a, b s3sync.Object) int { return strings.Compare(a.Key, b.Key) })
	for _, o := range list {
		if err == nil {
			err = fn(o)
		}
	}
	return err
}

func (m *memory) Delete(ctx context.Context, key, _ string) error {
	return m.request(ctx, "delete", key, func() error {
		delete(m.objects, key)
		return nil
	})
}

func (m *memory) Retain(ctx context.Context, key, _ string, _ time.Time) error {
	return m.request(ctx, "retain", key, func() error { return nil })
}

func testKeys() *credentials.Credentials { return credentials.NewStaticV4("kedge", "kedgesecret", "") }

// makeBucket makes a bucket, maybe one that keeps versions and locks.
func makeBucket(t testing.TB, o s3sync.S3Options, locks bool) {
	t.Helper()
	client, err := minio.New(strings.TrimPrefix(o.Endpoint, "http://"), &minio.Options{Creds: testKeys(), Region: o.Region, BucketLookup: minio.BucketLookupPath})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if err := client.MakeBucket(ctx, o.Bucket, minio.MakeBucketOptions{Region: o.Region, ObjectLocking: locks}); err != nil {
		t.Fatal(err)
	}
	if !locks {
		return
	}
	if err := client.EnableVersioning(ctx, o.Bucket); err != nil {
		t.Fatal(err)
	}
}

// startGateway starts a real S3 server on a fresh directory and makes a bucket.
func startGateway(t testing.TB) s3sync.S3Options {
	t.Helper()
	return startGatewayWith(t, t.TempDir())
}

// startGatewayWith starts it on a directory, with more options for how it stores.
func startGatewayWith(t testing.TB, dir string, options ...string) s3sync.S3Options {
	t.Helper()
	if url := os.Getenv("KEDGE_TEST_S3"); url != "" { // one that runs already, as make minio has it
		o := s3sync.S3Options{Bucket: "b" + strings.ToLower(rand.Text()), Endpoint: url, Region: "us-east-1", PathStyle: true, Credentials: testKeys()}
		makeBucket(t, o, false)
		return o
	}
	exe, err := exec.LookPath("versitygw")
	if err != nil {
		if exe, err = filepath.Abs("../bin/tools/versitygw"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(exe); err != nil {
			t.Skip("needs versitygw (make servers)")
		}
	}
	for _, sub := range []string{"data/backup", "versions", "iam"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	port := freePort(t)
	args := append([]string{
		"--port", fmt.Sprintf("127.0.0.1:%d", port), "--health", "/healthz", "--iam-dir", dir + "/iam", "--quiet", "posix",
	}, append(options, dir+"/data")...)
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY=kedge", "ROOT_SECRET_KEY=kedgesecret")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	for range 200 {
		if r, err := http.Get(url + "/healthz"); err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return s3sync.S3Options{
					Bucket: "backup", Endpoint: url, Region: "us-east-1", PathStyle: true,
					Credentials: testKeys(),
				}
			}
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("the S3 server does not answer\n%s", out.String())
	return s3sync.S3Options{}
}
