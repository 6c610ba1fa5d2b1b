package repo

import (
	"context"
	"errors"
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kedgebackup/kedge/pack"
)

// FindingKind says what a Finding is about.
type FindingKind string

// The kinds of findings. Those below BadReceipts are no damage: what they name
// can be made again, or does no harm.
const (
	BadPack     FindingKind = "pack"      // a pack is not what its checksum says, or cannot be opened
	BadIdx      FindingKind = "idx"       // an idx is damaged, or does not fit its pack
	BadObject   FindingKind = "object"    // an object in a pack has other bytes than its id says
	BadTree     FindingKind = "malformed" // an object is what its id says, and nonsense
	BadMeta     FindingKind = "metadata"  // a .bupm does not fit its directory
	Missing     FindingKind = "missing"   // an object that something refers to is not there
	Affected    FindingKind = "affected"  // a path in a save is, or is below, one of those
	BadRef      FindingKind = "ref"       // the file of a ref, or HEAD, holds no id
	BadReceipts FindingKind = "receipts"  // the diary is not as it was written

	BadDerived FindingKind = "derived" // a multi-pack-index is damaged: it is passed over
	Moved      FindingKind = "moved"   // a ref is not where its last receipt says: git or bup moved it
	Stray      FindingKind = "stray"   // a file does not belong where it is
	Note       FindingKind = "note"    // something was passed over
)

// Finding is something that Check found.
type Finding struct {
	Kind   FindingKind `json:"kind"`
	File   string      `json:"file,omitempty"`   // of the repository
	Offset int64       `json:"offset,omitempty"` // in File, -1 or 0 if the place is not known
	Object pack.ID     `json:"-"`                // zero if it is about none
	Ref    string      `json:"ref,omitempty"`    // full name
	// Of Affected: the newest and the oldest save of the ref in which Path is
	// affected, how many are, and what is wrong with Object.
	Newest string `json:"newest,omitempty"`
	Oldest string `json:"oldest,omitempty"`
	Saves  int    `json:"saves,omitempty"`
	Path   string `json:"path,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Damage reports whether the finding is about something that is lost.
func (f *Finding) Damage() bool {
	switch f.Kind {
	case BadDerived, Moved, Stray, Note:
		return false
	}
	return true
}

// String says the finding in one line.
func (f Finding) String() string {
	var b strings.Builder
	b.WriteString(string(f.Kind))
	if f.File != "" {
		fmt.Fprintf(&b, " %s", f.File)
	}
	if f.Offset > 0 {
		fmt.Fprintf(&b, " at %d", f.Offset)
	}
	if !f.Object.IsZero() {
		fmt.Fprintf(&b, " %v", f.Object)
	}
	if f.Ref != "" {
		fmt.Fprintf(&b, " %s", f.Ref)
	}
	if f.Newest != "" {
		fmt.Fprintf(&b, " %s", f.Newest)
	}
	if f.Saves > 1 {
		fmt.Fprintf(&b, " and %d more since %s", f.Saves-1, f.Oldest)
	}
	if f.Path != "" {
		fmt.Fprintf(&b, " %q", f.Path)
	}
	if f.Reason != "" && (f.Kind != Missing || f.Reason != isMissing.what) { // which its kind says
		fmt.Fprintf(&b, ": %s", f.Reason)
	}
	return b.String()
}

// CheckOptions says what is checked.
type CheckOptions struct {
	Quick bool // the checksums of packs and idx files, and that refs lead to something
	// Names are saves, NAME or NAME/SAVE: only what they reach is checked. Without,
	// it is everything there is.
	Names []string
	// Packs are those whose objects are read; nil: all. With it refs are looked at as with
	// Quick, and nothing is traced to saves: a share of the packs each night, and all of
	// them are read in a month.
	Packs    map[pack.ID]bool
	Workers  int            // 0: one for each processor
	Zone     *time.Location // in which saves are named; nil: time.Local
	Progress func(CheckResult)
}

// CheckResult is what Check did so far.
type CheckResult struct {
	Packs, Objects int64 // read; Objects only if they were hashed
	Bytes          int64 // of the objects; with Quick, of the packs
	Trees          int64 // of saves, looked at
	Damage, Notes  int64 // findings
	Closed         int64 // packs that were proved to be closed (I9) by this check
}

// Check reads a repository and calls report, one call at a time, for what it
// finds wrong. In full:
//
//  1. Every idx is compared with its checksum, every pack with its own and with
//     its idx (offsets, CRCs), every object with its id.
//  2. From every ref all that it reaches is looked at: commits, directories with
//     their metadata, the trees of chunked files with the sizes of all chunks.
//  3. If something was wrong, the paths of saves are found that reach it.
//
// With Quick, the files are compared with their checksums, and of the refs it is only
// made sure that what they name can be read.
//
// Each step is one pass. An object is looked at once, however many saves have
// it; what is remembered of it is three bytes. A pack of which all of this holds
// is listed as closed.
//
// Check changes nothing else. It returns an error if it could not do its work;
// findings are none.
func Check(ctx context.Context, p *Packs, o CheckOptions, report func(Finding)) (CheckResult, error) {
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Quick && len(o.Names) > 0 { // who asks over a connection can send anything
		return CheckResult{}, &ConfigError{Reason: "a quick check is of whole files, and does not go with names"}
	}
	c := &checker{p: p, ctx: ctx, o: o, report: report, lost: make(map[pack.ID]*badness)}
	if err := p.refresh(ctx); err != nil {
		return c.result, err
	}
	err := c.run()
	return c.result, err
}

type checker struct {
	p   *Packs
	ctx context.Context
	o   CheckOptions
	census
	tips []tip

	mu      sync.Mutex
	report  func(Finding)
	result  CheckResult
	lost    map[pack.ID]*badness // objects that are damaged, missing or nonsense
	unnamed int64                // more of them than there is room for
}

// badness is what is wrong with an object. It is shared by those of which the same is
// wrong, as is by all that are missing.
type badness struct {
	kind FindingKind
	what string
}

var isMissing = &badness{Missing, "is missing"}

// tip is where a check begins.
type tip struct {
	ref     string
	id      pack.ID
	parents bool // go on to the parents
}

// maxBad is how many damaged objects are traced to paths.
const maxBad = 1 << 18

func (c *checker) run() error {
	if len(c.o.Names) > 0 {
		return c.runNames()
	}
	err := firstErr(c.openPacks(), c.files())
	c.derived()
	if err == nil {
		err = c.findRefs()
	}
	if err == nil && c.o.Quick {
		return firstErr(c.sums(), c.quickTips())
	}
	if err == nil {
		err = c.objects(nil)
	}
	if err == nil && c.o.Packs != nil {
		return c.quickTips()
	}
	if err == nil {
		err = c.walk(true)
	}
	if err == nil {
		err = c.locate()
	}
	if err == nil {
		err = c.listClosed()
	}
	return err
}

// runNames checks some saves: the trees, to know what they consist of; the bytes
// of all that; and the trees once more, as sizes and types are known then.
func (c *checker) runNames() error {
	v := &VFS{Repo: c.p, Zone: c.o.Zone}
	for _, name := range c.o.Names {
		chain, err := v.Resolve(c.ctx, name, ResolveOptions{Follow: true})
		if err != nil {
			return err
		}
		switch n := chain[len(chain)-1]; n.Kind {
		case NodeName, NodeSave:
			ref := headsPrefix + chain[1].Name
			c.tips = append(c.tips, tip{ref, n.Commit, n.Kind == NodeName})
		default:
			return &NotFoundError{What: "save", Name: name}
		}
	}
	slices.SortStableFunc(c.tips, func(a, b tip) int { // who goes further comes first
		switch {
		case a.parents == b.parents:
			return 0
		case a.parents:
			return -1
		}
		return 1
	})
	if err := c.openPacks(); err != nil {
		return err
	}
	err := c.walk(false)
	if err == nil {
		err = c.objects(c.seen)
	}
	if err == nil {
		c.seen = makeBitmap(c.n)
		err = c.walk(true)
	}
	if err == nil {
		err = c.locate()
	}
	return err
}

// find reports a finding.
func (c *checker) find(f Finding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.Damage() {
		c.result.Damage++
	} else {
		c.result.Notes++
	}
	c.report(f)
}

// corruptFile returns the file that an error about damage names, "" if it names none.
func corruptFile(err error) string {
	var corrupt *pack.CorruptError
	if errors.As(err, &corrupt) {
		return corrupt.File
	}
	return ""
}

// unreadable reports an object that could not be got; other errors it returns.
func (c *checker) unreadable(id pack.ID, ref string, err error) error {
	if !damaged(err) {
		return err
	}
	kind := BadObject
	if errors.As(err, new(*MissingError)) {
		kind = Missing
	}
	c.badObject(kind, id, ref, err)
	return nil
}

// findErr reports what an error says.
func (c *checker) findErr(kind FindingKind, file string, err error) {
	f := Finding{Kind: kind, File: file, Reason: err.Error()}
	var corrupt *pack.CorruptError
	if errors.As(err, &corrupt) && corrupt.File == file {
		f.Reason, f.Offset = corrupt.Reason, max(corrupt.Off, 0)
	}
	c.find(f)
}

// noteBad remembers an object that is no good, and reports whether that is news.
func (c *checker) noteBad(kind FindingKind, id pack.ID, what string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.lost[id]; known {
		return false
	}
	if len(c.lost) >= maxBad {
		c.unnamed++
		return true
	}
	c.lost[id] = isMissing
	if kind != Missing {
		c.lost[id] = &badness{kind, what}
	}
	return true
}

// isBad reports whether an object is known to be no good.
func (c *checker) isBad(id pack.ID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, bad := c.lost[id]
	return bad
}

// badObject reports an object that something reaches; the ref if that does.
func (c *checker) badObject(kind FindingKind, id pack.ID, ref string, err error) {
	what := err.Error()
	if errors.As(err, new(*MissingError)) {
		what = isMissing.what
	}
	if c.noteBad(kind, id, what) {
		c.find(Finding{Kind: kind, Object: id, Ref: ref, Reason: what})
	}
}

// progress tells how far the check has come.
func (c *checker) progress(add CheckResult) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &c.result
	r.Packs += add.Packs
	r.Objects += add.Objects
	r.Bytes += add.Bytes
	r.Trees += add.Trees
	if c.o.Progress != nil {
		c.o.Progress(*r)
	}
}

// files looks for files in the directory of packs that do not belong there.
func (c *checker) files() error {
	var names []string
	err := c.p.store.List(c.ctx, dirPacks, func(name string, size int64) error {
		if size > 0 || path.Ext(name) != ".idx" { // an empty one is as good as none
			names = append(names, name)
		}
		return nil
	})
	closed, cerr := c.p.keeper.closedPacks()
	for _, name := range names {
		why := stray(name, names)
		kind := Stray
		// What an interrupted save or collection left behind is not listed.
		listed := slices.ContainsFunc(closed, func(l closedLine) bool { return strings.TrimSuffix(path.Base(name), path.Ext(name)) == l.name })
		switch {
		case why == noIdx && listed:
			kind, why = BadIdx, noIdx+"; the next save makes it anew, or git index-pack"
		case why == noPack && listed:
			kind = BadPack
		}
		if why != "" {
			c.find(Finding{Kind: kind, File: name, Reason: why})
		}
	}
	return firstErr(err, cerr)
}

const (
	noIdx  = "pack without an idx"
	noPack = "idx without its pack"
)

// packExtras are the endings of what git and bup put beside packs.
var packExtras = []string{".idx", ".rev", ".bitmap", ".mtimes", ".keep", ".promisor", ".par2"}

// stray says why a file in the directory of packs is stray, or "". All are names
// in byte order.
func stray(name string, all []string) string {
	has := func(ending string) bool {
		stem, _, _ := strings.Cut(path.Base(name), ".")
		_, ok := slices.BinarySearch(all, path.Join(dirPacks, stem+ending))
		return ok
	}
	base, ending := path.Base(name), path.Ext(name)
	switch {
	case path.Dir(name) != dirPacks:
		if strings.HasPrefix(path.Base(path.Dir(name)), "multi-pack-index") {
			return ""
		}
		return "left over by an interrupted bup"
	case base == "multi-pack-index", base == "bup.bloom", strings.HasPrefix(base, "midx-") && ending == ".midx":
		return ""
	case !strings.HasPrefix(base, "pack-"):
		return "not a pack; perhaps left over by an interrupted git"
	case ending == ".pack" && !has(".idx"):
		return noIdx
	case ending == ".idx" && !has(".pack"):
		return noPack
	case ending == ".pack" || slices.Contains(packExtras, ending) && has(".pack"):
		return ""
	}
	return "nothing that belongs beside packs"
}

// listClosed lists the packs as closed that are not yet, if nothing is wrong.
func (c *checker) listClosed() error {
	if c.result.Damage > 0 || c.p.readOnly {
		return nil
	}
	n, err := c.p.proveAll(c.ctx)
	c.result.Closed = n
	return err
}

// proveAll reads the packs that are not closed, and lists those that turn out to be.
func (p *Packs) proveAll(ctx context.Context) (n int64, err error) {
	p.proof.mu.Lock()
	defer p.proof.mu.Unlock()
	p.proof.known, p.proof.read, p.proof.tried = nil, make(map[*packFile]int64), make(map[*packFile]bool)
	for _, f := range p.table.Load().packs {
		if f.closed.Load() || f.gone.Load() || p.proof.tried[f] {
			continue
		}
		if err := p.proveWhole(ctx, f); err != nil {
			return n, err
		}
	}
	for f := range p.proof.tried {
		if f.closed.Load() {
			n++
		}
	}
	return n, nil
}
