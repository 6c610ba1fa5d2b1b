package s3sync_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/repotest"
	"github.com/kedgebackup/kedge/s3sync"
)

// git looks at a repository with every check it has.
func gitClean(t *testing.T, dir string) {
	t.Helper()
	out, err := exec.Command("git", "-C", dir, "fsck", "--full", "--strict", "--no-dangling", "--no-progress").CombinedOutput()
	if err != nil {
		t.Fatalf("git fsck: %v\n%s", err, out)
	}
}

// A repository that was pulled is the one that was mirrored, and follows it.
func TestPull(t *testing.T) {
	allBuckets(t, func(t *testing.T, b *s3sync.Bucket) {
		ctx := context.Background()
		s, to := newSource(t), filepath.Join(t.TempDir(), "copy")
		for night := range 3 {
			s.save(5)
			s.mirror(b)
			g, err := b.Latest(ctx)
			if err != nil {
				t.Fatal(err)
			}
			r, err := b.Pull(ctx, g, s3sync.PullOptions{Dir: to})
			if err != nil {
				t.Fatal(err)
			}
			if r.Got != 4 { // two packs with an idx each
				t.Errorf("night %d: %+v", night, r)
			}
			if r, err = b.Pull(ctx, g, s3sync.PullOptions{Dir: to}); err != nil || r.Got != 0 {
				t.Errorf("again: %+v, %v", r, err)
			}
			copied := &source{t: t, dir: to, saves: s.saves}
			copied.checkDir(night + 1)
			gitClean(t, to)
		}
		// The copy goes on as the original would.
		copied := &source{t: t, dir: to, saves: s.saves}
		copied.save(4)
		copied.checkDir(4)
		gitClean(t, to)

		other := newSource(t)
		g, err := b.Latest(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Pull(ctx, g, s3sync.PullOptions{Dir: other.dir}); !errors.As(err, new(*repo.ConfigError)) {
			t.Errorf("a pull over another repository: %v", err)
		}
		if _, err := b.Mirror(ctx, s3sync.MirrorOptions{Dir: other.dir}); !errors.As(err, new(*repo.ConfigError)) {
			t.Errorf("a mirror over another repository: %v", err)
		}
	})
}

// checkDir makes sure that the directory holds the first n saves.
func (s *source) checkDir(n int) {
	s.t.Helper()
	ctx := context.Background()
	p, err := repo.OpenDir(ctx, s.dir, repo.DirOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	defer p.Close()
	refs, err := p.Refs(ctx, "refs/")
	if err != nil || len(refs) != 1 || refs[0].ID != s.saves[n-1].Commit {
		s.t.Fatalf("refs %v, %v", refs, err)
	}
	receipts := 0
	if err := p.Receipts(ctx, func(repo.Receipt) error { receipts++; return nil }); err != nil || receipts != n {
		s.t.Errorf("%d receipts of %d saves, %v", receipts, n, err)
	}
	var ids []pack.ID
	for _, x := range s.saves[:n] {
		ids = append(append(ids, x.Commit, x.Tree), x.Blobs...)
	}
	if err := repotest.Check(ctx, p, ids); err != nil {
		s.t.Error(err)
	}
	if lost, err := p.Missing(ctx, nil, ids); err != nil || len(lost) > 0 {
		s.t.Errorf("%d objects are missing, %v", len(lost), err)
	}
}

// A pull that is cut short anywhere leaves nothing wrong, and the next one completes.
func TestPullFaults(t *testing.T) { kinds(t, testPullFaults) }

func testPullFaults(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) {
	ctx, broken := context.Background(), errors.New("the line is dead")
	m := newMemory()
	b := lock(&s3sync.Bucket{Objects: m, Prefix: "build/"})
	s := newSource(t)
	s.save(3)
	s.save(3)
	s.mirror(b)
	for k, done := int64(1), false; !done; k++ {
		to := filepath.Join(t.TempDir(), "copy")
		m.calls.Store(0)
		m.before = func(n int64, _, _ string) error {
			if n >= k {
				return broken
			}
			return nil
		}
		g, err := b.Latest(ctx)
		if err == nil {
			_, err = b.Pull(ctx, g, s3sync.PullOptions{Dir: to})
		}
		if done = err == nil; !done && !errors.Is(err, broken) {
			t.Fatalf("request %d: %v", k, err)
		}
		m.before = nil
		if g, err = b.Latest(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Pull(ctx, g, s3sync.PullOptions{Dir: to}); err != nil {
			t.Fatalf("after request %d: %v", k, err)
		}
		(&source{t: t, dir: to, saves: s.saves}).checkDir(2)
	}
}

// Bytes that are wrong in the bucket, or not there, are found, and nothing of them gets a
// name. An idx is made anew; of packs the others come.
func TestPullDamage(t *testing.T) { kinds(t, testPullDamage) }

func testPullDamage(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) {
	ctx := context.Background()
	m := newMemory()
	b := lock(&s3sync.Bucket{Objects: m, Prefix: "build/"})
	s := newSource(t)
	s.save(3)
	s.save(3)
	s.mirror(b)
	g, err := b.Latest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range g.Files {
		if strings.HasPrefix(f.Name, "kedge/segments/") || f.Name == "RESTORE.txt" {
			continue // nobody needs them here
		}
		key := b.Prefix + f.Key
		good := m.objects[key]
		for how, bad := range map[string][]byte{"rotten": bytes.Replace(good, good[len(good)/2:], []byte("?"), 1), "short": good[:len(good)/2], "missing": nil} {
			if m.objects[key] = bad; bad == nil {
				delete(m.objects, key)
			}
			to := filepath.Join(t.TempDir(), "copy")
			r, err := b.Pull(ctx, g, s3sync.PullOptions{Dir: to})
			what := how + " " + f.Name
			switch filepath.Ext(f.Name) {
			case ".idx":
				if err != nil || !slices.Equal(r.Rebuilt, []string{f.Name}) {
					t.Errorf("%s: %v, rebuilt %q", what, err, r.Rebuilt)
				}
				(&source{t: t, dir: to, saves: s.saves}).checkDir(2)
			case ".pack":
				var lost *s3sync.LostError
				if !errors.As(err, &lost) || len(lost.Files) != 1 || !strings.Contains(err.Error(), f.Name) {
					t.Errorf("%s: %v", what, err)
				}
				if _, err := repo.OpenDir(ctx, to, repo.DirOptions{}); err == nil {
					t.Errorf("%s: there is a repository", what)
				}
				r, err = b.Pull(ctx, g, s3sync.PullOptions{Dir: to, Partial: true})
				if !errors.As(err, &lost) || r.Got != 0 {
					t.Errorf("%s, again: %v, %+v", what, err, r)
				}
				p, err := repo.OpenDir(ctx, to, repo.DirOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if good, all, _ := s.readable(p); good == 0 || good == all {
					t.Errorf("%s: %d of %d objects", what, good, all)
				}
				p.Close()
				m.objects[key] = good
				if _, err := b.Pull(ctx, g, s3sync.PullOptions{Dir: to}); err != nil {
					t.Errorf("%s, mended: %v", what, err)
				}
				(&source{t: t, dir: to, saves: s.saves}).checkDir(2)
			default:
				if !errors.As(err, new(*pack.CorruptError)) && !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %v", what, err)
				}
			}
			m.objects[key] = good
		}
	}
}
