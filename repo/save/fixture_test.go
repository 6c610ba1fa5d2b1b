package save

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

// noSync is a file system that does not wait for the disk.
func noSync() *fsx.FS {
	return &fsx.FS{Intercept: func(op fsx.Op, do func() error) error {
		if op.Kind == fsx.KindSync || op.Kind == fsx.KindSyncDir {
			return nil
		}
		return do()
	}}
}

// A bench is a source tree, an index of it and a repository.
type bench struct {
	t    testing.TB
	src  string
	file string // of the index
	dir  string // of the repository
	repo *repo.Packs
	warn []string // paths that the last save warned of
	seen []string // status and path, as the last save told
}

// newBench makes a bench with an empty source.
func newBench(t testing.TB, chunker string) *bench {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	b := &bench{t: t, src: dir + "/src", file: dir + "/index", dir: dir + "/repo"}
	must(t, os.Mkdir(b.src, 0o755))
	b.init(chunker)
	return b
}

// init makes the repository, at b.dir.
func (b *bench) init(chunker string) {
	b.t.Helper()
	given, bups := strings.CutPrefix(chunker, "rollsum:")
	if bups {
		chunker = ""
	}
	_, err := repo.InitDir(context.Background(), b.dir, repo.InitOptions{FS: noSync(), Chunker: chunker})
	must(b.t, err)
	if bups { // as bup makes them: without a section of ours
		name := b.dir + "/config"
		text, err := os.ReadFile(name)
		must(b.t, err)
		text = regexp.MustCompile(`(?m)^\[kedge\]\n(\t.*\n)*`).ReplaceAll(text, nil)
		text = append(text, "[bup \"split\"]\n\tfiles = legacy:"+given+"\n"...)
		must(b.t, os.WriteFile(name, text, 0o644))
	}
	b.repo = b.open()
	if got := b.repo.Config().Chunker; chunker != "" && got != chunker || bups && got != "rollsum:"+given {
		b.t.Fatalf("the repository splits with %s", got)
	}
}

// open opens the repository once more.
func (b *bench) open() *repo.Packs {
	b.t.Helper()
	r, err := repo.OpenDir(context.Background(), b.dir, repo.DirOptions{FS: noSync()})
	must(b.t, err)
	b.t.Cleanup(func() { r.Close() })
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write writes a file below the source.
func (b *bench) write(name string, data []byte) string {
	b.t.Helper()
	name = filepath.Join(b.src, name)
	must(b.t, os.MkdirAll(filepath.Dir(name), 0o755))
	must(b.t, os.WriteFile(name, data, 0o644))
	return name
}

// age waits until nothing that happened before is racy.
func age() { time.Sleep(60 * time.Millisecond) }

// update brings the index up to date.
func (b *bench) update(roots ...string) {
	b.t.Helper()
	if len(roots) == 0 {
		roots = []string{b.src}
	}
	_, err := index.Update(context.Background(), index.Options{FS: noSync(), File: b.file, Roots: roots})
	must(b.t, err)
}

// options are those of a plain save of the source.
func (b *bench) options() Options {
	b.warn, b.seen = nil, nil
	return Options{
		Repo: b.repo, FS: noSync(), Name: "x", Roots: []string{b.src}, Level: -1, Author: "A <a@b>",
		Warn: func(path string, err error) { b.warn = append(b.warn, path) },
		Seen: func(path string, dir bool, status byte) {
			b.seen = append(b.seen, string(status)+" "+strings.TrimPrefix(path, b.src))
		},
	}
}

// try saves.
func (b *bench) try(o Options) (Result, error) {
	b.t.Helper()
	if len(o.Roots) > 0 {
		ix, err := index.OpenExclusive(o.FS, b.file, time.Minute)
		must(b.t, err)
		defer ix.Close()
		o.Index = ix
	}
	res, err := Run(context.Background(), o)
	noneLeft(b.t)
	return res, err
}

// save saves, which must go well.
func (b *bench) save(o Options) Result {
	b.t.Helper()
	res, err := b.try(o)
	must(b.t, err)
	return res
}

// fresh brings the index up to date and saves.
func (b *bench) fresh() Result {
	b.t.Helper()
	age()
	b.update()
	return b.save(b.options())
}

// tip returns where NAME stands.
func (b *bench) tip(name string) pack.ID {
	b.t.Helper()
	id, err := tip(context.Background(), b.repo, "refs/heads/"+name)
	must(b.t, err)
	return id
}

// record returns what the index has of a path.
func (b *bench) record(name string) index.Record {
	b.t.Helper()
	ix, err := index.Open(noSync(), b.file)
	must(b.t, err)
	defer ix.Close()
	must(b.t, ix.Check())
	rec, _, ok, err := ix.Lookup(name)
	if err != nil || !ok {
		b.t.Fatalf("no record of %s: %v", name, err)
	}
	return rec
}

// noneLeft fails if a goroutine of a save is left.
func noneLeft(t testing.TB) {
	t.Helper()
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for _, s := range bytes.Split(stacks, []byte("\n\n")) {
		for _, what := range []string{"(*feeder)", "(*sink)", "(*worker)", "(*run).report"} {
			if bytes.Contains(s, []byte("repo/save."+what)) {
				t.Fatalf("left behind:\n%s", s)
			}
		}
	}
}

// A saved is an item of a saved tree.
type saved struct {
	mode uint32 // git's
	id   pack.ID
	meta meta.Meta
	data string // content of a file, target of a link
}

// tree reads a whole saved tree: path → item. The root is ".".
func (b *bench) tree(id pack.ID) map[string]saved {
	b.t.Helper()
	ctx := context.Background()
	all := map[string]saved{}
	var walk func(id pack.ID, at string)
	walk = func(id pack.ID, at string) {
		var dirs []repo.DirItem
		err := repo.ReadDir(ctx, b.repo, id, func(d *repo.DirItem) error {
			if d.Err != nil || d.Lost && d.Name != "." { // directories that exist nowhere have none
				return fmt.Errorf("%s/%s: metadata lost: %v", at, d.Name, d.Err)
			}
			s := saved{mode: d.Mode, id: d.ID, meta: *d.Meta}
			name := path.Join(at, d.Name)
			switch {
			case d.Name == ".":
				s.id = id
				all[name] = s
				return nil
			case d.IsDir():
				dirs = append(dirs, repo.DirItem{Name: d.Name, ID: d.ID})
				return nil
			case d.Mode == repo.ModeSymlink:
				var err error
				if s.data, err = repo.ReadLink(ctx, b.repo, d.ID); err != nil {
					return err
				}
			default:
				var content bytes.Buffer
				if _, err := repo.OpenFile(ctx, b.repo, d.ID, d.Chunked).WriteTo(&content); err != nil {
					return err
				}
				s.data = content.String()
			}
			all[name] = s
			return nil
		})
		must(b.t, err)
		for _, d := range dirs {
			walk(d.ID, path.Join(at, d.Name))
		}
	}
	walk(id, ".")
	return all
}

// part returns what a saved tree holds below a path, by paths relative to it;
// the directory itself is ".".
func part(all map[string]saved, dir string) map[string]saved {
	out := map[string]saved{}
	dir = strings.TrimPrefix(dir, "/")
	for name, s := range all {
		if name == dir {
			out["."] = s
		} else if rest, ok := strings.CutPrefix(name, dir+"/"); ok {
			out[rest] = s
		}
	}
	return out
}

// names lists the paths of a saved tree.
func names(all map[string]saved) []string { return slices.Sorted(maps.Keys(all)) }

// message returns the message of a commit.
func (b *bench) message(id pack.ID) string {
	b.t.Helper()
	var msg string
	must(b.t, b.repo.Get(context.Background(), []pack.ID{id}, func(_ int, t pack.Type, body []byte) error {
		c, err := repo.ParseCommit(body)
		if t != pack.Commit {
			err = errors.New("no commit")
		}
		msg = c.Message
		return err
	}))
	return msg
}

// noise returns n bytes that cannot be compressed, always the same for a seed.
func noise(seed, n int) []byte {
	b := make([]byte, n)
	x := uint64(seed)*0x9e3779b97f4a7c15 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x >> 24)
	}
	return b
}
