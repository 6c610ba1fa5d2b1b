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
}

// A rootRecord is what the index has of a path to be saved.
type rootRecord struct {
	index.Record
	ord uint64
}

// skips are the topmost directories that did not change and that the repository
// still has with everything below them.
type skips struct {
	whole  map[string]*rootRecord // roots that are unchanged altogether, by path
	ranges []skip                 // in order, not inside one another
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
	o            *Options
	sess         repo.Session
	plan         *plan
	split        *chunk.Splitter
	skips        skips
	links        links
	files, bytes int64  // that have to be read
	large        uint64 // the ordinal behind that of the last file too large to be saved
}

// look makes the survey. On a night without changes it reads one record a root
// and asks the repository one question.
func (s *survey) look(ctx context.Context) error {
	if err := s.lookAtRoots(ctx); err != nil {
		return err
	}
	if len(s.skips.whole) == len(s.plan.roots) {
		return nil
	}
	// Sets of hard links span roots: all of the index is read for them.
	it := s.o.Index.Records("/")
	for it.Next() {
		r := it.Record()
		if it.Ordinal()&0xfff == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if r.Flags&index.Exists == 0 {
			continue
		}
		s.links.note(r)
		root := s.plan.root(r.Path)
		if root == nil {
			continue
		}
		if _, ok := s.skips.whole[root.src]; !ok {
			s.note(root, it.Ordinal(), r)
		}
	}
	if err := it.Err(); err != nil {
		return err
	}
	return s.confirm(ctx)
}

// lookAtRoots takes the roots that are unchanged and present. With a limit on the
// size of files it takes none: an earlier save without it, or with a higher one,
// may have stored files in there that this one is to leave out.
func (s *survey) lookAtRoots(ctx context.Context) error {
	s.skips.whole = map[string]*rootRecord{}
	if s.o.MaxSize > 0 {
		return nil
	}
	var ids []pack.ID
	for _, root := range s.plan.roots {
		rec := s.plan.records[root.src]
		if isDir(rec.Stat.Mode) && usable(&rec.Record, s.split) && s.plan.pure(root, root.src) {
			s.skips.whole[root.src] = rec
			ids = append(ids, rec.ID)
		}
	}
	lost, err := s.lost(ctx, ids)
	if err != nil {
		return err
	}
	for src, rec := range s.skips.whole {
		if lost[rec.ID] {
			delete(s.skips.whole, src)
		}
	}
	return nil
}

// note adds up what is to be read and collects unchanged directories. Records
// come children first, so a larger one swallows those inside it.
func (s *survey) note(root *source, ord uint64, r *index.Record) {
	if isRegular(r.Stat.Mode) && s.o.over(r.Stat.Size) {
		s.large = ord + 1
		return
	}
	if isDir(r.Stat.Mode) {
		first := ord - r.Below
		if first >= s.large && usable(r, s.split) && s.plan.pure(s.plan.find(root, r.Path), r.Path) {
			n := len(s.skips.ranges)
			for n > 0 && s.skips.ranges[n-1].first >= first {
				n--
			}
			s.skips.ranges = append(s.skips.ranges[:n], skip{first: first, dir: ord, id: r.ID})
		}
		return
	}
	if !usable(r, s.split) && isRegular(r.Stat.Mode) {
		s.files++
		s.bytes += r.Stat.Size
	}
}

// confirm drops the directories that the repository does not have: they are
// built again, from their files where it has those.
func (s *survey) confirm(ctx context.Context) error {
	ids := make([]pack.ID, len(s.skips.ranges))
	for i := range ids {
		ids[i] = s.skips.ranges[i].id
	}
	lost, err := s.lost(ctx, ids)
	if err != nil || len(lost) == 0 {
		return err
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

// lost returns those of the ids that the repository does not have.
func (s *survey) lost(ctx context.Context, ids []pack.ID) (map[pack.ID]bool, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	missing, err := s.sess.Missing(ctx, nil, ids)
	lost := make(map[pack.ID]bool, len(missing))
	for _, id := range missing {
		lost[id] = true
	}
	return lost, err
}

// usable reports whether the index vouches for a record's id: whether the
// repository has it is another question.
func usable(r *index.Record, s *chunk.Splitter) bool {
	return r.Flags&index.Valid != 0 && r.Flags&index.Exists != 0 && !r.ID.IsZero() &&
		(r.Chunker == "" || r.Chunker == s.String())
}

// over reports whether a file is too large to be saved.
func (o *Options) over(size int64) bool { return o.MaxSize > 0 && size >= o.MaxSize }
