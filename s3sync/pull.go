package s3sync

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// PullOptions says where a generation is brought to.
type PullOptions struct {
	FS      *fsx.FS
	Dir     string // made if it is not there
	Workers int    // files fetched at once; 0: 4
	// Partial completes the copy although packs are lost. Its refs may lead to objects that
	// are missing then.
	Partial  bool
	Progress func(PullResult)
}

// PullResult is what a Pull did.
type PullResult struct {
	Generation uint64
	Files      int // of the generation
	Got        int // files that were not there
	GotBytes   int64
	Rebuilt    []string // idx files that were missing or wrong and were made anew
}

// Pull makes a directory the repository that a generation is:
//
//	packs, then their indexes: fetched, compared with the SHA-256 of the manifest, named
//	receipts, refs, HEAD, closed, config
//
// What is there already stays, so it can be interrupted and run again, and a copy that is
// behind is brought up to date. Files that the generation does not have are left alone. A
// directory that holds another repository is refused.
//
// An idx that is missing or wrong is made from its pack. If packs are, the others are fetched
// and the error is a *LostError; the copy becomes a repository only with Partial.
func (b *Bucket) Pull(ctx context.Context, g *Generation, o PullOptions) (PullResult, error) {
	if o.FS == nil {
		o.FS = new(fsx.FS)
	}
	p := pull{b: b, g: g, o: o, result: PullResult{Generation: g.N, Files: len(g.Files)}}
	state, err := b.Snapshot(g, NewCache(0)).State(ctx)
	if err != nil {
		return p.result, err
	}
	if err := p.sameRepo(ctx); err != nil {
		return p.result, err
	}
	if p.dir, err = repo.NewMirrorDir(ctx, o.FS, o.Dir); err != nil {
		return p.result, err
	}
	defer func() { _ = p.dir.Close() }()
	for _, ending := range []string{".pack", ".idx"} {
		if err := p.files(ctx, ending); err != nil {
			return p.result, err
		}
	}
	if len(p.lost) > 0 && !o.Partial {
		return p.result, &LostError{p.lost}
	}
	if err := p.dir.SetState(ctx, state); err != nil || len(p.lost) == 0 {
		return p.result, err
	}
	return p.result, &LostError{p.lost}
}

// LostError says which files of a generation cannot be had.
type LostError struct{ Files []error }

// Error names the first of them, and how many there are.
func (e *LostError) Error() string {
	if len(e.Files) == 1 {
		return "a file is lost: " + e.Files[0].Error()
	}
	return fmt.Sprintf("%d files are lost, among them %v", len(e.Files), e.Files[0])
}

// Unwrap returns them all.
func (e *LostError) Unwrap() []error { return e.Files }

type pull struct {
	b   *Bucket
	g   *Generation
	o   PullOptions
	dir *repo.Dir

	mu     sync.Mutex
	result PullResult
	lost   []error
}

// sameRepo fails if another repository is where the copy is to be.
func (p *pull) sameRepo(ctx context.Context) error {
	old, err := repo.OpenDir(ctx, p.o.Dir, repo.DirOptions{FS: p.o.FS, ReadOnly: true})
	if errors.As(err, new(*repo.NotFoundError)) {
		return nil
	} else if err != nil {
		return err
	}
	defer func() { _ = old.Close() }()
	if id := old.Config().ID; id != p.g.Repo {
		return &repo.ConfigError{Reason: fmt.Sprintf("%s is another repository: its id is %s, that of the mirror is %s",
			p.o.Dir, orDash(id), orDash(p.g.Repo))}
	}
	return nil
}

// files fetches the files of packs with an ending that are not there yet.
func (p *pull) files(ctx context.Context, ending string) error {
	var list []File
	for _, f := range p.g.Files {
		if path.Dir(f.Name) == "objects/pack" && path.Ext(f.Name) == ending {
			list = append(list, f)
		}
	}
	workers := p.o.Workers
	if workers == 0 {
		workers = 4
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(workers, len(list)) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(list) {
					return
				}
				err := p.file(ctx, list[i])
				if err == nil {
					continue
				}
				err = fmt.Errorf("%s: %w", list[i].Name, err)
				if ctx.Err() == nil && damaged(err) {
					err = p.without(ctx, list[i], err)
				}
				if err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// file fetches a file unless it is there.
func (p *pull) file(ctx context.Context, f File) error {
	old, err := p.dir.Open(ctx, f.Name)
	if err == nil {
		defer old.Close()
		if old.Size() == f.Size {
			return nil
		}
		return &repo.ExistsError{Name: f.Name}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	to, err := p.dir.Create(ctx)
	if err != nil {
		return err
	}
	defer to.Abort()
	from, err := p.b.reader(ctx, f)
	if err != nil {
		return err
	}
	h := sha256.New()
	buf := make([]byte, readStep)
	for off := int64(0); off < f.Size; {
		want := buf[:min(int64(len(buf)), f.Size-off)]
		n, err := io.ReadFull(from, want)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			err = &pack.CorruptError{File: p.b.Prefix + f.Key, Off: off + int64(n), Reason: "it ends before its time"}
		}
		if err != nil {
			return err
		}
		h.Write(want)
		if _, err := to.Write(want); err != nil {
			return err
		}
		off += int64(n)
	}
	if Sum(h.Sum(nil)) != f.SHA256 {
		return &pack.CorruptError{File: p.b.Prefix + f.Key, Off: -1, Reason: "its SHA-256 is not what the manifest says"}
	}
	if err := to.Commit(f.Name); err != nil {
		return err
	}
	p.mu.Lock()
	p.result.Got++
	p.result.GotBytes += f.Size
	r := p.result
	p.mu.Unlock()
	if p.o.Progress != nil {
		p.o.Progress(r)
	}
	return nil
}

// without does without a file that cannot be had: an idx is made anew, a pack is noted as
// lost.
func (p *pull) without(ctx context.Context, f File, why error) error {
	if path.Ext(f.Name) == ".idx" {
		err := p.rebuild(ctx, f.Name)
		if err == nil || !damaged(err) {
			return err
		}
		if errors.Is(err, fs.ErrNotExist) { // its pack is lost, which was noted
			return nil
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost = append(p.lost, why)
	return nil
}

// rebuild makes an idx from the pack that was fetched before.
func (p *pull) rebuild(ctx context.Context, name string) error {
	packName := strings.TrimSuffix(name, ".idx") + ".pack"
	blob, err := p.dir.Open(ctx, packName)
	if err != nil {
		return err
	}
	defer blob.Close()
	tail := make([]byte, idWidth)
	if _, err := blob.ReadAt(tail, max(0, blob.Size()-int64(idWidth))); err != nil && err != io.EOF {
		return err
	}
	sum, _, _ := pack.CutID(tail)
	pk, err := pack.OpenPack(packName, blob, blob.Size(), sum)
	if err != nil {
		return err
	}
	x, err := pk.Reindex(pack.NewScratch(1 << 30))
	if err != nil {
		return err
	}
	to, err := p.dir.Create(ctx)
	if err != nil {
		return err
	}
	defer to.Abort()
	if _, err := x.WriteTo(to); err != nil {
		return err
	}
	if err := to.Commit(name); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.result.Rebuilt = append(p.result.Rebuilt, name)
	return nil
}
