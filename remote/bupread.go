package remote

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// A request of cat-batch asks for so many objects that about bupBytes come, as far as
// one can tell from those before.
const (
	bupBytes = 4 << 20
	bupMost  = 512
	bupFirst = 32
)

// bupObject is an object as it came, not yet hashed.
type bupObject struct {
	t    pack.Type
	body []byte
	none bool
}

// Get calls fn once for each id, in their order. The line is free while fn runs, so it
// may ask for more.
func (b *bupRepo) Get(ctx context.Context, ids []pack.ID, fn func(i int, t pack.Type, body []byte) error) error {
	hasher := pack.NewHasher()
	for at := 0; at < len(ids); {
		var got []bupObject
		err := b.do(ctx, func() (err error) {
			got, err = b.catBatch(ids[at:min(len(ids), at+b.atOnce())])
			return err
		})
		if err != nil {
			return err
		}
		for k, o := range got {
			id := ids[at+k]
			if o.none {
				return &repo.MissingError{ID: id}
			}
			if sum, err := hasher.Sum(o.t, o.body); err != nil {
				return err
			} else if sum != id {
				return &pack.CorruptError{File: "object " + id.String(), Off: -1, Reason: fmt.Sprintf("as it came it is %v %v", o.t, sum)}
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := fn(at+k, o.t, o.body); err != nil {
				return err
			}
			got[k].body = nil
		}
		at += len(got)
	}
	return nil
}

// atOnce returns how many objects are worth asking for in one request.
func (b *bupRepo) atOnce() int {
	if b.mean == 0 {
		return bupFirst
	}
	return max(1, min(bupBytes/b.mean, bupMost))
}

// catBatch asks for objects and reads them.
func (b *bupRepo) catBatch(ids []pack.ID) ([]bupObject, error) {
	request := []byte("cat-batch\n")
	for _, id := range ids {
		request = append(id.AppendHex(request), '\n')
	}
	if err := b.begin(string(append(request, '\n'))); err != nil {
		return nil, err
	}
	list := make([]bupObject, len(ids))
	bytes := 0
	for i := range list {
		if err := b.object(&list[i], ids[i]); err != nil {
			return nil, err
		}
		bytes += len(list[i].body)
	}
	b.mean = max(1, bytes/len(ids))
	return list, b.end()
}

// object reads one object: "missing", or "ID TYPE SIZE" and the body.
func (b *bupRepo) object(o *bupObject, id pack.ID) error {
	head, err := b.line()
	if err != nil {
		return err
	}
	if o.none = head == "missing"; o.none {
		return nil
	}
	bad := func(why string) error {
		return b.g.lost(fmt.Errorf("%w: object %v comes as %.100q: %s", wire.ErrProtocol, id, head, why))
	}
	f := strings.Fields(head)
	if len(f) != 3 || f[0] != id.String() {
		return bad("not what was asked for")
	}
	types := map[string]pack.Type{"commit": pack.Commit, "tree": pack.Tree, "blob": pack.Blob, "tag": pack.Tag}
	o.t = types[f[1]]
	size, err := strconv.ParseInt(f[2], 10, 64)
	if o.t == 0 || err != nil || size < 0 {
		return bad("no type and size")
	}
	limit := int64(maxBlob)
	if o.t == pack.Tree {
		limit = maxTree
	}
	if size > limit {
		return bad("too large")
	}
	o.body, err = b.read(size)
	return err
}

// Refs returns the refs whose full names begin with prefix.
func (b *bupRepo) Refs(ctx context.Context, prefix string) (refs []repo.Ref, err error) {
	kind := "refs 0 0\n\n"
	switch {
	case strings.HasPrefix(prefix, "refs/heads/"):
		kind = "refs 1 0\n\n"
	case strings.HasPrefix(prefix, "refs/tags/"):
		kind = "refs 0 1\n\n"
	}
	err = b.do(ctx, func() (err error) {
		refs, err = b.refs(kind, func(name string) bool { return strings.HasPrefix(name, prefix) })
		return err
	})
	return refs, err
}

// refs asks for refs, and returns those that are wanted, sorted by name.
func (b *bupRepo) refs(request string, want func(name string) bool) (refs []repo.Ref, err error) {
	if err := b.begin(request); err != nil {
		return nil, err
	}
	err = b.lines(func(l string) error {
		hex, name, _ := strings.Cut(l, " ")
		id, err := pack.ParseID(hex)
		if err != nil {
			return fmt.Errorf("%w: %.100q is no ref", wire.ErrProtocol, l)
		}
		if want(name) && repo.CheckRefName(name) == nil {
			refs = append(refs, repo.Ref{Name: name, ID: id})
		}
		return nil
	})
	slices.SortFunc(refs, func(a, b repo.Ref) int { return strings.Compare(a.Name, b.Name) })
	return refs, err
}

// bupLines is the most lines that are taken of one answer.
const bupLines = 10_000_000

// lines calls fn for the lines of an answer up to an empty one, and reads its end.
func (b *bupRepo) lines(fn func(string) error) error {
	for range bupLines {
		l, err := b.line()
		if err != nil {
			return err
		}
		if l == "" {
			return b.end()
		}
		if err := fn(l); err != nil {
			return b.g.lost(err)
		}
	}
	return b.g.lost(fmt.Errorf("%w: an answer of more than %d lines", wire.ErrProtocol, bupLines))
}

// history is the commits of a branch without merges, the newest first.
type history struct {
	ids  []pack.ID
	next pack.ID // the parent of the last one
	fork bool    // there is a merge, or an order of its own
}

// Commits calls fn for a commit and all that it reaches; see repo.CommitWalker. Rev-list
// tells the ids, and their bodies come many at a time; where there are merges, which only
// git makes, parents are followed one by one.
func (b *bupRepo) Commits(ctx context.Context, tip pack.ID, fn func(id pack.ID, body []byte) error) error {
	h := history{next: tip}
	if b.g.offers("rev-list") {
		err := b.do(ctx, func() error { return b.revList(tip, &h) })
		if err != nil {
			return err
		}
	}
	if h.fork || !h.next.IsZero() || len(h.ids) == 0 {
		type plain struct{ repo.Repo }
		return repo.WalkCommits(ctx, plain{b}, tip, func(id pack.ID, c *repo.Commit) error { return fn(id, c.Append(nil)) })
	}
	return b.Get(ctx, h.ids, func(i int, t pack.Type, body []byte) error {
		if t != pack.Commit {
			return &pack.CorruptError{File: "object " + h.ids[i].String(), Off: -1, Reason: fmt.Sprintf("is a %v and not a commit", t)}
		}
		return fn(h.ids[i], body)
	})
}

// revList asks for the commits below tip, each answered with "commit ID" and the ids of
// its tree and its parents.
func (b *bupRepo) revList(tip pack.ID, h *history) error {
	// A server that is asked for what is not there ends the connection.
	there, err := b.catBatch([]pack.ID{tip})
	if err != nil {
		return err
	}
	if there[0].none {
		return &repo.MissingError{ID: tip}
	} else if there[0].t != pack.Commit {
		return nil
	}
	if err := b.begin("rev-list\n\n%T %P\n" + tip.String() + "\n\n"); err != nil {
		return err
	}
	return b.lines(h.add)
}

// add takes a line of rev-list.
func (h *history) add(l string) error {
	if hex, ok := strings.CutPrefix(l, "commit "); ok {
		id, err := pack.ParseID(hex)
		h.fork = h.fork || id != h.next
		h.ids, h.next = append(h.ids, id), pack.ID{}
		return err
	}
	_, parents, _ := strings.Cut(l, " ")
	if parents == "" {
		return nil
	}
	first, more, _ := strings.Cut(parents, " ")
	h.fork = h.fork || more != ""
	id, err := pack.ParseID(first)
	h.next = id
	return err
}
