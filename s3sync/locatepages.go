package s3sync

import (
	"context"
	"io"
	"slices"
	"sync"

	"github.com/kedgebackup/kedge/repo"
)

// inSegments looks ids up in the segments, and returns those that are in none.
func (q *quest) inSegments(ctx context.Context, todo []int) ([]int, error) {
	todo = slices.Clone(todo)
	slices.SortFunc(todo, func(a, b int) int { return q.ids[a].Compare(q.ids[b]) })
	for _, c := range q.list() {
		if len(todo) == 0 {
			break
		}
		c.open()
		before := len(todo)
		for _, g := range c.segs {
			if len(todo) == 0 {
				break
			}
			if q.badSegment(g) {
				if !damaged(g.err) && g.err != nil {
					return nil, g.err
				}
				continue
			}
			if err := q.inSegment(g, todo); err != nil {
				if !damaged(err) {
					return nil, err
				}
				q.mu.Lock()
				q.bad[g.file.file.Name] = g.named(err)
				q.mu.Unlock()
			}
			todo = slices.DeleteFunc(todo, func(i int) bool { return q.out[i].Pack != "" })
		}
		if len(todo) < before {
			q.hitIn(c)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return todo, nil
}

// hitIn puts a class in front: what is looked for next is likely to be there, too.
func (l *locator) hitIn(c *class) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k := slices.Index(l.classes, c); k > 0 {
		l.classes = slices.Clone(l.classes)
		copy(l.classes[1:k+1], l.classes[:k])
		l.classes[0] = c
	}
}

// span is the pages lo to hi-1 of a segment, and the ids that may be there: todo[from:to].
type span struct {
	lo, hi   int
	from, to int
}

// inSegment looks sorted ids up in one segment. Pages that are near to one another are
// read together.
func (q *quest) inSegment(g *segment, todo []int) error {
	var spans []span
	for k, i := range todo {
		lo, hi := g.pagesOf(q.ids[i])
		if lo == hi {
			continue
		}
		if n := len(spans); n > 0 && lo <= spans[n-1].hi+pageGap && hi-spans[n-1].lo <= pageRun {
			spans[n-1].hi, spans[n-1].to = max(hi, spans[n-1].hi), k+1
			continue
		}
		spans = append(spans, span{lo, hi, k, k + 1})
	}
	var mu sync.Mutex
	var first error
	inParallel(len(spans), func(k int) {
		if err := q.inSpan(g, spans[k], todo); err != nil {
			mu.Lock()
			first = err
			mu.Unlock()
		}
	})
	return first
}

// inSpan reads some pages and looks for ids there.
func (q *quest) inSpan(g *segment, s span, todo []int) error {
	start, _ := g.page(s.lo)
	end, n := g.page(s.hi - 1)
	b := make([]byte, end+int64(n)-start)
	if _, err := g.file.ReadAt(b, start); err != nil && err != io.EOF {
		return err
	}
	pages := make([][]byte, s.hi-s.lo) // that were checked
	for _, i := range todo[s.from:s.to] {
		lo, hi := g.pagesOf(q.ids[i])
		for p := lo; p < hi; p++ {
			k := p - s.lo
			if pages[k] == nil {
				off, n := g.page(p)
				rows, err := checkPage(b[off-start:][:n])
				if err != nil {
					return err
				}
				pages[k] = rows
			}
			found, err := g.spots(pages[k], q.ids[i], func(at spot) bool { return q.take(i, at) })
			if err != nil {
				return err
			}
			if found {
				break
			}
		}
	}
	return nil
}

// take notes where an object is, unless its pack does not count.
func (q *quest) take(i int, at spot) bool {
	name := packName(at.pack)
	if q.skip(name) {
		return false
	}
	q.out[i] = repo.Located{Pack: name, Off: at.off}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.hits[name]++
	return true
}
