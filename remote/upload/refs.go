package upload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// shownRef is a ref as the client sees it.
type shownRef struct {
	repo.Ref
	peeled pack.ID // what a tag leads to; zero if it is none
}

const (
	refBatch = 256 // refs that are looked at together
	maxTags  = 10  // tags upon each other
	maxHead  = 4 << 10
)

// offered is what the server can do, but for symref.
var offered = []capability.Capability{
	capability.MultiACKDetailed, capability.NoDone, capability.Sideband64k, capability.ThinPack,
	capability.OFSDelta, capability.IncludeTag, capability.NoProgress,
}

// capabilities returns the text behind the first ref.
func capabilities(head string) (string, error) {
	l := capability.NewList()
	for _, c := range offered {
		if err := l.Add(c); err != nil {
			return "", err
		}
	}
	if head != "" {
		if err := l.Add(capability.SymRef, "HEAD:"+head); err != nil {
			return "", err
		}
	}
	err := errors.Join(l.Add(capability.ObjectFormat, "sha1"), l.Add(capability.Agent, "kedge"))
	return l.String(), err
}

// advertise tells the client what there is. A ref that cannot be read is an error: to
// leave it out would make a mirror drop it.
func (s *session) advertise(ctx context.Context) error {
	refs, err := s.r.Refs(ctx, "refs/")
	if err != nil {
		return err
	}
	for _, r := range refs {
		if s.o.Allowed == nil || s.o.Allowed(r.Name) {
			s.shown = append(s.shown, shownRef{Ref: r})
		}
	}
	symref, err := s.addHead(ctx)
	if err != nil {
		return err
	}
	if err := s.peel(ctx); err != nil {
		return err
	}
	caps, err := capabilities(symref)
	if err != nil {
		return err
	}
	if version(s.o.Protocol) == 1 {
		if err := s.out.EncodeString("version 1\n"); err != nil {
			return err
		}
	}
	if len(s.shown) == 0 {
		if err := s.out.Encodef("%v capabilities^{}\x00%s\n", pack.ID{}, caps); err != nil {
			return err
		}
	}
	for i, r := range s.shown {
		if i == 0 {
			err = s.out.Encodef("%v %s\x00%s\n", r.ID, r.Name, caps)
		} else {
			err = s.out.Encodef("%v %s\n", r.ID, r.Name)
		}
		if err == nil && !r.peeled.IsZero() {
			err = s.out.Encodef("%v %s^{}\n", r.peeled, r.Name)
		}
		if err != nil {
			return err
		}
	}
	if err := s.out.Flush(); err != nil {
		return err
	}
	return s.w.Flush()
}

// addHead puts HEAD in front, if it leads to something, and returns the ref that it is.
func (s *session) addHead(ctx context.Context) (symref string, err error) {
	b, err := s.r.OpenServed(ctx, "HEAD")
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	defer b.Close()
	text, err := io.ReadAll(io.NewSectionReader(b, 0, min(b.Size(), maxHead)))
	if err != nil {
		return "", err
	}
	to, is := strings.CutPrefix(strings.TrimSpace(string(text)), "ref:")
	head := repo.Ref{Name: "HEAD"}
	if is {
		symref = strings.TrimSpace(to)
		i := slices.IndexFunc(s.shown, func(r shownRef) bool { return r.Name == symref })
		if i < 0 {
			return "", nil
		}
		head.ID = s.shown[i].ID
	} else if head.ID, err = pack.ParseID(to); err != nil || s.o.Allowed != nil {
		return "", nil
	}
	s.shown = slices.Insert(s.shown, 0, shownRef{Ref: head})
	return symref, nil
}

// peel finds out what tags lead to.
func (s *session) peel(ctx context.Context) error {
	for from := 0; from < len(s.shown); from += refBatch {
		group := s.shown[from:min(from+refBatch, len(s.shown))]
		if err := s.peelGroup(ctx, group); err == nil {
			continue
		}
		for i := range group { // one of them is to blame
			if err := s.peelGroup(ctx, group[i:i+1]); err != nil {
				return fmt.Errorf("%s: %w", group[i].Name, err)
			}
		}
	}
	return nil
}

func (s *session) peelGroup(ctx context.Context, group []shownRef) error {
	ids, to := make([]pack.ID, len(group)), make([]pack.ID, len(group))
	for i := range group {
		ids[i] = group[i].ID
	}
	step := func(i int, t pack.Type, body []byte) (err error) {
		if t == pack.Tag {
			to[i], err = tagged(body)
		}
		return err
	}
	if err := s.r.Get(ctx, ids, step); err != nil {
		return err
	}
	for i := range group {
		for n := 0; !to[i].IsZero(); n++ {
			if n == maxTags {
				return refused("%s is more than %d tags upon each other", group[i].Name, maxTags)
			}
			group[i].peeled, to[i] = to[i], pack.ID{}
			err := s.r.Get(ctx, []pack.ID{group[i].peeled}, func(_ int, t pack.Type, body []byte) error { return step(i, t, body) })
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// tagged returns what a tag object points to.
func tagged(body []byte) (pack.ID, error) {
	line, _, _ := strings.Cut(string(body), "\n")
	hex, ok := strings.CutPrefix(line, "object ")
	id, err := pack.ParseID(hex)
	if err != nil || !ok {
		return pack.ID{}, &pack.CorruptError{Off: 0, Reason: "tag without an object"}
	}
	return id, nil
}

// shownIDs returns what the client may want, sorted.
func (s *session) shownIDs() []pack.ID {
	var ids []pack.ID
	for _, r := range s.shown {
		ids = append(ids, r.ID)
		if !r.peeled.IsZero() {
			ids = append(ids, r.peeled)
		}
	}
	slices.SortFunc(ids, pack.ID.Compare)
	return ids
}
