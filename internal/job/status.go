package job

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// Watch looks at the repositories of a server, with no agent on clients: what came in stands
// in the receipts, in the server's time and figures. Of the packs it reads the commits of the
// latest saves and a few of their trees, so it takes milliseconds for each repository.
type Watch struct {
	FS     *fsx.FS
	Server *Server // what is expected; its root is looked at
	Tasks  bool    // the server has a config: its tasks are expected, too
	Now    time.Time
	// ObjectLimit is what a repository is good for; 0: 10⁹. At half of it status warns.
	ObjectLimit int64
}

// Status is what is known of a server.
type Status struct {
	Time     time.Time    `json:"time"`
	Root     string       `json:"root,omitempty"`
	Repos    []RepoStatus `json:"repositories"`
	Problems []Problem    `json:"problems"`
}

// RepoStatus is what is known of a repository.
type RepoStatus struct {
	Repo    string               `json:"repository"`
	Bytes   int64                `json:"bytes"` // of packs
	Packs   int                  `json:"packs"`
	Objects int64                `json:"objects"`
	Tasks   map[string]time.Time `json:"tasks,omitempty"` // when each was done last
	// Read is since when every pack was read; zero if that is not remembered.
	Read  time.Time    `json:"read,omitzero"`
	Names []NameStatus `json:"names"`

	problems []Problem
}

// NameStatus is what is known of a NAME.
type NameStatus struct {
	Name       string    `json:"name"`
	Host       string    `json:"host,omitempty"`
	Last       time.Time `json:"last,omitzero"` // its last save, in the server's time
	Age        float64   `json:"age_seconds"`
	Every      float64   `json:"expected_seconds"` // how old the last save may be; 0: for ever
	Size       int64     `json:"size"`
	New        int64     `json:"bytes_new"`
	Files      int64     `json:"files"`
	Seconds    float64   `json:"seconds"`
	Unreadable int64     `json:"unreadable"`
	Saves      int       `json:"saves"` // that came in since there are receipts
	// Trend is by how many percent the last save is larger than those before it were.
	Trend  float64 `json:"trend_percent"`
	Recent []int64 `json:"recent_bytes_new,omitempty"` // of the last two weeks' saves, the oldest first
}

// ProblemKind says what a Problem is.
type ProblemKind string

// The kinds of problems, the worst first.
const (
	Damaged    ProblemKind = "damaged"    // packs or receipts are not as they were written
	Broken     ProblemKind = "broken"     // the repository cannot be read
	Late       ProblemKind = "late"       // no save for longer than expected
	Never      ProblemKind = "never"      // a NAME that is expected has no save
	Deleted    ProblemKind = "deleted"    // a NAME was there, and is no more
	Vanished   ProblemKind = "vanished"   // a directory or stream that was saved is empty or gone
	Shrank     ProblemKind = "shrank"     // much smaller than the saves before
	Grew       ProblemKind = "grew"       // much larger
	Churned    ProblemKind = "churned"    // most of it is new, as if it had been encrypted
	Unreadable ProblemKind = "unreadable" // files could not be read
	Skewed     ProblemKind = "skewed"     // the client's clock is wrong
	Clock      ProblemKind = "clock"      // the server's clock is
	Full       ProblemKind = "full"       // over half of the objects, or nine tenths of the quota
	Failed     ProblemKind = "failed"     // a task of the server failed
	Overdue    ProblemKind = "overdue"    // a task of the server was not done when it should have been
)

// problemKinds lists the kinds of problems, the worst first.
func problemKinds() []ProblemKind {
	return []ProblemKind{Damaged, Broken, Late, Never, Deleted, Vanished, Shrank, Grew, Churned, Unreadable, Skewed, Clock, Full, Failed, Overdue}
}

// Problem is something to look at.
type Problem struct {
	Kind ProblemKind `json:"kind"`
	Repo string      `json:"repository"`
	Name string      `json:"name,omitempty"`
	Text string      `json:"text"`
}

// String says the problem in one line.
func (p Problem) String() string {
	at := p.Repo
	if p.Name != "" {
		at += "/" + p.Name
	}
	return fmt.Sprintf("%s: %s: %s", at, p.Kind, p.Text)
}

// Exit is the exit code of a status: 5 if something is damaged, 1 if a repository cannot be
// read, 3 if there is another problem.
func (s *Status) Exit() int {
	code := exitOK
	for _, p := range s.Problems {
		switch {
		case p.Kind == Damaged:
			return exitDamaged
		case p.Kind == Broken:
			code = exitFailed
		case code == exitOK:
			code = exitPartial
		}
	}
	return code
}

// Look looks at all repositories of the server, or at those of these names.
func (w *Watch) Look(ctx context.Context, names []string) (*Status, error) {
	root := w.Server.Root
	all, err := Repositories(w.FS, root)
	if err == nil {
		names, err = pick(all, names)
	}
	if err != nil {
		return nil, err
	}
	notes, err := ReadNotes(w.FS, root)
	if err != nil {
		return nil, err
	}
	s := &Status{Time: w.Now, Root: root, Repos: make([]RepoStatus, len(names))}
	var wait sync.WaitGroup
	slots := make(chan struct{}, 2*runtime.GOMAXPROCS(0))
	for i, name := range names {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			s.Repos[i] = w.repo(ctx, name, filepath.Join(root, name), notes[name])
		})
	}
	wait.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	w.own(s, notes[ownDir])
	s.collect()
	return s, nil
}

// LookAt looks at one repository, wherever it is.
func (w *Watch) LookAt(ctx context.Context, dir string) (*Status, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	p, err := repo.OpenDir(ctx, dir, repo.DirOptions{FS: w.FS, ReadOnly: true})
	if err != nil {
		return nil, err
	}
	_ = p.Close()
	s := &Status{Time: w.Now, Repos: []RepoStatus{w.repo(ctx, filepath.Base(dir), dir, nil)}}
	s.collect()
	return s, ctx.Err()
}

// collect gathers the problems, the worst first.
func (s *Status) collect() {
	for i := range s.Repos {
		s.Problems = append(s.Problems, s.Repos[i].problems...)
	}
	order := problemKinds()
	slices.SortStableFunc(s.Problems, func(a, b Problem) int { return slices.Index(order, a.Kind) - slices.Index(order, b.Kind) })
}

func (r *RepoStatus) problem(kind ProblemKind, name, format string, args ...any) {
	r.problems = append(r.problems, Problem{kind, r.Repo, name, fmt.Sprintf(format, args...)})
}

// repo looks at a repository. What keeps it from that is a problem, too.
func (w *Watch) repo(ctx context.Context, name, dir string, notes map[string]TaskNote) RepoStatus {
	r := RepoStatus{Repo: name, Names: []NameStatus{}}
	p, err := repo.OpenDir(ctx, dir, repo.DirOptions{FS: w.FS, ReadOnly: true})
	if err != nil {
		r.broken(err)
		return r
	}
	defer func() { _ = p.Close() }()
	d, err := readDiary(ctx, p)
	if err != nil {
		r.broken(err)
	}
	if err := w.names(ctx, p, d, &r); err != nil {
		r.broken(err)
	}
	if err := w.size(ctx, p, &r); err != nil {
		r.broken(err)
	}
	if ahead := time.Unix(d.last, 0).Sub(w.Now); ahead > maxSkew {
		r.problem(Clock, "", "the last receipt is %s ahead of this server's clock", Span(ahead))
	}
	if w.Tasks {
		w.tasks(&r, notes, time.Unix(d.first, 0))
	}
	return r
}

// broken notes that something could not be read.
func (r *RepoStatus) broken(err error) {
	kind := Broken
	if errors.As(err, new(*pack.CorruptError)) || errors.As(err, new(*repo.MissingError)) {
		kind = Damaged
	}
	r.problem(kind, "", "%v", err)
}

// saveID is what a prune leaves as it is of a save.
type saveID struct {
	tree   pack.ID
	author string
}

// diary is what the receipts say of each ref: the saves that came in, once each, though a
// prune has moved the ref to other commits since.
type diary struct {
	first, last int64
	refs        map[string]*refDiary
}

type refDiary struct {
	events []repo.Receipt
	at     map[saveID]int // in events
	gone   int64          // when the ref was deleted; 0: it was not
	by     string
}

// readDiary reads the receipts. What it has read before an error it returns as well.
func readDiary(ctx context.Context, p *repo.Packs) (*diary, error) {
	d := &diary{refs: make(map[string]*refDiary)}
	err := p.Receipts(ctx, func(r repo.Receipt) error {
		if d.first == 0 {
			d.first = r.Time
		}
		d.last = r.Time
		if !strings.HasPrefix(r.Ref, heads) {
			return nil
		}
		ref := d.refs[r.Ref]
		if ref == nil {
			ref = &refDiary{at: make(map[saveID]int)}
			d.refs[r.Ref] = ref
		}
		ref.add(r)
		return nil
	})
	return d, err
}

func (d *refDiary) add(r repo.Receipt) {
	if r.New.IsZero() {
		d.gone, d.by = r.Time, r.Principal
		return
	}
	d.gone = 0
	id := saveID{r.Tree, r.Author}
	if _, known := d.at[id]; known || r.Author == "" {
		return // a prune, or its undoing
	}
	d.at[id] = len(d.events)
	d.events = append(d.events, r)
}

const heads = "refs/heads/"

// names looks at the NAMEs of a repository.
func (w *Watch) names(ctx context.Context, p *repo.Packs, d *diary, r *RepoStatus) error {
	refs, err := p.Refs(ctx, heads)
	if err != nil {
		r.broken(err)
	}
	there := make(map[string]bool)
	for _, ref := range refs {
		there[ref.Name] = true
		n := nameWatch{w: w, p: p, r: r, diary: d.refs[ref.Name]}
		if n.diary == nil {
			n.diary = new(refDiary)
		}
		n.s = NameStatus{Name: strings.TrimPrefix(ref.Name, heads), Saves: len(n.diary.events)}
		if err := n.look(ctx, ref); err != nil {
			if ctx.Err() != nil {
				return err
			}
			r.broken(fmt.Errorf("%s: %w", n.s.Name, err))
		}
		r.Names = append(r.Names, n.s)
	}
	const remembered = 60 * 24 * time.Hour
	for name, ref := range d.refs {
		at := time.Unix(ref.gone, 0)
		if !there[name] && len(ref.events) > 0 && ref.gone > 0 && w.Now.Sub(at) < remembered {
			r.problem(Deleted, strings.TrimPrefix(name, heads), "was deleted %s ago by %s", Span(w.Now.Sub(at)), orNobody(ref.by))
		}
	}
	for key := range w.Server.Expect {
		if rep, name, ok := exactly(key); ok && rep == r.Repo && !there[heads+name] {
			r.problem(Never, name, "there is no save of it")
		}
	}
	slices.SortStableFunc(r.problems, func(a, b Problem) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

func orNobody(who string) string {
	if who == "" {
		return "somebody"
	}
	return who
}

// Span writes a length of time as people say it: "40m", "26h", "3d 4h".
func Span(d time.Duration) string {
	switch {
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 3*24*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	days := int(d.Hours()) / 24
	if hours := int(d.Hours()) % 24; hours > 0 && days < 10 {
		return fmt.Sprintf("%dd %dh", days, hours)
	}
	return fmt.Sprintf("%dd", days)
}

// Notice is what those are told whom the config names: a text for people, with what is to be
// looked at in front, and the metrics.
func (s *Status) Notice(text string) (Notice, error) {
	metrics, err := s.Metrics()
	wrong := len(s.Problems) > 0
	n := Notice{Name: "status", Failed: wrong, Wrong: wrong, Subject: "all is well", Text: text, JSON: s, Metrics: metrics}
	switch len(s.Problems) {
	case 0:
	case 1:
		n.Subject = s.Problems[0].String()
	default:
		n.Subject = fmt.Sprintf("%d problems; %s", len(s.Problems), s.Problems[0])
	}
	return n, err
}
