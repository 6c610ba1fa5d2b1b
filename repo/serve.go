package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"strings"
	"sync"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

// What stands here is for a server, whose client needs to know more of a repository
// than a Repo tells: packs by name, objects as they are stored, files.

// PackInfo describes a pack.
type PackInfo struct {
	Name          pack.ID // pack-NAME.pack
	Size, IdxSize int64   // bytes
	Closed        bool    // all below its objects is there (I9)
}

// info describes a pack; ok is false for one that has a name of somebody's own making.
func (f *packFile) info() (i PackInfo, ok bool) {
	id, err := pack.ParseID(strings.TrimPrefix(f.name, "pack-"))
	return PackInfo{id, f.size, f.idxSize, f.closed.Load()}, err == nil
}

func infos(files []*packFile) []PackInfo {
	list := make([]PackInfo, 0, len(files))
	for _, f := range files {
		if i, ok := f.info(); ok {
			list = append(list, i)
		}
	}
	return list
}

// PackList returns the packs there are now.
func (p *Packs) PackList(ctx context.Context) ([]PackInfo, error) {
	if err := p.refresh(ctx); err != nil {
		return nil, err
	}
	return infos(p.table.Load().packs), nil
}

// PackBytes returns how many bytes all packs have, without their idx files.
func (p *Packs) PackBytes(ctx context.Context) (int64, error) {
	if err := p.refresh(ctx); err != nil {
		return 0, err
	}
	n := int64(0)
	for _, f := range p.table.Load().packs {
		n += f.size
	}
	return n, nil
}

// ReadIdx appends to dst up to n bytes of the idx of a pack, from off on; fewer only at
// its end.
func (p *Packs) ReadIdx(ctx context.Context, dst []byte, name pack.ID, off int64, n int) ([]byte, error) {
	if err := p.refresh(ctx); err != nil {
		return dst, err
	}
	f := p.table.Load().byName["pack-"+name.String()]
	if f == nil {
		return dst, &NotFoundError{What: "pack", Name: name.String()}
	}
	n = int(min(int64(n), max(0, f.idxSize-off)))
	at := len(dst)
	dst = append(dst, make([]byte, n)...)
	if _, err := (handle{&p.files, f.idxName()}).ReadAt(dst[at:], off); err != nil && err != io.EOF {
		return dst[:at], err
	}
	return dst, nil
}

// Upload is a Session of a server's. Beyond a Session's it has methods by which the
// client is told what it may count on.
type Upload struct {
	*session

	claiming sync.Mutex
	claim    *fsx.File // see Claim; nil: nothing was claimed
	ended    bool
}

// BeginUpload starts a session. With onePack all objects of a class that come before a
// Commit go into one pack, however many they are, as clients of bup's protocol expect.
func (p *Packs) BeginUpload(ctx context.Context, onePack bool) (*Upload, error) {
	s, err := p.Begin(ctx)
	if err != nil {
		return nil, err
	}
	u := &Upload{session: s.(*session)}
	if onePack {
		u.maxSize, u.maxObjects = math.MaxInt64, math.MaxInt32
	}
	return u, nil
}

// Relied returns the packs that the session keeps from being deleted.
func (u *Upload) Relied() []PackInfo {
	u.promising.Lock()
	defer u.promising.Unlock()
	var files []*packFile
	for _, f := range u.p.table.Load().packs {
		if u.promised[f.name] {
			files = append(files, f)
		}
	}
	return infos(files)
}

// Published returns the packs of this session that were published since the last call.
func (u *Upload) Published() []PackInfo {
	u.mu.Lock()
	defer u.mu.Unlock()
	list := infos(u.published)
	u.published = nil
	return list
}

// Stored returns how many objects were added, without those that were there before, and
// how many bytes their entries have. Other than Stats it counts those that are not yet
// in a published pack.
func (u *Upload) Stored() (objects, bytes int64) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	return u.objects, u.stored
}

// Spool begins a file beside the packs that the session writes. Abort ends it, and so
// does the end of the session.
func (u *Upload) Spool(ctx context.Context) (Pending, error) { return u.store.Create(ctx) }

// CommitBodies is CommitWalker for a server: it calls fn for the commit tip and all that
// it reaches, children before their parents. (A Packs is no CommitWalker, because who has
// one wants its commits parsed, and walks without.)
func (p *Packs) CommitBodies(ctx context.Context, tip pack.ID, fn func(id pack.ID, body []byte) error) error {
	hasher := pack.NewHasher()
	var buf []byte
	return WalkCommits(ctx, p, tip, func(id pack.ID, c *Commit) error {
		buf = c.Append(buf[:0])
		if got, err := hasher.Sum(pack.Commit, buf); err == nil && got == id {
			return fn(id, buf)
		}
		return p.Get(ctx, []pack.ID{id}, func(_ int, _ pack.Type, body []byte) error { return fn(id, body) })
	})
}

// servedDirs are the directories of which a mirror may see files, and servedFiles the
// files beside them. All else is of no use elsewhere (locks, sessions, what is being
// written) or nobody's business (the index of what a client saved).
var (
	servedDirs  = []string{dirPacks, "refs"}
	servedFiles = []string{"HEAD", fileConfig, fileClosed, fileReceipts, filePackedRefs}
)

// served reports whether a file is part of what makes the repository.
func served(name string) bool {
	for _, f := range servedFiles {
		if name == f {
			return true
		}
	}
	if strings.HasPrefix(name, "refs/") {
		return CheckRefName(name) == nil
	}
	return path.Dir(name) == dirPacks && strings.HasPrefix(path.Base(name), "pack-") &&
		(path.Ext(name) == ".pack" || path.Ext(name) == ".idx")
}

// ServedFiles calls fn for the files below a directory that make the repository: packs
// with their idx files, refs, packed-refs, HEAD, config, and of kedge's own receipts and
// closed; "" stands for all.
func (p *Packs) ServedFiles(ctx context.Context, dir string, fn func(name string, size int64) error) error {
	if dir != "" {
		if err := checkName(dir); err != nil {
			return err
		}
	}
	give := func(name string, size int64) error {
		if !served(name) || dir != "" && !strings.HasPrefix(name, dir+"/") {
			return nil
		}
		return fn(name, size)
	}
	for _, d := range servedDirs {
		switch {
		case dir == "", dir == d, strings.HasPrefix(d, dir+"/"):
		case strings.HasPrefix(dir, d+"/"):
			d = dir
		default:
			continue
		}
		if err := p.store.List(ctx, d, give); err != nil {
			return err
		}
	}
	if p.dir == nil {
		return errServedDepot
	}
	for _, name := range servedFiles {
		info, err := p.dir.fs.Lstat(p.dir.name(name))
		if noFile(err) || err == nil && !info.Mode().IsRegular() {
			continue
		} else if err != nil {
			return err
		}
		if err := give(name, info.Size()); err != nil {
			return err
		}
	}
	return nil
}

// errServedDepot says that what stands in a depot is no directory that could be copied.
var errServedDepot = errors.New("this repository stands in an object store: kedge mirror --pull s3://… copies it from there")

// OpenServed opens one of the files that ServedFiles lists; fs.ErrNotExist for all others.
func (p *Packs) OpenServed(ctx context.Context, name string) (Blob, error) {
	if p.dir == nil {
		return nil, errServedDepot
	}
	gone := fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	if checkName(name) != nil || !served(name) {
		return nil, gone
	}
	// Nothing of what leads there may be a link: a client cannot make one, but
	// somebody who can must not send a mirror elsewhere.
	parts := strings.Split(name, "/")
	for i := range parts {
		info, err := p.dir.fs.Lstat(p.dir.name(path.Join(parts[:i+1]...)))
		if err != nil {
			return nil, err
		}
		if last := i == len(parts)-1; last && !info.Mode().IsRegular() || !last && !info.IsDir() {
			return nil, gone
		}
	}
	return p.store.Open(ctx, name)
}
