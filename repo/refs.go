package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sort"
	"strings"
	"syscall"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/kedgebackup/kedge/pack"
)

const (
	filePackedRefs = "packed-refs"
	maxPackedRefs  = 64 << 20 // bytes; a million refs
	maxLooseRef    = 4 << 10  // bytes; an id and a newline, or a symbolic ref
	maxSymrefs     = 5        // refs on the way of a symbolic ref, as in git
)

// Refs returns the refs whose full names begin with prefix, sorted by name. If
// the file of a ref does not hold an id, or packed-refs is damaged, the others are
// returned together with a *pack.CorruptError, so that a caller can say what is
// wrong and still show the rest.
func (p *Packs) Refs(ctx context.Context, prefix string) ([]Ref, error) {
	return p.keeper.refs(ctx, prefix)
}

// refs reads loose refs first and packed ones after: git writes a ref to
// packed-refs before it removes the loose file, so in this order none is missed.
func (d *Dir) refs(ctx context.Context, prefix string) ([]Ref, error) {
	found := make(map[string]pack.ID)
	var broken error
	err := d.walkRefs(ctx, "refs", prefix, func(name string) error {
		if CheckRefName(name) != nil {
			return nil // a lock, or something that is not git's
		}
		id, ok, err := d.looseRef(name)
		if ok || err != nil {
			found[name] = id // a broken one hides the packed one, as in git
		}
		if errors.As(err, new(*pack.CorruptError)) {
			broken = firstErr(broken, err)
			err = nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	packed, err := d.packedRefs() // up to the first line that is none
	if errors.As(err, new(*pack.CorruptError)) {
		broken = firstErr(broken, err)
	} else if err != nil {
		return nil, err
	}
	for _, r := range packed {
		if _, ok := found[r.Name]; !ok && strings.HasPrefix(r.Name, prefix) {
			found[r.Name] = r.ID
		}
	}
	out := make([]Ref, 0, len(found))
	for name, id := range found {
		if !id.IsZero() {
			out = append(out, Ref{name, id})
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, broken
}

// walkRefs calls fn for each file below dir that may be a ref with the prefix.
func (d *Dir) walkRefs(ctx context.Context, dir, prefix string, fn func(name string) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	list, err := d.fs.ReadDir(d.name(dir))
	if noFile(err) {
		return nil
	} else if err != nil {
		return err
	}
	for _, e := range list {
		name := path.Join(dir, e.Name())
		switch {
		case e.IsDir():
			// Only where the prefix can still match: above it or below it.
			below := name + "/"
			if len(name) > maxRefName || !strings.HasPrefix(prefix, below) && !strings.HasPrefix(below, prefix) {
				continue
			}
			err = d.walkRefs(ctx, name, prefix, fn)
		case e.Type().IsRegular() && strings.HasPrefix(name, prefix):
			err = fn(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// looseRef reads refs/...; ok is false if there is no such file.
func (d *Dir) looseRef(name string) (id pack.ID, ok bool, err error) {
	at := name
	for range maxSymrefs {
		if err := CheckRefName(at); err != nil {
			return pack.ID{}, false, &pack.CorruptError{File: name, Off: -1, Reason: err.Error()}
		}
		text, err := d.fs.ReadFile(d.name(at), maxLooseRef)
		if noFile(err) {
			if at == name {
				return pack.ID{}, false, nil
			}
			return d.packedRef(at) // a symbolic ref to one that is packed, or to nothing
		} else if err != nil {
			return pack.ID{}, false, err
		}
		id, target, err := parseLooseRef(at, text)
		if err != nil || target == "" {
			return id, err == nil, err
		}
		at = target
	}
	return pack.ID{}, false, &pack.CorruptError{File: name, Off: -1, Reason: "too many symbolic refs on the way"}
}

// noFile reports whether a read failed because there is no file of that name:
// none at all, a directory, or a file where its directory should be.
func noFile(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.ENOTDIR)
}

// parseLooseRef reads the file of a ref: an id, or "ref: " and another ref.
func parseLooseRef(name string, text []byte) (id pack.ID, target string, err error) {
	line := string(bytes.TrimRight(text, "\r\n \t"))
	if strings.HasPrefix(line, "ref:") {
		r := plumbing.NewReferenceFromStrings(name, line)
		if r.Type() == plumbing.SymbolicReference && !strings.HasPrefix(r.Target().String(), " ") {
			return pack.ID{}, r.Target().String(), nil
		}
		return pack.ID{}, strings.TrimSpace(line[len("ref:"):]), nil
	}
	if id, err = pack.ParseID(line); err != nil || id.IsZero() {
		return pack.ID{}, "", &pack.CorruptError{File: name, Off: 0, Reason: fmt.Sprintf("%.50q is no id", line)}
	}
	return id, "", nil
}

// ref returns where a ref stands; the zero id if there is none.
func (d *Dir) ref(name string) (pack.ID, error) {
	id, ok, err := d.looseRef(name)
	if ok || err != nil {
		return id, err
	}
	id, _, err = d.packedRef(name)
	return id, err
}

// packedRef looks one ref up in packed-refs.
func (d *Dir) packedRef(name string) (pack.ID, bool, error) {
	list, err := d.packedRefs()
	if err != nil {
		return pack.ID{}, false, err
	}
	for _, r := range list {
		if r.Name == name {
			return r.ID, true, nil
		}
	}
	return pack.ID{}, false, nil
}

// packedRefs reads the packed refs; there may be no such file.
func (d *Dir) packedRefs() ([]Ref, error) {
	text, err := d.fs.ReadFile(d.name(filePackedRefs), maxPackedRefs)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var list []Ref
	err = eachPackedRef(text, func(r Ref, _, _ int) error {
		list = append(list, r)
		return nil
	})
	return list, err
}

// eachPackedRef calls fn for each line of packed-refs that names a ref, with
// the place of the line and of what belongs to it:
//
//	# pack-refs with: peeled fully-peeled sorted
//	<id> refs/heads/etc
//	<id> refs/tags/v1
//	^<id of what the tag object above points to>
//
// Names that are no refs, which git writes for none, are passed over.
func eachPackedRef(text []byte, fn func(r Ref, start, end int) error) error {
	bad := func(at int, why string) error {
		return &pack.CorruptError{File: filePackedRefs, Off: int64(at), Reason: why}
	}
	for at := 0; at < len(text); {
		start := at
		line, rest, found := bytes.Cut(text[at:], []byte("\n"))
		if !found {
			return bad(at, "last line is cut off")
		}
		at = len(text) - len(rest)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if line[0] == '^' {
			return bad(start, "peeled id without a ref")
		}
		hex, name, ok := bytes.Cut(bytes.TrimRight(line, "\r"), []byte(" "))
		id, err := pack.ParseID(string(hex))
		if !ok || err != nil || id.IsZero() {
			return bad(start, "no id and name")
		}
		if at < len(text) && text[at] == '^' {
			peeled, rest, found := bytes.Cut(text[at:], []byte("\n"))
			if _, err := pack.ParseID(string(bytes.TrimRight(peeled[1:], "\r"))); err != nil || !found {
				return bad(at, "bad peeled id")
			}
			at = len(text) - len(rest)
		}
		if CheckRefName(string(name)) != nil {
			continue
		}
		if err := fn(Ref{string(name), id}, start, at); err != nil {
			return err
		}
	}
	return nil
}

// dropPackedRef returns packed-refs without one ref.
func dropPackedRef(text []byte, name string) ([]byte, error) {
	out := make([]byte, 0, len(text))
	kept := 0
	err := eachPackedRef(text, func(r Ref, start, end int) error {
		if r.Name == name {
			out = append(out, text[kept:start]...)
			kept = end
		}
		return nil
	})
	return append(out, text[kept:]...), err
}
