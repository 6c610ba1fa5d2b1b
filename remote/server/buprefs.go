package server

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
)

// seenRefs returns the refs that the client may know of: all, or if it may not read
// those that it may move. A ref that is broken is passed over, and the operator told.
func (s *session) seenRefs(ctx context.Context, prefix string) ([]repo.Ref, error) {
	p, err := s.opened(ctx)
	if err != nil {
		return nil, err
	}
	refs, err := p.Refs(ctx, prefix)
	if errors.As(err, new(*pack.CorruptError)) {
		s.o.Log("%s: %v", s.name, err)
		err = nil
	}
	if err != nil || s.rights&wire.MayRead != 0 {
		return refs, err
	}
	kept := refs[:0]
	for _, r := range refs {
		if s.grant.Allowed(r.Name) == nil {
			kept = append(kept, r)
		}
	}
	return kept, nil
}

// matches reports whether a ref is meant by a pattern: some of its last components.
func matches(ref, pattern string) bool {
	head, ok := strings.CutSuffix(ref, pattern)
	return ok && (head == "" || strings.HasSuffix(head, "/"))
}

// readRef tells where a ref stands. If there is none it tells nothing, not even an empty
// line: old clients know that form only.
func readRef(ctx context.Context, s *session, name string) error {
	if name == "" {
		return errors.New("read-ref without a name")
	}
	refs, err := s.seenRefs(ctx, "refs/heads/")
	if err != nil {
		return err
	}
	var found []repo.Ref
	for _, r := range refs {
		if r.Name == name || r.Name == "refs/heads/"+name {
			found = []repo.Ref{r}
			break
		}
		if matches(r.Name, name) {
			found = append(found, r)
		}
	}
	if len(found) > 1 {
		return fmt.Errorf("%.200q may be %s or %s", name, found[0].Name, found[1].Name)
	}
	for _, r := range found {
		_, _ = fmt.Fprintf(s.out, "%v\n", r.ID)
	}
	return nil
}

// listRefs tells the refs that match any of some patterns, all if there are none.
func listRefs(ctx context.Context, s *session, arg string) error {
	heads, tags, ok := strings.Cut(arg, " ")
	isFlag := func(f string) bool { return f == "0" || f == "1" }
	if !ok || !isFlag(heads) || !isFlag(tags) {
		return fmt.Errorf("refs %.20q: want two of 0 and 1", arg)
	}
	patterns, err := s.readLines()
	if err != nil {
		return err
	}
	var list []repo.Ref
	for _, kind := range []struct {
		prefix string
		wanted bool
	}{
		{"refs/heads/", heads == "1"}, {"refs/tags/", tags == "1"}, {"refs/", heads == "0" && tags == "0"},
	} {
		if !kind.wanted {
			continue
		}
		refs, err := s.seenRefs(ctx, kind.prefix)
		if err != nil {
			return err
		}
		list = append(list, refs...)
	}
	for _, r := range list {
		wanted := len(patterns) == 0
		for _, pattern := range patterns {
			wanted = wanted || matches(r.Name, pattern)
		}
		if wanted {
			_, _ = fmt.Fprintf(s.out, "%v %s\n", r.ID, r.Name)
		}
	}
	s.out.WriteByte('\n')
	return nil
}

// updateRef moves a ref from where the client says that it is, and fails if it is not
// there. To zeros it is deleted, if the client may.
func updateRef(ctx context.Context, s *session, ref string) error {
	m := repo.Move{Ref: ref}
	for _, id := range []*pack.ID{&m.New, &m.Old} {
		line, err := s.line()
		if err != nil {
			return midway(err)
		}
		if line == "" && id == &m.Old {
			break
		}
		if *id, err = pack.ParseID(line); err != nil {
			return err
		}
	}
	if !strings.HasPrefix(ref, "refs/heads/") && !strings.HasPrefix(ref, "refs/tags/") {
		return &repo.RefusedError{Reason: fmt.Sprintf("%.200q is neither below refs/heads nor below refs/tags", ref)}
	}
	_, err := s.setRef(ctx, m)
	return err
}

// revList answers as git rev-list does for one revision, with or without a format.
func revList(ctx context.Context, s *session, _ string) error {
	count, err := s.line()
	if err != nil {
		return midway(err)
	}
	format, err := s.line()
	if err != nil {
		return midway(err)
	}
	revs, err := s.readLines()
	if err != nil {
		return err
	}
	if count != "" || len(revs) != 1 {
		return fmt.Errorf("rev-list of %d revisions, count %.20q: want one, without a count", len(revs), count)
	}
	if err := checkFormat(format); err != nil {
		return err
	}
	p, err := s.opened(ctx)
	if err != nil {
		return err
	}
	tip, err := s.revision(ctx, revs[0]+"^{commit}")
	if errors.As(err, new(*repo.NotFoundError)) {
		return replyError{err}
	} else if err != nil {
		return err
	}
	var line []byte
	err = repo.WalkCommits(ctx, p, tip, func(id pack.ID, c *repo.Commit) error {
		line = line[:0]
		if format != "" {
			line = append(line, "commit "...)
		}
		line = append(id.AppendHex(line), '\n')
		if format != "" {
			line = append(appendFormat(line, format, id, c), '\n')
		}
		_, err := s.out.Write(line)
		return err
	})
	s.out.WriteByte('\n')
	return err
}

// checkFormat refuses a format with anything in it that appendFormat does not know.
func checkFormat(format string) error {
	for i := strings.IndexByte(format, '%'); i >= 0; i = strings.IndexByte(format, '%') {
		n := 2
		if strings.HasPrefix(format[i:], "%a") || strings.HasPrefix(format[i:], "%c") {
			n = 3
		}
		if i+n > len(format) {
			return fmt.Errorf("format ends in %q", format[i:])
		}
		switch format[i:][:n] {
		case "%H", "%T", "%P", "%at", "%ct", "%%":
		default:
			return fmt.Errorf("format with %q, which is not supported", format[i:][:n])
		}
		format = format[i+n:]
	}
	return nil
}

// appendFormat appends what a format makes of a commit: %H its id, %T that of its tree,
// %P those of its parents, %at and %ct seconds since the epoch.
func appendFormat(dst []byte, format string, id pack.ID, c *repo.Commit) []byte {
	for {
		plain, rest, ok := strings.Cut(format, "%")
		dst = append(dst, plain...)
		if !ok {
			return dst
		}
		switch rest[0] {
		case 'H':
			dst = id.AppendHex(dst)
		case 'T':
			dst = c.Tree.AppendHex(dst)
		case 'P':
			for i, parent := range c.Parents {
				if i > 0 {
					dst = append(dst, ' ')
				}
				dst = parent.AppendHex(dst)
			}
		case 'a':
			dst, rest = strconv.AppendInt(dst, c.Author.When.Unix(), 10), rest[1:]
		case 'c':
			dst, rest = strconv.AppendInt(dst, c.Committer.When.Unix(), 10), rest[1:]
		default:
			dst = append(dst, '%')
		}
		format = rest[1:]
	}
}
