package job

import (
	"context"
	"time"

	"github.com/kedgebackup/kedge/repo"
)

// objectLimit is how many objects a repository is good for.
const objectLimit = 1_000_000_000

// The size of an idx is that of its header and checksums, and 28 bytes for each object.
const idxHead, idxObject = 1072, 28

// size measures a repository, and looks since when its packs were read.
func (w *Watch) size(ctx context.Context, p *repo.Packs, r *RepoStatus) error {
	packs, err := p.PackList(ctx)
	if err != nil {
		return err
	}
	for _, i := range packs {
		r.Bytes += i.Size
		r.Objects += max(0, (i.IdxSize-idxHead)/idxObject)
	}
	r.Packs = len(packs)
	limit := w.ObjectLimit
	if limit == 0 {
		limit = objectLimit
	}
	if r.Objects > limit/2 {
		r.problem(Full, "", "%d objects; a repository is good for %d: new saves should go to another", r.Objects, limit)
	}
	if quota := w.Server.QuotaBytes(); quota > 0 && r.Bytes > quota/10*9 {
		r.problem(Full, "", "%s of the quota's %s are taken", bytesText(r.Bytes), bytesText(quota))
	}
	if !w.Tasks {
		return nil
	}
	return w.shares(p, packs, r)
}

// shares looks which packs fsck has read.
func (w *Watch) shares(p *repo.Packs, packs []repo.PackInfo, r *RepoStatus) error {
	shares, err := readShares(w.FS, w.Server.Root, r.Repo)
	if err != nil || len(shares) == 0 {
		return err
	}
	bad := 0
	oldest := w.Now.Unix()
	for _, i := range packs {
		s, known := shares[i.Name]
		if !known {
			at, err := p.PackTime(i.Name)
			if err != nil {
				return err
			}
			s = packRead{at: at.Unix()}
		}
		if s.bad {
			bad++
		}
		oldest = min(oldest, s.at)
	}
	r.Read = time.Unix(oldest, 0).In(w.Now.Location())
	if bad > 0 {
		r.problem(Damaged, "", "fsck found damage in %d packs; kedge fsck says which saves are affected", bad)
	}
	const slack = 3 * 24 * time.Hour
	if age := w.Now.Sub(r.Read); age > time.Duration(w.Server.Fsck.Every)+slack {
		r.problem(Overdue, "", "fsck: there are packs that were not read for %s; the config says %s", Span(age), Span(time.Duration(w.Server.Fsck.Every)))
	}
	return nil
}

// taskGrace is how long after its day a task may be done.
const taskGrace = time.Duration(deadMan)

// tasks looks when each task was done. A repository is expected to be done from the day
// after its first receipt on.
func (w *Watch) tasks(r *RepoStatus, notes map[string]TaskNote, since time.Time) {
	r.Tasks = make(map[string]time.Time)
	for _, task := range Tasks() {
		if !w.Server.Has(task) {
			continue
		}
		n := notes[task]
		if !n.Done.IsZero() {
			r.Tasks[task] = n.Done
		}
		if n.Error != "" {
			r.problem(Failed, "", "%s, %s ago: %s", task, Span(w.Now.Sub(n.Tried)), n.Error)
		}
		when, err := w.Server.When(task)
		if err != nil {
			continue // the config was checked
		}
		day := when.Last(w.Now.Add(-taskGrace))
		switch {
		case !n.Done.Before(day) || since.Unix() == 0 || !since.Before(day):
		case n.Done.IsZero():
			r.problem(Overdue, "", "%s was never done", task)
		default:
			r.problem(Overdue, "", "%s was last done %s ago", task, Span(w.Now.Sub(n.Done)))
		}
	}
}

// own looks at what is remembered of the mirror of the server's own things.
func (w *Watch) own(s *Status, notes map[string]TaskNote) {
	if n := notes[TaskMirror]; w.Tasks && n.Error != "" {
		s.Problems = append(s.Problems, Problem{Failed, ownDir, "", "mirror, " + Span(w.Now.Sub(n.Tried)) + " ago: " + n.Error})
	}
}
