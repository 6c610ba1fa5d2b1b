package save

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/kedgebackup/kedge/index"
)

// A source is a sub-tree of the index that appears at one place of the saved
// tree. Most saves have one per path given, with src and dst the same; --strip
// and --graft make others, and cut them out of the sources they lie in.
type source struct {
	src, dst string
	alone    bool // nothing else in the saved tree lies at or below dst
	open     []*openDir
}

// plan says where everything goes, before anything is read.
type plan struct {
	roots   []*source // not inside one another, in index order
	cuts    []*source // inside a root, longest src first
	streams []Stream
	records map[string]*rootRecord // of the paths that were given, or of what is known below them
	real    map[string]string      // directory of the saved tree → the directory whose metadata it carries; "": several would
}

// mapping moves the directory src and what lies below it to dst.
type mapping struct{ src, dst string }

// A lookup finds the record of a path that exists, nil if there is none.
type lookup func(path string) (*rootRecord, error)

// lookup looks into the index.
func (o *Options) lookup(path string) (*rootRecord, error) {
	if o.Index == nil {
		return nil, nil
	}
	rec, ord, ok, err := o.Index.Lookup(path)
	if err != nil || !ok || rec.Flags&index.Exists == 0 {
		return nil, err
	}
	return &rootRecord{rec, ord}, nil
}

// tops finds the topmost records at and below a path that exist.
type tops func(path string) ([]*rootRecord, error)

// tops looks into the index.
func (o *Options) tops(path string) (list []*rootRecord, err error) {
	if o.Index == nil {
		return nil, nil
	}
	err = o.Index.Tops(path, func(r *index.Record, ord uint64) error {
		if r.Flags&index.Exists != 0 {
			list = append(list, &rootRecord{r.Clone(), ord})
		}
		return nil
	})
	return list, err
}

// newPlan makes the plan. It reads the records of the paths that are named, and
// refuses what cannot be saved before anything else is done.
//
// A path that was not indexed stands for all below it that was, as in bup: who
// says "/" means everything, and need not know which parts the index has. The
// rules for where things go are made of the paths as they were named.
func newPlan(o *Options, find lookup, below tops) (*plan, error) {
	if err := checkPaths(o); err != nil {
		return nil, err
	}
	p := &plan{streams: o.Streams, records: map[string]*rootRecord{}, real: map[string]string{}}
	for _, r := range o.Roots {
		list, err := below(r)
		if err != nil {
			return nil, err
		}
		if len(list) == 0 {
			return nil, &NotIndexedError{r}
		}
		for _, rec := range list {
			p.records[rec.Path] = rec
		}
	}
	rules, err := p.mappings(o, find)
	if err != nil {
		return nil, err
	}
	roots := slices.SortedFunc(maps.Keys(p.records), index.Compare)
	for _, r := range roots {
		for n := len(p.roots); n > 0 && index.Within(p.roots[n-1].src, r); n-- {
			p.roots = p.roots[:n-1]
		}
		p.roots = append(p.roots, &source{src: r, dst: mapPath(rules, r)})
	}
	for _, m := range rules {
		if r := p.root(m.src); r != nil && r.src != m.src {
			p.cuts = append(p.cuts, &source{src: m.src, dst: m.dst})
		}
	}
	for _, s := range slices.Concat(p.roots, p.cuts) {
		s.alone = !p.foreign(s, s.dst)
		p.claim(s.dst, s.src)
		p.claimParents(rules, s)
	}
	return p, p.checkStreams(find)
}

func checkPaths(o *Options) error {
	for _, r := range o.Roots {
		if !strings.HasPrefix(r, "/") || path.Clean(r) != r {
			return fmt.Errorf("path %q is not absolute and clean", r)
		}
	}
	for i, s := range o.Streams {
		if !strings.HasPrefix(s.Path, "/") || path.Clean(s.Path) != s.Path || s.Path == "/" {
			return fmt.Errorf("stream path %q is not absolute and clean", s.Path)
		}
		if strings.IndexByte(s.Path, 0) >= 0 {
			return fmt.Errorf("stream path %q holds a NUL byte", s.Path)
		}
		for _, other := range o.Streams[:i] {
			if index.Within(s.Path, other.Path) || index.Within(other.Path, s.Path) {
				return &CollisionError{s.Path, other.Path}
			}
		}
	}
	if len(o.Roots) == 0 && len(o.Streams) == 0 {
		return errors.New("nothing to save: no path and no stream")
	}
	return nil
}

// mappings returns the rewriting rules, longest source first. A rule for a file
// is none: nothing lies below it.
func (p *plan) mappings(o *Options, find lookup) ([]mapping, error) {
	var all, rules []mapping
	switch {
	case o.Strip:
		for _, r := range o.Roots {
			all = append(all, mapping{r, "/"})
		}
	case o.StripPath != "":
		all = append(all, mapping{path.Clean(o.StripPath), "/"})
	default:
		for _, g := range o.Graft {
			all = append(all, mapping{path.Clean(g[0]), path.Clean("/" + g[1])})
		}
	}
	for _, m := range all {
		rec := p.records[m.src]
		if rec == nil {
			var err error
			if rec, err = find(m.src); err != nil {
				return nil, err
			}
		}
		if rec == nil || isDir(rec.Stat.Mode) {
			rules = append(rules, m)
		}
	}
	slices.SortStableFunc(rules, func(a, b mapping) int { return len(b.src) - len(a.src) })
	return slices.CompactFunc(rules, func(a, b mapping) bool { return a.src == b.src }), nil
}

func mapPath(rules []mapping, p string) string {
	for _, m := range rules {
		if index.Within(p, m.src) {
			return path.Join(m.dst, p[len(strings.TrimSuffix(m.src, "/")):])
		}
	}
	return p
}

// claimParents notes which directories above a source lend their metadata to the
// directories above its place in the saved tree: those that the same rules
// would move there.
func (p *plan) claimParents(rules []mapping, s *source) {
	src, dst := s.src, s.dst
	for dst != "/" {
		src, dst = path.Dir(src), path.Dir(dst)
		if mapPath(rules, src) != dst {
			return
		}
		p.claim(dst, src)
	}
}

// claim notes that a directory of the saved tree carries the metadata of src. If
// two claim it, it carries nobody's.
func (p *plan) claim(dst, src string) {
	if have, ok := p.real[dst]; ok && have != src {
		src = ""
	}
	p.real[dst] = src
}

// checkStreams refuses streams that would stand where something else does, or
// below something that is no directory. To let one of the two win was rejected:
// a dump would silently take the place of a file, or not be saved at all.
func (p *plan) checkStreams(find lookup) error {
	for _, st := range p.streams {
		for _, s := range slices.Concat(p.roots, p.cuts) {
			if index.Within(s.dst, st.Path) {
				return &CollisionError{st.Path, s.src}
			}
			if !index.Within(st.Path, s.dst) {
				continue
			}
			name := path.Join(s.src, st.Path[len(strings.TrimSuffix(s.dst, "/")):])
			if p.find(s, name) != s {
				continue // what is there in the index goes elsewhere
			}
			if err := collides(find, st.Path, name, s.src); err != nil {
				return err
			}
		}
	}
	return nil
}

// collides reports that the index has something at the name, or something other
// than a directory above it, down from top.
func collides(find lookup, stream, name, top string) error {
	for at := name; index.Within(at, top); at = path.Dir(at) {
		rec, err := find(at)
		if err != nil {
			return err
		}
		if rec != nil && (at == name || !isDir(rec.Stat.Mode)) {
			return &CollisionError{stream, at}
		}
		if at == "/" {
			break
		}
	}
	return nil
}

// root returns the root that a path lies in, or nil.
func (p *plan) root(name string) *source {
	for _, r := range p.roots {
		if index.Within(name, r.src) {
			return r
		}
	}
	return nil
}

// find returns the innermost source of a path that lies in root.
func (p *plan) find(root *source, name string) *source {
	for _, c := range p.cuts {
		if index.Within(name, c.src) {
			return c
		}
	}
	return root
}

// foreign reports whether something that is not of s goes to dst or below it.
func (p *plan) foreign(s *source, dst string) bool {
	for _, st := range p.streams {
		if index.Within(st.Path, dst) {
			return true
		}
	}
	for _, list := range [...][]*source{p.roots, p.cuts} {
		for _, o := range list {
			if o != s && index.Within(o.dst, dst) {
				return true
			}
		}
	}
	return false
}

// shared reports whether the directory that is saved for one of s holds more
// than what s has to go there.
func (p *plan) shared(s *source, name string) bool {
	return !s.alone && p.foreign(s, s.place(name))
}

// pure reports whether the tree that is saved for a directory of s holds what
// the index has below it, no more and no less: only then may its id be taken
// from the index, or noted there.
func (p *plan) pure(s *source, name string) bool {
	for _, c := range p.cuts {
		if c != s && index.Within(c.src, name) {
			return false
		}
	}
	return !p.shared(s, name)
}

// place returns where a path of the source stands in the saved tree.
func (s *source) place(name string) string {
	if s.src == s.dst {
		return name
	}
	return path.Join(s.dst, name[len(strings.TrimSuffix(s.src, "/")):])
}
