package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/pack"
)

// What garbage collection takes away is not deleted at once: it stands in kedge/trash,
// which is laid out as a repository,
//
//	kedge/trash/objects/pack/pack-….pack, .idx
//	kedge/trash/hidden                      one line for each: since when
//
//	1700000000 pack-4b825dc642cb6eb9a060e54bf8d69288fbee4904
//
// and means this: an object that is only there is missing, and is sent again by whoever
// saves it. Only readers fall back to it, and the next collection brings back what a ref
// reaches after all, because git or bup wrote the ref without asking.
const (
	dirTrash   = "kedge/trash"
	fileHidden = dirTrash + "/hidden"
	maxHidden  = 64 << 20
)

// Hidden is a pack in the trash.
type Hidden struct {
	Name  pack.ID
	Since time.Time
	Size  int64 // bytes, with its idx
}

// openTrash opens the trash as a repository; nil if there is nothing in it.
func (d *Dir) openTrash(ctx context.Context, c Config) (*Packs, error) {
	if _, err := d.fs.Lstat(d.name(dirTrash + "/" + dirPacks)); noFile(err) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	p := newPacks(NewDir(d.fs, d.name(dirTrash)), nil, c, true)
	p.keeper = trashKeeper{frozen{}}
	if err := p.refresh(ctx); err != nil {
		return nil, err
	}
	if len(p.table.Load().packs) == 0 {
		return nil, p.Close()
	}
	return p, nil
}

// trashKeeper keeps no refs; what is in the trash is looked up anew every time.
type trashKeeper struct{ frozen }

func (trashKeeper) stamp() (time.Time, bool, error) { return time.Time{}, false, nil }

// Trash lists the packs in the trash, by name. One of which is not known when it came
// there came there now.
func (p *Packs) Trash(ctx context.Context) ([]Hidden, error) {
	if p.dir == nil {
		return nil, nil
	}
	d := p.dir
	since, err := d.hiddenSince()
	if err != nil {
		return nil, err
	}
	now := d.now()
	found := make(map[pack.ID]*Hidden)
	var list []Hidden
	err = d.List(ctx, dirTrash+"/"+dirPacks, func(name string, size int64) error {
		id, ok := packOf(name)
		if !ok {
			return nil
		}
		h := found[id]
		if h == nil {
			h = &Hidden{Name: id, Since: now}
			if at, ok := since[id]; ok && at.Before(now) {
				h.Since = at
			}
			found[id] = h
		}
		h.Size += size
		return nil
	})
	for _, h := range found {
		list = append(list, *h)
	}
	slices.SortFunc(list, func(a, b Hidden) int { return a.Name.Compare(b.Name) })
	return list, err
}

// packOf returns the id in the name of a pack or of its idx.
func packOf(name string) (pack.ID, bool) {
	stem, found := strings.CutPrefix(path.Base(name), "pack-")
	ending := path.Ext(stem)
	id, err := pack.ParseID(strings.TrimSuffix(stem, ending))
	return id, found && err == nil && (ending == ".pack" || ending == ".idx")
}

// hiddenSince reads when packs came to the trash. Lines that are none mean nothing.
func (d *Dir) hiddenSince() (map[pack.ID]time.Time, error) {
	text, err := d.fs.ReadFile(d.name(fileHidden), maxHidden)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	since := make(map[pack.ID]time.Time)
	for line := range bytes.Lines(text) {
		at, name, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
		secs, err := strconv.ParseInt(at, 10, 64)
		id, err2 := pack.ParseID(strings.TrimPrefix(name, "pack-"))
		if err == nil && err2 == nil {
			since[id] = time.Unix(secs, 0)
		}
	}
	return since, err
}

// noteHidden replaces the list of what is in the trash.
func (d *Dir) noteHidden(list []Hidden) error {
	var text []byte
	for _, h := range list {
		text = fmt.Appendf(text, "%d pack-%v\n", h.Since.Unix(), h.Name)
	}
	return d.fs.Replace(d.name(fileHidden), text, modeState)
}

// hide moves packs to the trash, in the order in which they are given:
//
//	replace kedge/trash/hidden
//	rename IDX, rename PACK                 for each pack
//	fsync of objects/pack, fsync of kedge/trash/objects/pack
//
// The idx goes first: a pack without one is invisible to git, and a pack with one that
// is not there is an error. The caller has taken them off the list of closed packs.
func (d *Dir) hide(ctx context.Context, names []pack.ID, already []Hidden) error {
	to := d.name(dirTrash + "/" + dirPacks)
	if err := d.fs.MkdirAll(to, modeDir); err != nil {
		return err
	}
	now := d.now()
	list := slices.Clone(already)
	for _, name := range names {
		list = slices.DeleteFunc(list, func(h Hidden) bool { return h.Name == name })
		list = append(list, Hidden{Name: name, Since: now})
	}
	if err := d.noteHidden(list); err != nil {
		return err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, ending := range []string{".idx", ".pack"} {
			file := "/pack-" + name.String() + ending
			err := d.fs.Rename(d.name(dirPacks)+file, to+file)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if err := d.dropBeside(name); err != nil {
			return err
		}
	}
	return firstErr(d.fs.SyncDir(d.name(dirPacks)), d.fs.SyncDir(to))
}

// dropBeside removes what git may have put beside a pack, which means nothing without it.
func (d *Dir) dropBeside(name pack.ID) error {
	for _, ending := range []string{".rev", ".bitmap", ".mtimes"} {
		err := d.fs.Remove(d.name(dirPacks + "/pack-" + name.String() + ending))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// empty deletes packs from the trash.
func (d *Dir) empty(ctx context.Context, names []pack.ID, all []Hidden) error {
	dir := d.name(dirTrash + "/" + dirPacks)
	gone := make(map[pack.ID]bool)
	for _, name := range names {
		gone[name] = true
		for _, ending := range []string{".idx", ".pack"} {
			err := firstErr(ctx.Err(), d.fs.Remove(dir+"/pack-"+name.String()+ending))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	if err := d.fs.SyncDir(dir); err != nil {
		return err
	}
	return d.noteHidden(slices.DeleteFunc(slices.Clone(all), func(h Hidden) bool { return gone[h.Name] }))
}
