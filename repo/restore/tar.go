package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

// Tar writes the paths as a PAX archive. Owners are names and numbers as they
// were recorded, after the maps of o; with Numeric there are no names. Times are
// exact. Extended attributes are records "SCHILY.xattr.NAME" and ACLs
// "SCHILY.acl.access" and "SCHILY.acl.default" in text form, as GNU tar, star and
// bsdtar read them. Hard links are kept among what is written, and with Sparse
// long holes are holes in the archive. Sockets have no place in an archive and are
// counted as errors. Of o, what is about a target does not matter.
//
// A file of which nothing can be read is left out and counted. One that turns out
// to be damaged after its beginning was written makes Tar stop with an error: the
// archive is cut off there, and whoever reads it sees that.
func Tar(ctx context.Context, o Options, w io.Writer) (Result, error) {
	r, err := newRun(ctx, o)
	if err != nil {
		return Result{}, err
	}
	defer r.close()
	list, err := roots(r.ctx, r.Repo, r.Paths)
	if err != nil {
		return Result{}, err
	}
	t := &archive{r: r, w: w, names: make(map[linkKey]tarName)}
	for i := range list {
		if err := t.root(&list[i]); err != nil {
			return r.result(), err
		}
	}
	_, err = w.Write(zeroTar[:]) // the end of an archive
	return r.result(), err
}

// The size of a batch of files that are held until they are written.
const (
	tarFiles = 1024
	tarBytes = 8 << 20
)

// archive is a tar stream being written.
type archive struct {
	r     *run
	w     io.Writer
	names map[linkKey]tarName
	head  []byte // of an entry

	batch  []item // files of one chunk, to be got together
	bytes  int64
	bodies [][]byte
}

// tarName is where a set of hard links has its content.
type tarName struct {
	name string
	id   pack.ID
}

func (t *archive) root(rt *root) error {
	out := &folder{root: rt, dress: rt.self}
	path := []level{{f: out}}
	if rt.into {
		if err := t.read(&path[0], rt.item.ID); err != nil {
			return err
		}
	} else {
		if err := t.add(&path[0], &rt.item.DirItem); err != nil {
			return err
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	for len(path) > 0 {
		lv := &path[len(path)-1]
		if lv.next == len(lv.subs) {
			path = path[:len(path)-1]
			continue
		}
		s := lv.subs[lv.next]
		lv.next++
		f := &folder{root: rt, parent: lv.f, name: s.name, dress: true}
		path = append(path, level{f: f})
		if err := t.read(&path[len(path)-1], s.id); err != nil {
			return err
		}
	}
	return nil
}

// read writes a directory and all that is in it but for sub-directories.
func (t *archive) read(lv *level, tree pack.ID) error {
	f := lv.f
	err := repo.ReadDir(t.r.ctx, t.r.Repo, tree, func(d *repo.DirItem) error {
		if d.Name == "." {
			if d.Err != nil {
				t.r.fail(f.path(), asObject(f.root.saved(f.path()), fmt.Errorf("metadata are lost: %w", d.Err)))
			}
			if !f.dress {
				return nil
			}
			it := item{f: f, mode: d.StatMode(), meta: *d.Meta}
			_, err := t.entry(&it, &tarHeader{}, 0)
			return t.stopped(err)
		}
		return t.add(lv, d)
	})
	if err == nil {
		return t.flush()
	}
	var stop *stopError
	if errors.As(err, &stop) || t.r.ctx.Err() != nil || !damage(err) {
		return err
	}
	t.r.fail(f.path(), asObject(f.root.saved(f.path()), err))
	return t.flush()
}

// stopError wraps an error after which nothing more can be written, whatever it
// is about.
type stopError struct{ err error }

// Error is that of what is wrapped.
func (e *stopError) Error() string { return e.err.Error() }

// Unwrap returns what is wrapped.
func (e *stopError) Unwrap() error { return e.err }

func (t *archive) stopped(err error) error {
	if err != nil {
		return &stopError{err}
	}
	return nil
}

// add writes an item, or remembers it.
func (t *archive) add(lv *level, d *repo.DirItem) error {
	r := t.r
	if err := context.Cause(r.ctx); err != nil {
		return err
	}
	if r.excluded(lv.f, d.Name, d.IsDir()) {
		return nil
	}
	if d.IsDir() {
		lv.subs = append(lv.subs, sub{name: d.Name, id: d.ID})
		return nil
	}
	it := item{f: lv.f, name: d.Name, id: d.ID, mode: d.StatMode()}
	if d.Meta != nil {
		it.meta = *d.Meta
	}
	r.found(max(0, it.meta.Size))
	if it.mode&meta.TypeMask != meta.TypeFile || d.Chunked || it.meta.Size > tarBytes {
		if err := t.flush(); err != nil {
			return err
		}
		return t.stopped(t.large(&it, d.Chunked))
	}
	t.batch = append(t.batch, it)
	if t.bytes += max(0, it.meta.Size); len(t.batch) >= tarFiles || t.bytes >= tarBytes {
		return t.flush()
	}
	return nil
}

// flush writes the files of the batch. If some cannot be had together, they are
// asked for one by one.
func (t *archive) flush() error {
	batch := t.batch
	t.batch, t.bytes = t.batch[:0], 0
	if len(batch) == 0 {
		return nil
	}
	ids := make([]pack.ID, len(batch))
	for i := range batch {
		ids[i] = batch[i].id
	}
	t.bodies = append(t.bodies[:0], make([][]byte, len(batch))...)
	err := t.r.Repo.Get(t.r.ctx, ids, func(i int, kind pack.Type, body []byte) error {
		if kind != pack.Blob {
			return &pack.CorruptError{File: "object " + ids[i].String(), Off: -1, Reason: fmt.Sprintf("is a %v, not a blob", kind)}
		}
		t.bodies[i] = append([]byte{}, body...)
		return nil
	})
	if err != nil && (t.r.ctx.Err() != nil || !damage(err)) {
		return t.stopped(err)
	}
	for i := range batch {
		if body := t.bodies[i]; body != nil {
			err = t.content(&batch[i], int64(len(body)), bytes.NewReader(body))
		} else {
			err = t.large(&batch[i], false)
		}
		if err != nil {
			return t.stopped(err)
		}
	}
	return nil
}

// large writes an item that is no file of a batch. An error stops the archive.
func (t *archive) large(it *item, chunked bool) error {
	switch it.mode & meta.TypeMask {
	case meta.TypeFile:
	case meta.TypeSocket:
		t.r.fail(it.path(), errors.New("an archive cannot hold a socket"))
		return nil
	default:
		return t.content(it, 0, nil)
	}
	file := repo.OpenFile(t.r.ctx, t.r.Repo, it.id, chunked)
	size, err := file.Size()
	var body io.WriterTo = file
	if err == nil && chunked {
		var h *holed
		if h, err = t.holed(file, size); h != nil {
			body = h
		}
	}
	if err == nil {
		return t.content(it, size, body)
	}
	if t.r.ctx.Err() != nil || !damage(err) {
		return err
	}
	t.r.fail(it.path(), asObject(it.saved(), ofBlob(it.id, err)))
	return nil
}

// content writes an item with its content, or as a link to the one that has it.
// Size is that of the file; of one with holes the body is shorter.
func (t *archive) content(it *item, size int64, body io.WriterTo) error {
	key := linkKey{it.f.root.save, it.meta.Hardlink}
	if key.path != "" {
		if first, ok := t.names[key]; ok && first.id == it.id {
			_, err := t.entry(it, &tarHeader{kind: tarLink, link: first.name}, 0)
			return err
		}
	}
	h := &tarHeader{size: size}
	if err := t.fill(it, h); err != nil {
		t.r.fail(it.path(), err)
		return nil
	}
	name := h.name
	if holes, ok := body.(*holed); ok {
		holes.dress(h, size)
	}
	ok, err := t.entry(it, h, size)
	if err != nil || !ok {
		return err
	}
	if key.path != "" {
		t.names[key] = tarName{name, it.id}
	}
	if body == nil {
		return nil
	}
	if n, err := body.WriteTo(t.w); err != nil {
		return fmt.Errorf("the archive is cut off: %w", asObject(it.saved(), err))
	} else if n != h.size {
		return fmt.Errorf("the archive is cut off: %w", asObject(it.saved(), fmt.Errorf("%d bytes, not %d", n, h.size)))
	}
	t.r.moved(size)
	_, err = t.w.Write(zeroTar[:tarPadding(h.size)])
	return err
}

// entry writes the header of an item, after filling in what is not in it yet. What
// cannot be put into an archive is counted, and ok is false then.
func (t *archive) entry(it *item, h *tarHeader, size int64) (ok bool, err error) {
	if h.name == "" {
		err = t.fill(it, h)
	}
	if err == nil {
		err = h.check()
	}
	if err != nil {
		t.r.fail(it.path(), err)
		return false, nil
	}
	t.head = h.append(t.head[:0])
	if _, err = t.w.Write(t.head); err == nil {
		t.r.done(it.f, it.name, written, size)
	}
	return err == nil, err
}

// fill completes a header.
func (t *archive) fill(it *item, h *tarHeader) error {
	if h.name = strings.TrimPrefix(it.path(), "/"); h.name == "" {
		h.name = "./"
	}
	h.mode = it.mode & 0o7777
	if h.kind == 0 {
		if err := t.setType(it, h); err != nil {
			return err
		}
	}
	if it.meta.Mode == 0 {
		return nil
	}
	h.mtime, h.atime, h.timed = it.meta.Mtime, it.meta.Atime, true
	if err := t.setOwner(&it.meta, h); err != nil {
		return err
	}
	if h.kind != tarLink {
		t.setExtras(it, h)
	}
	return nil
}

func (t *archive) setType(it *item, h *tarHeader) (err error) {
	switch it.mode & meta.TypeMask {
	case meta.TypeFile:
		h.kind = tarFile
	case meta.TypeDir:
		h.kind = tarDir
	case meta.TypeFIFO:
		h.kind = tarFIFO
	case meta.TypeChar:
		h.kind = tarChar
	case meta.TypeBlock:
		h.kind = tarBlk
	case meta.TypeSymlink:
		h.kind = tarSymlink
		if h.link = it.meta.Symlink; h.link == "" {
			h.link, err = repo.ReadLink(t.r.ctx, t.r.Repo, it.id)
		}
	default:
		err = fmt.Errorf("unknown type of file, mode %o", it.mode)
	}
	if h.kind == tarChar || h.kind == tarBlk {
		h.major, h.minor = device(it.meta.Rdev)
	}
	return err
}

// device takes a Linux device number apart: twelve bits of the major number stand
// between the low eight of the minor one and its rest.
func device(rdev uint64) (major, minor int64) {
	return int64(rdev>>8&0xfff | rdev>>32&^0xfff), int64(rdev&0xff | rdev>>12&0xffffff00)
}

func (t *archive) setOwner(m *meta.Meta, h *tarHeader) error {
	uid, gid := m.UID, m.GID
	if uid < 0 || gid < 0 || uid > math.MaxUint32 || gid > math.MaxUint32 {
		return fmt.Errorf("no such owner: %d:%d", uid, gid)
	}
	if to, ok := t.r.MapUID[uint32(uid)]; ok {
		uid = int64(to)
	}
	if to, ok := t.r.MapGID[uint32(gid)]; ok {
		gid = int64(to)
	}
	h.uid, h.gid = uid, gid
	if t.r.Numeric {
		return nil
	}
	h.user, h.group = m.User, m.Group
	if to, ok := t.r.MapUser[m.User]; ok {
		h.user = to
	}
	if to, ok := t.r.MapGroup[m.Group]; ok {
		h.group = to
	}
	return nil
}

// setExtras adds the records for ACLs and extended attributes. The latter hold
// the ACLs once more, by number; with both a reader would have to choose.
func (t *archive) setExtras(it *item, h *tarHeader) {
	m := &it.meta
	set := func(key, value string) {
		if value != "" {
			h.add(key, value)
		}
	}
	if acl := m.Extras.ACL; acl != nil {
		access, dflt := acl.Access, acl.Default
		if t.r.Numeric {
			access, dflt = acl.AccessNum, acl.DefaultNum
		}
		set("SCHILY.acl.access", longACL(access))
		set("SCHILY.acl.default", longACL(dflt))
	}
	for _, x := range m.Extras.Xattrs {
		switch {
		case strings.HasPrefix(x.Name, "system.posix_acl_") && m.Extras.ACL != nil:
		case strings.ContainsAny(x.Name, "=\x00"): // where the name ends in a record, or in memory
			t.r.fail(it.path(), fmt.Errorf("an archive cannot hold the extended attribute %q", x.Name))
		default:
			set("SCHILY.xattr."+x.Name, x.Value)
		}
	}
}

// longACL turns the short text form of an ACL into the one that tar knows.
func longACL(text string) string {
	parts := strings.Split(text, ",")
	for i, p := range parts {
		for _, word := range []string{"user", "group", "mask", "other"} {
			if rest, ok := strings.CutPrefix(p, word[:1]+":"); ok {
				parts[i] = word + ":" + rest
			}
		}
	}
	return strings.Join(parts, "\n")
}
