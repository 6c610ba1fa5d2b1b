package repo

import (
	"bytes"
	"context"
	"slices"
	"sort"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo/meta"
)

// metaGroup is the number of directories whose metadata are asked for together.
const metaGroup = 256

// DirMetas calls fn for each of a number of directories as ReadDir does for ".",
// without reading their items. A directory that is missing or damaged comes with
// Lost and Err.
func DirMetas(ctx context.Context, r Repo, trees []pack.ID, fn func(i int, d *DirItem) error) error {
	for from := 0; from < len(trees); from += metaGroup {
		group := trees[from:min(from+metaGroup, len(trees))]
		items, err := dirMetas(ctx, r, group)
		if err != nil && damaged(err) && len(group) > 1 {
			items = items[:0]
			for i := range group { // one of them is to blame: let the others be
				one, err := dirMetas(ctx, r, group[i:i+1])
				if err != nil && !damaged(err) {
					return err
				}
				items = append(items, one...)
			}
		} else if err != nil && !damaged(err) {
			return err
		}
		for i := range items {
			if err := fn(from+i, &items[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// dirMetas reads the metadata of a group of directories. If it fails on a single
// one, that one is returned all the same and says why.
func dirMetas(ctx context.Context, r Repo, trees []pack.ID) ([]DirItem, error) {
	items := make([]DirItem, len(trees))
	metas := make([]meta.Meta, len(trees))
	bupms := make([]TreeEntry, len(trees))
	for i := range items {
		metas[i].Size = -1
		items[i] = DirItem{Name: ".", Mode: ModeDir, ID: trees[i], Meta: &metas[i]}
	}
	err := r.Get(ctx, trees, func(i int, t pack.Type, body []byte) error {
		if t != pack.Tree {
			return wrongType(trees[i], t, pack.Tree)
		}
		bupms[i] = findBupm(body)
		return nil
	})
	if err == nil {
		err = firstRecords(ctx, r, bupms, metas)
	}
	for i := range items {
		items[i].Lost = err != nil || bupms[i].Mode != 0 && metas[i].Mode == 0
		items[i].Err = err
	}
	return items, err
}

// findBupm returns the entry .bupm of a tree; its mode is 0 if there is none.
func findBupm(body []byte) TreeEntry {
	s := NewTreeScanner(body)
	for s.Next() && string(s.Name) < bupmName+"0" { // as a directory it stands at ".bupm/"
		if string(s.Name) == bupmName {
			return s.Entry()
		}
	}
	return TreeEntry{}
}

// firstRecords parses the first record of each .bupm there is.
func firstRecords(ctx context.Context, r Repo, bupms []TreeEntry, dst []meta.Meta) error {
	var ids []pack.ID
	var place []int
	for i, e := range bupms {
		if e.Mode == ModeFile {
			ids, place = append(ids, e.ID), append(place, i)
		}
	}
	err := r.Get(ctx, ids, func(i int, t pack.Type, body []byte) error {
		if t != pack.Blob {
			return wrongType(ids[i], t, pack.Blob)
		}
		return parseSelf(&dst[place[i]], ids[i], body)
	})
	for i, e := range bupms {
		if err != nil {
			return err
		}
		if e.Mode == 0 || e.Mode == ModeFile {
			continue
		}
		var m *bupm
		var record []byte
		if m, err = openBupm(ctx, r, e); err == nil {
			if record, _, err = m.next(); err == nil {
				err = parseSelf(&dst[i], e.ID, record)
			}
		}
	}
	return err
}

// parseSelf parses the record of a directory.
func parseSelf(dst *meta.Meta, id pack.ID, b []byte) error {
	m, _, err := meta.Parse(b)
	if err == nil && !fits(ModeDir, false, m.Mode) {
		err = errNotDir
	}
	if err != nil {
		return &pack.CorruptError{File: bupmName + " " + id.String(), Off: -1, Reason: err.Error()}
	}
	*dst = m
	return nil
}

// Lookup returns one item of a saved directory, nil if there is none of that
// name. With metadata it takes about as long as reading the directory.
func Lookup(ctx context.Context, r Repo, tree pack.ID, name string, metadata bool) (*DirItem, error) {
	d := dirReader{ctx: ctx, r: r}
	l, err := loadDir(ctx, r, tree)
	if err != nil {
		return nil, err
	}
	d.hasTop = l.has
	if l.split() {
		leaves, err := d.leaves(tree, l)
		if err != nil {
			return nil, err
		}
		i := sort.Search(len(leaves), func(i int) bool { return leaves[i].first > name })
		if i == 0 {
			return nil, nil
		}
		if l, err = loadDir(ctx, r, leaves[i-1].id); err != nil {
			return nil, err
		}
	}
	i, ok := slices.BinarySearchFunc(l.items, name, func(ref dirRef, name string) int {
		return bytes.Compare(l.name(ref), []byte(name))
	})
	if !ok {
		return nil, nil
	}
	d.item = l.item(l.items[i])
	d.item.Meta = &meta.Meta{Size: -1}
	if !metadata {
		return &d.item, nil
	}
	return &d.item, d.lookupMeta(l, i)
}

// lookupMeta fills in the metadata of item i of a tree.
func (d *dirReader) lookupMeta(l *dirList, i int) error {
	if d.item.IsDir() {
		return DirMetas(d.ctx, d.r, []pack.ID{d.item.ID}, func(_ int, self *DirItem) error {
			d.item.Meta, d.item.Lost, d.item.Err = self.Meta, self.Lost, self.Err
			return nil
		})
	}
	m, state, err := d.openMeta(l)
	if err != nil {
		return err
	}
	d.item.Err = state.err
	if state.lost {
		m = nil
	}
	if m != nil {
		for _, ref := range l.items[:i] {
			if ref.dir() {
				continue
			}
			if _, _, err := m.next(); err != nil {
				return err
			}
		}
		if _, _, err := m.next(); err != nil { // the directory's own
			return err
		}
	}
	d.meta = meta.Meta{Size: -1}
	if err := d.join(m); err != nil {
		return err
	}
	*d.item.Meta = d.meta
	return nil
}

// maxTarget is the longest target of a symbolic link that is followed or made;
// Linux takes 4095 bytes.
const maxTarget = 1<<16 - 1

// ReadLink returns the target of a symbolic link.
func ReadLink(ctx context.Context, r Repo, id pack.ID) (target string, err error) {
	err = getTyped(ctx, r, id, pack.Blob, func(body []byte) error {
		if len(body) > maxTarget || bytes.IndexByte(body, 0) >= 0 {
			return &pack.CorruptError{File: "blob " + id.String(), Off: -1, Reason: "is no target of a symbolic link"}
		}
		target = string(body)
		return nil
	})
	return target, err
}
