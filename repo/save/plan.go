package save

import (
	"fmt"
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
	open     []*dirItems
}

// plan says where everything goes, before anything is read.
type plan struct {
	roots   []*source // not inside one another, in index order
	cuts    []*source // inside a root, longest src first
	streams []Stream
	real    map[string]string // directory of the saved tree → the directory whose metadata it carries
}

// A NotIndexedError says that a path to be saved is not in the index.
type NotIndexedError struct{ Path string }

func (e *NotIndexedError) Error() string { return fmt.Sprintf("%s is not in the index", e.Path) }

// mapping moves what lies at and below src to dst.
type mapping struct{ src, dst string }

func newPlan(o *Options) (*plan, error) {
	if err := checkPaths(o); err != nil {
		return nil, err
	}
	maps := mappings(o)
	p := &plan{streams: o.Streams, real: map[string]string{}}
	roots := slices.Clone(o.Roots)
	slices.SortFunc(roots, index.Compare)
	for _, r := range slices.Compact(roots) {
		for n := len(p.roots); n > 0 && index.Within(p.roots[n-1].src, r); n-- {
			p.roots = p.roots[:n-1]
		}
		p.roots = append(p.roots, &source{src: r, dst: mapPath(maps, r)})
	}
	for _, m := range maps {
		if r := p.root(m.src); r != nil && r.src != m.src {
			p.cuts = append(p.cuts, &source{src: m.src, dst: m.dst})
		}
	}
	all := slices.Concat(p.roots, p.cuts)
	for _, s := range all {
		s.alone = !p.foreign(s, s.dst)
		p.nameParents(maps, s)
	}
	return p, nil
}

func checkPaths(o *Options) error {
	for _, r := range o.Roots {
		if !strings.HasPrefix(r, "/") || path.Clean(r) != r {
			return fmt.Errorf("path %q is not absolute and clean", r)
		}
	}
	seen := map[string]bool{}
	for _, s := range o.Streams {
		if !strings.HasPrefix(s.Path, "/") || path.Clean(s.Path) != s.Path || s.Path == "/" {
			return fmt.Errorf("stream path %q is not absolute and clean", s.Path)
		}
		if strings.IndexByte(s.Path, 0) >= 0 {
			return fmt.Errorf("stream path %q holds a NUL byte", s.Path)
		}
		if seen[s.Path] {
			return fmt.Errorf("two streams at %s", s.Path)
		}
		seen[s.Path] = true
	}
	if len(o.Roots) == 0 && len(o.Streams) == 0 {
		return fmt.Errorf("nothing to save: no path and no stream")
	}
	return nil
}

// mappings returns the rewriting rules, longest source first.
func mappings(o *Options) []mapping {
	var maps []mapping
	switch {
	case o.Strip:
		for _, r := range o.Roots {
			maps = append(maps, mapping{r, "/"})
		}
	case o.StripPath != "":
		maps = append(maps, mapping{path.Clean(o.StripPath), "/"})
	default:
		for _, g := range o.Graft {
			maps = append(maps, mapping{path.Clean(g[0]), path.Clean("/" + g[1])})
		}
	}
	slices.SortStableFunc(maps, func(a, b mapping) int { return len(b.src) - len(a.src) })
	return slices.CompactFunc(maps, func(a, b mapping) bool { return a.src == b.src })
}

func mapPath(maps []mapping, p string) string {
	for _, m := range maps {
		if index.Within(p, m.src) {
			return path.Join(m.dst, p[len(strings.TrimSuffix(m.src, "/")):])
		}
	}
	return p
}

// nameParents notes which directories above a source lend their metadata to the
// directories above its place in the saved tree: those that the same rules
// would move there. If two differ nobody does.
func (p *plan) nameParents(maps []mapping, s *source) {
	src, dst := s.src, s.dst
	for dst != "/" {
		src, dst = path.Dir(src), path.Dir(dst)
		if mapPath(maps, src) != dst {
			return
		}
		if have, ok := p.real[dst]; ok && have != src {
			src = ""
		}
		p.real[dst] = src
	}
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
	for _, o := range p.roots {
		if o != s && index.Within(o.dst, dst) {
			return true
		}
	}
	for _, o := range p.cuts {
		if o != s && index.Within(o.dst, dst) {
			return true
		}
	}
	return false
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
	return s.alone || !p.foreign(s, s.place(name))
}

// place returns where a path of the source stands in the saved tree.
func (s *source) place(name string) string {
	if s.src == s.dst {
		return name
	}
	return path.Join(s.dst, name[len(strings.TrimSuffix(s.src, "/")):])
}
