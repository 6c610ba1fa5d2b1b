package restore

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

// The tests make saves themselves, object by object, so that they can make some
// that no writer makes.

// entry is something to be saved.
type entry struct {
	name   string
	mode   uint32 // 0: a file of mode 0644, or a directory of mode 0755 if kids is not nil
	body   string
	chunks []string // a file stored in chunks
	kids   []entry
	target string
	edit   func(m *meta.Meta) // changes the metadata
	bare   bool               // no metadata at all
}

func dir(name string, kids ...entry) entry {
	if kids == nil {
		kids = []entry{}
	}
	return entry{name: name, kids: kids}
}

func file1(name, body string) entry { return entry{name: name, body: body} }

func symlink(name, target string) entry {
	return entry{name: name, mode: meta.TypeSymlink | 0o777, target: target}
}

// saver adds objects to a repository.
type saver struct {
	t   testing.TB
	ctx context.Context
	r   *repo.Packs
	dir string
	s   repo.Session
	enc *pack.Encoder
	n   int
	buf []pack.Entry
	cls repo.Class
}

// newSaver makes a repository.
func newSaver(t testing.TB) *saver {
	t.Helper()
	s := &saver{t: t, ctx: context.Background(), enc: pack.NewEncoder(1), dir: filepath.Join(t.TempDir(), "repo")}
	_, err := repo.InitDir(s.ctx, s.dir, repo.InitOptions{})
	s.must(err)
	s.r, err = repo.OpenDir(s.ctx, s.dir, repo.DirOptions{})
	s.must(err)
	t.Cleanup(func() { s.r.Close() })
	s.s, err = s.r.Begin(s.ctx)
	s.must(err)
	return s
}

func (s *saver) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// put adds an object.
func (s *saver) put(class repo.Class, t pack.Type, body []byte) pack.ID {
	id := pack.Sum(t, body)
	b, crc := s.enc.Append(nil, t, body)
	if class != s.cls || len(s.buf) == 1000 {
		s.flush()
	}
	s.cls = class
	s.buf = append(s.buf, pack.Entry{ID: id, CRC: crc, Bytes: b})
	return id
}

func (s *saver) flush() {
	if len(s.buf) > 0 {
		s.must(s.s.Add(s.ctx, s.cls, s.buf))
		s.buf = s.buf[:0]
	}
}

func (s *saver) blob(b string) pack.ID { return s.put(repo.Data, pack.Blob, []byte(b)) }

func (s *saver) tree(b []byte) (pack.ID, error) { return s.put(repo.Trees, pack.Tree, b), nil }

// chunked stores a file in chunks, each of level 0.
func (s *saver) chunked(chunks []string) repo.TreeEntry {
	ct := repo.ChunkTree{Emit: s.tree}
	var last string
	var id pack.ID
	for _, c := range chunks {
		if c != last {
			id, last = s.blob(c), c
		}
		s.must(ct.Add(id, int64(len(c)), 0))
	}
	e, ok, err := ct.Finish()
	s.must(err)
	if !ok {
		s.t.Fatal("no chunks")
	}
	return e
}

func (s *saver) writer() *repo.DirWriter {
	return &repo.DirWriter{Emit: s.tree, Split: func(b []byte) (repo.TreeEntry, error) {
		const most = 60_000
		if len(b) <= most {
			return repo.TreeEntry{Mode: repo.ModeFile, ID: s.put(repo.Trees, pack.Blob, b)}, nil
		}
		ct := repo.ChunkTree{Emit: s.tree}
		for len(b) > 0 {
			n := min(len(b), most)
			if err := ct.Add(s.put(repo.Trees, pack.Blob, b[:n]), int64(n), 0); err != nil {
				return repo.TreeEntry{}, err
			}
			b = b[n:]
		}
		e, _, err := ct.Finish()
		return e, err
	}}
}

// stamp is the mtime of what is saved, unless it is edited.
var stamp = fsx.Time{Sec: 1_600_000_000, Nsec: 123456789}

// metaOf makes the metadata of an entry.
func metaOf(e *entry) meta.Meta {
	m := meta.Meta{Mode: e.mode, UID: int64(os.Geteuid()), GID: int64(os.Getegid()), Atime: stamp, Mtime: stamp, Ctime: stamp, Size: -1, Symlink: e.target}
	switch {
	case m.Mode == 0 && e.kids != nil:
		m.Mode = meta.TypeDir | 0o755
	case m.Mode == 0:
		m.Mode = meta.TypeFile | 0o644
	}
	switch m.Type() {
	case meta.TypeFile:
		m.Size = int64(len(e.body))
		for _, c := range e.chunks {
			m.Size += int64(len(c))
		}
	case meta.TypeSymlink:
		m.Size = int64(len(e.target))
	}
	if e.edit != nil {
		e.edit(&m)
	}
	return m
}

// add stores an entry.
func (s *saver) add(e *entry) repo.DirEntry {
	s.n++
	d := repo.DirEntry{Name: e.name, Mode: repo.ModeFile}
	m := metaOf(e)
	switch {
	case e.kids != nil:
		d.Mode, d.ID = repo.ModeDir, s.addDir(e)
		return d
	case m.Type() == meta.TypeSymlink:
		d.Mode, d.ID = repo.ModeSymlink, s.blob(e.target)
	case e.chunks != nil:
		c := s.chunked(e.chunks)
		d.Mode, d.ID, d.Chunked = c.Mode, c.ID, c.Mode == repo.ModeDir
	default:
		d.ID = s.blob(e.body)
	}
	if !e.bare {
		d.Meta = m.Append(nil)
	}
	return d
}

func (s *saver) addDir(e *entry) pack.ID {
	kids := slices.Clone(e.kids)
	slices.SortFunc(kids, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	list := make([]repo.DirEntry, 0, len(kids))
	for i := range kids {
		list = append(list, s.add(&kids[i]))
	}
	m := metaOf(e)
	var self []byte
	if !e.bare {
		self = m.Append(nil)
	}
	id, err := s.writer().Write(self, list)
	s.must(err)
	return id
}

// commit makes tree a save called name.
func (s *saver) commit(name string, tree pack.ID) {
	s.t.Helper()
	refs, err := s.r.Refs(s.ctx, "refs/heads/"+name)
	s.must(err)
	sig := repo.Signature{Who: "a <a@b>", When: time.Unix(1_700_000_000, 0)}
	c := repo.Commit{Tree: tree, Author: sig, Committer: sig, Message: "kedge save\n"}
	m := repo.Move{Ref: "refs/heads/" + name}
	if len(refs) > 0 {
		m.Old = refs[0].ID
		c.Parents = []pack.ID{m.Old}
	}
	m.New = s.put(repo.Trees, pack.Commit, c.Append(nil))
	s.flush()
	s.must(s.s.Commit(s.ctx))
	_, err = s.r.SetRef(s.ctx, m)
	s.must(err)
}

// save saves a tree under a name.
func (s *saver) save(name string, kids ...entry) {
	s.t.Helper()
	root := dir("", kids...)
	s.commit(name, s.addDir(&root))
}

// done ends the session.
func (s *saver) done() *repo.Packs {
	s.must(s.s.Close())
	return s.r
}

// saved makes a repository with one save, "s".
func saved(t testing.TB, kids ...entry) *repo.Packs {
	t.Helper()
	s := newSaver(t)
	s.save("s", kids...)
	return s.done()
}
