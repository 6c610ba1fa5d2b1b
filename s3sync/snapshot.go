package s3sync

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"
	"strings"
	"sync"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// Snapshot is a generation as a repo.Store that can be read.
type Snapshot struct {
	b     *Bucket
	g     *Generation
	cache *Cache
	// copies are files that are at hand, by their checksums.
	copies map[Sum]io.ReaderAt

	index   sync.Once
	locator *locator
}

// Snapshot returns the files of a generation, which are read through a cache.
func (b *Bucket) Snapshot(g *Generation, cache *Cache) *Snapshot {
	return &Snapshot{b: b, g: g, cache: cache}
}

// Open opens a file of the generation. Nothing is asked of the store yet.
func (s *Snapshot) Open(ctx context.Context, name string) (repo.Blob, error) {
	f, ok := s.g.File(name)
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	x := s.file(f, blockSize)
	if path.Ext(name) == ".pack" {
		x.ahead = new(ahead)
		if x.sealed != nil {
			x.sealed.at.ahead = x.ahead
		}
	}
	return x, nil
}

// file returns a file that is read in blocks.
func (s *Snapshot) file(f File, step int64) *remoteFile {
	x := &remoteFile{s: s.b.Objects, cache: s.cache, key: s.b.Prefix + f.Key, file: f, step: step, local: s.copies[f.SHA256]}
	if f.encrypted() {
		at := *x
		at.local = nil
		at.file = File{Name: f.Name, Size: f.Cipher.Size, SHA256: f.Cipher.SHA256, Key: f.Key, Version: f.Version}
		x.sealed = &sealedFile{at: &at, size: f.Size, id: s.b.Identity}
	}
	return x
}

// List calls fn for the files below dir, in the order of their names.
func (s *Snapshot) List(ctx context.Context, dir string, fn func(name string, size int64) error) error {
	files, prefix := s.g.Files, dir+"/"
	i := sort.Search(len(files), func(i int) bool { return files[i].Name >= prefix })
	for ; i < len(files) && strings.HasPrefix(files[i].Name, prefix); i++ {
		if err := fn(files[i].Name, files[i].Size); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Create is refused.
func (s *Snapshot) Create(context.Context) (repo.Pending, error) { return nil, repo.ErrReadOnly }

// Remove is refused.
func (s *Snapshot) Remove(context.Context, string) error { return repo.ErrReadOnly }

// State returns what changes in the repository, as it was.
func (s *Snapshot) State(ctx context.Context) (repo.State, error) {
	if s.g.Locked {
		return repo.State{}, &LockedError{s.b.name()}
	}
	st := repo.State{Refs: s.g.Refs, Head: s.g.Head}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var first error
	for name, to := range st.Files() {
		f, ok := s.g.File(name)
		if !ok {
			continue
		}
		wg.Go(func() { // each costs a round trip
			text, err := s.text(ctx, f)
			mu.Lock()
			defer mu.Unlock()
			if *to = text; err != nil {
				first = fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	wg.Wait()
	return st, first
}

// text reads a file of which the manifest names a copy.
func (s *Snapshot) text(ctx context.Context, f File) ([]byte, error) {
	text, err := s.b.readSmall(ctx, f, int(f.Size))
	if err == nil && SumOf(text) != f.SHA256 {
		err = &pack.CorruptError{File: s.b.Prefix + f.Key, Off: -1, Reason: "its SHA-256 is not what the manifest says"}
	}
	return text, err
}

// Open opens a generation as a repository that can be read.
func (b *Bucket) Open(ctx context.Context, g *Generation, cache *Cache) (*repo.Packs, error) {
	return b.Snapshot(g, cache).Packs(ctx)
}

// Packs opens the generation as a repository that can be read.
func (s *Snapshot) Packs(ctx context.Context) (*repo.Packs, error) {
	state, err := s.State(ctx)
	if err != nil {
		return nil, err
	}
	return repo.OpenSnapshot(ctx, s, state)
}
