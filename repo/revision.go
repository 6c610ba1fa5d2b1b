package repo

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/kedgebackup/kedge/pack"
)

// maxSteps is how many parents a revision may go back, and how many tag objects may
// point at one another.
const maxSteps = 1 << 20

// Revision finds the object that a revision names, by git's rules:
//
//	ID            forty digits, whether there is such an object or not
//	REF           REF, refs/REF, refs/tags/REF, refs/heads/REF, whichever comes first
//	ABBREV        four or more digits with which one id begins
//	REV^ REV^n    the first or the nth parent of a commit; REV^0 the commit itself
//	REV~n         its nth ancestor, always by the first parent
//	REV^{TYPE}    what it is or leads to: commit, tree, blob, tag, object
//	REV^{}        what a tag points at
//	REV:PATH      an entry of the tree, by names as they stand in trees
//
// ABBREV is known in a directory only. All else, such as @{…}, ^{/…} and HEAD, which means
// nothing in a repository of saves, is a *NotFoundError, and so is what is not there.
func Revision(ctx context.Context, r Repo, rev string) (pack.ID, error) {
	f := revisions{ctx: ctx, r: r, rev: rev}
	cut := strings.IndexAny(rev, "^~:")
	if cut < 0 {
		cut = len(rev)
	}
	id, err := f.name(rev[:cut])
	for rest := rev[cut:]; err == nil && rest != ""; {
		id, rest, err = f.step(id, rest)
	}
	return id, err
}

// Peel goes from an object to the first one of a type, by git's words: from a tag to what
// it points at, from a commit to its tree. The type "" is any but a tag.
func Peel(ctx context.Context, r Repo, id pack.ID, word string) (pack.ID, error) {
	f := revisions{ctx: ctx, r: r, rev: id.String()}
	return f.peel(id, word)
}

// abbreviating is what a Repo implements that can find an id by how it begins.
type abbreviating interface {
	Abbreviated(ctx context.Context, hex string) (pack.ID, error)
}

// revisions finds one object.
type revisions struct {
	ctx context.Context
	r   Repo
	rev string
}

func (r *revisions) none() error { return &NotFoundError{What: "object", Name: r.rev} }

// name finds what an id, a ref or an abbreviation names.
func (r *revisions) name(name string) (pack.ID, error) {
	if id, err := pack.ParseID(name); err == nil {
		return id, nil
	}
	for _, prefix := range []string{"", "refs/", "refs/tags/", "refs/heads/"} {
		full := prefix + name
		if CheckRefName(full) != nil {
			continue
		}
		refs, err := r.r.Refs(r.ctx, full)
		for _, ref := range refs {
			if ref.Name == full {
				return ref.ID, nil
			}
		}
		if err != nil && !errors.As(err, new(*pack.CorruptError)) {
			return pack.ID{}, err
		}
	}
	if a, ok := r.r.(abbreviating); ok {
		if id, err := a.Abbreviated(r.ctx, name); err != nil || !id.IsZero() {
			return id, err
		}
	}
	return pack.ID{}, r.none()
}

// step takes what stands at the front of rest.
func (r *revisions) step(id pack.ID, rest string) (pack.ID, string, error) {
	if path, ok := strings.CutPrefix(rest, ":"); ok {
		id, err := r.path(id, path)
		return id, "", err
	}
	if word, ok := strings.CutPrefix(rest, "^{"); ok {
		word, rest, ok = strings.Cut(word, "}")
		if !ok {
			return id, "", r.none()
		}
		id, err := r.peel(id, word)
		return id, rest, err
	}
	sign, digits := rest[0], 1
	for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
		digits++
	}
	n := 1
	if digits > 1 {
		var err error
		if n, err = strconv.Atoi(rest[1:digits]); err != nil || n > maxSteps {
			return id, "", r.none()
		}
	}
	rest = rest[digits:]
	if sign != '^' && sign != '~' || rest != "" && strings.IndexByte("^~:", rest[0]) < 0 {
		return id, "", r.none()
	}
	which, times := 1, n
	if sign == '^' {
		which, times = n, 1
	}
	id, err := r.peel(id, "commit")
	for ; err == nil && times > 0 && which > 0; times-- {
		id, err = r.parent(id, which)
	}
	return id, rest, err
}

// get reads an object that is small: anything but a blob. Of a blob it tells the type.
func (r *revisions) get(id pack.ID, fn func(t pack.Type, body []byte) error) error {
	err := r.r.Get(r.ctx, []pack.ID{id}, func(_ int, t pack.Type, body []byte) error { return fn(t, body) })
	if errors.As(err, new(*MissingError)) {
		return r.none()
	}
	return err
}

func (r *revisions) parent(id pack.ID, n int) (parent pack.ID, err error) {
	err = r.get(id, func(_ pack.Type, body []byte) error {
		c, err := ParseCommit(body)
		if err == nil && n > len(c.Parents) {
			err = r.none()
		}
		if err == nil {
			parent = c.Parents[n-1]
		}
		return err
	})
	return parent, err
}

// peel goes from an object to the first one of a type: from a tag to what it points at,
// from a commit to its tree.
func (r *revisions) peel(id pack.ID, word string) (pack.ID, error) {
	want, ok := map[string]pack.Type{"commit": pack.Commit, "tree": pack.Tree, "blob": pack.Blob, "tag": pack.Tag}[word]
	if !ok && word != "" && word != "object" {
		return id, r.none()
	}
	for range maxSteps {
		var next pack.ID
		err := r.get(id, func(t pack.Type, body []byte) (err error) {
			if t == want || word == "object" || word == "" && t != pack.Tag {
				return nil
			}
			switch {
			case t == pack.Tag:
				next, err = tagTarget(body)
			case t == pack.Commit && want == pack.Tree:
				var c Commit
				c, err = ParseCommit(body)
				next = c.Tree
			default:
				err = r.none()
			}
			return err
		})
		if err != nil || next.IsZero() {
			return id, err
		}
		id = next
	}
	return id, r.none()
}

// tagTarget returns what a tag object points at.
func tagTarget(body []byte) (pack.ID, error) {
	line, _, _ := strings.Cut(string(body[:min(len(body), 64)]), "\n")
	hex, ok := strings.CutPrefix(line, "object ")
	id, err := pack.ParseID(hex)
	if !ok || err != nil {
		return id, &pack.CorruptError{Off: 0, Reason: "tag without an object"}
	}
	return id, nil
}

// path goes down from a tree by names.
func (r *revisions) path(id pack.ID, path string) (pack.ID, error) {
	id, err := r.peel(id, "tree")
	if err != nil || path == "" {
		return id, err
	}
	for part := range strings.SplitSeq(strings.TrimSuffix(path, "/"), "/") {
		found := false
		err := r.get(id, func(t pack.Type, body []byte) error {
			if t != pack.Tree {
				return r.none()
			}
			scan := NewTreeScanner(body)
			for !found && scan.Next() {
				if string(scan.Name) == part {
					id, found = scan.ID, true
				}
			}
			return scan.Err()
		})
		if err == nil && !found {
			err = r.none()
		}
		if err != nil {
			return id, err
		}
	}
	return id, nil
}
