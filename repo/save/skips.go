package save

import (
	"context"

	"github.com/kedgebackup/kedge/chunk"
	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// A skip is an unchanged directory: records first to dir-1 lie below it.
type skip struct {
	first, dir uint64
	id         pack.ID
	rec        index.Record // only in skips.whole
}

// skips are the topmost directories that did not change and that the repository
// still has with everything below them.
type skips struct {
	whole  map[string]skip // roots that are unchanged altogether, by path
	ranges []skip          // in order, not inside one another
	next   int
}

// at returns the unchanged directory that begins at an ordinal. Ordinals must ascend.
func (s *skips) at(ord uint64) (skip, bool) {
	for s.next < len(s.ranges) && s.ranges[s.next].first < ord {
		s.next++
	}
	if s.next < len(s.ranges) && s.ranges[s.next].first == ord {
		return s.ranges[s.next], true
	}
	return skip{}, false
}

// A survey is what one pass over the index finds out before anything is read.
type survey struct {
	skips        skips
	links        map[inodeKey]*inode
	files, bytes int64 // that have to be read
}

// look makes the survey. On a night without changes it reads one record a root
// and asks the repository one question.
func look(ctx context.Context, o *Options, sess repo.Session, p *plan, sp *chunk.Splitter) (*survey, error) {
	s := &survey{links: map[inodeKey]*inode{}}
	s.skips.whole = map[string]skip{}
	if err := s.lookAtRoots(ctx, o, sess, p, sp); err != nil {
		return nil, err
	}
	if len(s.skips.whole) == len(p.roots) {
		return s, nil
	}
	// Sets of hard links span roots: all of the index is read for them.
	it := o.Index.Records("/")
	for it.Next() {
		r := it.Record()
		if r.Flags&index.Exists == 0 {
			continue
		}
		s.noteLink(r)
		root := p.root(r.Path)
		if root == nil {
			continue
		}
		if _, ok := s.skips.whole[root.src]; !ok {
			s.note(p, root, it.Ordinal(), r, sp)
		}
	}
	if err := it.Err(); err != nil {
		return nil, err
	}
	return s, s.confirm(ctx, sess)
}

// lookAtRoots finds the records of the roots, which must be there, and takes
// those that are unchanged and present.
func (s *survey) lookAtRoots(ctx context.Context, o *Options, sess repo.Session, p *plan, sp *chunk.Splitter) error {
	var ids []pack.ID
	var found []*source
	for _, root := range p.roots {
		rec, ord, ok, err := o.Index.Lookup(root.src)
		if err != nil {
			return err
		}
		if !ok || rec.Flags&index.Exists == 0 {
			return &NotIndexedError{root.src}
		}
		if isDir(rec.Stat.Mode) && usable(&rec, sp) && p.pure(root, root.src) {
			s.skips.whole[root.src] = skip{first: ord - rec.Below, dir: ord, id: rec.ID, rec: rec}
			ids = append(ids, rec.ID)
			found = append(found, root)
		}
	}
	missing, err := sess.Missing(ctx, nil, ids)
	if err != nil {
		return err
	}
	lost := map[pack.ID]bool{}
	for _, id := range missing {
		lost[id] = true
	}
	for _, root := range found {
		if lost[s.skips.whole[root.src].id] {
			delete(s.skips.whole, root.src)
		}
	}
	return nil
}

// noteLink counts the members of a set of hard links; the first one names it.
func (s *survey) noteLink(r *index.Record) {
	if r.Stat.Nlink < 2 || isDir(r.Stat.Mode) {
		return
	}
	k := inodeKey{r.Stat.Dev, r.Stat.Ino}
	if s.links[k] == nil {
		s.links[k] = &inode{path: string([]byte(r.Path))}
	}
}

// note adds up what is to be read and collects unchanged directories. Records
// come children first, so a larger one swallows those inside it.
func (s *survey) note(p *plan, root *source, ord uint64, r *index.Record, sp *chunk.Splitter) {
	if isDir(r.Stat.Mode) {
		if usable(r, sp) && p.pure(p.find(root, r.Path), r.Path) {
			first := ord - r.Below
			n := len(s.skips.ranges)
			for n > 0 && s.skips.ranges[n-1].first >= first {
				n--
			}
			s.skips.ranges = append(s.skips.ranges[:n], skip{first: first, dir: ord, id: r.ID})
		}
		return
	}
	if !usable(r, sp) && isRegular(r.Stat.Mode) {
		s.files++
		s.bytes += r.Stat.Size
	}
}

// confirm drops the directories that the repository does not have: they are
// built again, from their files where it has those.
func (s *survey) confirm(ctx context.Context, sess repo.Session) error {
	ids := make([]pack.ID, len(s.skips.ranges))
	for i := range ids {
		ids[i] = s.skips.ranges[i].id
	}
	missing, err := sess.Missing(ctx, nil, ids)
	if err != nil || len(missing) == 0 {
		return err
	}
	lost := make(map[pack.ID]bool, len(missing))
	for _, id := range missing {
		lost[id] = true
	}
	kept := s.skips.ranges[:0]
	for _, r := range s.skips.ranges {
		if !lost[r.id] {
			kept = append(kept, r)
		}
	}
	s.skips.ranges = kept
	return nil
}
