package repo

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"

	"github.com/kedgebackup/kedge/pack"
)

// errGone says that the file of an object was taken away while it was read.
var errGone = errors.New("pack is gone")

// isGone reports whether an error says that there is no such file any more.
func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// getLoose reads an object that is in no pack.
func (p *Packs) getLoose(ctx context.Context, id pack.ID, i int, fn func(int, pack.Type, []byte) error) error {
	t, body, err := p.looseObject(ctx, id)
	if err != nil {
		return err
	}
	return fn(i, t, body)
}

// looseName is where git keeps an object that is in no pack.
func looseName(id pack.ID) string {
	hex := id.String()
	return "objects/" + hex[:2] + "/" + hex[2:]
}

// looseObject reads a loose object, as git writes them: objects/ab/cdef…, a
// zlib stream of "blob 12\x00" and the body. Kedge writes none, and they never
// count as present, because git deletes them when it likes.
func (p *Packs) looseObject(ctx context.Context, id pack.ID) (pack.Type, []byte, error) {
	name := looseName(id)
	f, err := p.store.Open(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return p.trashed(ctx, id)
	} else if err != nil {
		return 0, nil, err
	}
	defer f.Close()
	t, body, err := readLoose(io.NewSectionReader(f, 0, f.Size()))
	if err == nil && pack.Sum(t, body) != id {
		err = errors.New("its bytes are those of another object")
	}
	if err != nil {
		return 0, nil, &pack.CorruptError{File: name, Off: -1, Reason: err.Error()}
	}
	return t, body, nil
}

// readLoose decodes a loose object. The buffer grows with what is there, not
// with what the header claims.
func readLoose(r io.Reader) (pack.Type, []byte, error) {
	z, err := zlib.NewReader(bufio.NewReader(r))
	if err != nil {
		return 0, nil, err
	}
	defer z.Close()
	in := bufio.NewReader(z)
	var head []byte
	for len(head) < 32 {
		c, err := in.ReadByte()
		if err != nil {
			return 0, nil, err
		}
		if c == 0 {
			break
		}
		head = append(head, c)
	}
	word, digits, _ := bytes.Cut(head, []byte(" "))
	size, err := strconv.ParseInt(string(digits), 10, 64)
	if err != nil || size < 0 {
		return 0, nil, fmt.Errorf("bad header %.40q", head)
	}
	t, limit := pack.Type(0), int64(maxBlob)
	for _, known := range []pack.Type{pack.Commit, pack.Tree, pack.Blob, pack.Tag} {
		if known.String() == string(word) {
			t = known
		}
	}
	if t == pack.Tree {
		limit = maxTree
	}
	if t == 0 || size > limit {
		return 0, nil, fmt.Errorf("bad header %.40q", head)
	}
	var body bytes.Buffer
	if n, err := io.Copy(&body, io.LimitReader(in, size+1)); err != nil {
		return 0, nil, err
	} else if n != size {
		return 0, nil, fmt.Errorf("%d bytes where the header says %d", n, size)
	}
	return t, body.Bytes(), nil
}

// trashed reads an object that garbage collection has taken away and not deleted yet. It
// does not count as present; but whoever reads had a reason to think that it is there.
func (p *Packs) trashed(ctx context.Context, id pack.ID) (t pack.Type, body []byte, err error) {
	missing := &MissingError{ID: id}
	if p.dir == nil {
		return 0, nil, missing
	}
	p.trash.mu.Lock()
	defer p.trash.mu.Unlock()
	if p.trash.packs == nil {
		if p.trash.packs, err = p.dir.openTrash(ctx, p.config); err != nil || p.trash.packs == nil {
			return 0, nil, firstErr(err, missing)
		}
	}
	from := p.trash.packs
	if _, ok, err := from.findFresh(ctx, id); err != nil || !ok {
		return 0, nil, firstErr(err, missing)
	}
	err = from.Get(ctx, []pack.ID{id}, func(_ int, typ pack.Type, b []byte) error {
		t, body = typ, bytes.Clone(b)
		return nil
	})
	return t, body, err
}

// countsAsPresent reports whether an object that can be read is anywhere but in the trash.
func (p *Packs) countsAsPresent(ctx context.Context, id pack.ID) (bool, error) {
	if _, ok, err := p.findFresh(ctx, id); ok || err != nil {
		return ok, err
	}
	f, err := p.store.Open(ctx, looseName(id))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return true, f.Close()
}
