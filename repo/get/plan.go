package get

import (
	"errors"
	"slices"
	"strings"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// kind is what the source of an order is.
type kind uint8

const (
	aBranch kind = iota
	aSave        // by its name below a branch
	aCommit      // of a tag, or by its id
	aTree
	aFile
)

var kindWords = [...]string{"a branch", "a save", "a commit", "a tree", "a file"}

// plan finds the source of an order, and looks whether its destination fits.
// planned are the refs that orders before it make.
func (r *run) plan(o Order, planned map[string]bool) (step, error) {
	s := step{Order: o}
	bad := func(reason string) (step, error) { return s, &OrderError{o, reason} }
	if o.IgnoreMissing && o.Method != Unnamed {
		return bad("only --unnamed goes with --ignore-missing")
	}
	id, k, implied, err := r.find(o)
	if err != nil {
		return s, err
	}
	s.id, s.commit, s.file = id, k <= aCommit, k == aFile
	switch {
	case o.Method == Unnamed:
		return s, nil
	case (o.Method == Pick || o.Method == ForcePick) && k == aBranch:
		return bad("a branch is many commits: pick takes one, NAME/SAVE")
	case (o.Method == Pick || o.Method == ForcePick || o.Method == FastForward) && !s.commit:
		return bad(kindWords[k] + " is no commit: it can be put on a branch with --append")
	case o.Method == Append && k == aFile:
		return bad("a file is no tree: --append takes a branch, a save or a directory")
	}
	to := o.Dest
	if to == "" {
		if to = implied; to == "" || o.Method == Replace && k == aSave {
			return bad("it is not clear where to: say --" + o.Method.String() + ": " + o.Ref + " DEST")
		}
	}
	s.ref = destination(to)
	if reason := r.fits(&s, planned); reason != "" {
		return bad(reason)
	}
	planned[s.ref] = true
	return s, nil
}

// fits says what is wrong with the destination of a step, if anything is.
func (r *run) fits(s *step, planned map[string]bool) string {
	tag := strings.HasPrefix(s.ref, tags)
	there := planned[s.ref] || !r.tips[s.ref].IsZero()
	if err := repo.CheckRefName(s.ref); err != nil {
		return err.Error()
	}
	for ref := range r.tips {
		if strings.HasPrefix(s.ref, ref+"/") {
			return "the destination is below " + ref + ", and must be the name of a branch or .tag/NAME"
		}
	}
	switch {
	case tag && (s.Method == FastForward || s.Method == Append):
		return "the destination is a tag, not a branch"
	case tag && there && (s.Method == NewTag || s.Method == Pick):
		return "the tag exists; --replace puts another one in its place"
	case !tag && s.Method == NewTag:
		return "the destination is no tag: write .tag/NAME"
	case !tag && s.Method == Replace && !s.commit:
		return "only a commit can take the place of a branch"
	}
	return ""
}

// find resolves the source of an order. implied is the destination that it has
// where none is said.
func (r *run) find(o Order) (id pack.ID, k kind, implied string, err error) {
	if rev, ok := strings.CutPrefix(o.Ref, "git:"); ok {
		if o.Method != Unnamed {
			return id, k, "", &OrderError{o, "only --unnamed takes git:REV"}
		}
		id, err = r.revision(rev)
		return id, aCommit, "", err
	}
	chain, err := r.source.Resolve(r.ctx, o.Ref, repo.ResolveOptions{Follow: true})
	if err != nil {
		return id, k, "", err
	}
	n := chain[len(chain)-1]
	tagged := len(chain) > 1 && chain[1].Kind == repo.NodeTags
	switch {
	case n.Kind == repo.NodeName:
		return n.Commit, aBranch, n.Name, nil
	case n.Kind == repo.NodeSave && tagged && len(chain) == 3:
		return n.Commit, aCommit, ".tag/" + n.Name, nil
	case n.Kind == repo.NodeSave && chain[1].Kind == repo.NodeName:
		return n.Commit, aSave, chain[1].Name, nil
	case n.Kind == repo.NodeSave:
		return n.Commit, aCommit, "", nil
	case n.Kind != repo.NodeItem:
		return id, k, "", &OrderError{o, "that is the whole repository; name what is to be copied"}
	}
	if tagged && len(chain) == 3 {
		implied = ".tag/" + n.Name
	}
	if n.IsDir() {
		return n.ID, aTree, implied, nil
	}
	return n.ID, aFile, implied, nil
}

// revision returns the object that git:REV means: an id, or the name of a ref.
func (r *run) revision(rev string) (pack.ID, error) {
	if id, err := pack.ParseID(rev); err == nil {
		return id, nil
	}
	refs, err := r.o.Source.Refs(r.ctx, "refs/")
	if err != nil && !errors.As(err, new(*pack.CorruptError)) {
		return pack.ID{}, err
	}
	for _, name := range []string{rev, "refs/" + rev, tags + rev, heads + rev} { // git's order
		i := slices.IndexFunc(refs, func(ref repo.Ref) bool { return ref.Name == name })
		if i >= 0 {
			return refs[i].ID, nil
		}
	}
	return pack.ID{}, &repo.NotFoundError{What: "commit", Name: rev}
}
