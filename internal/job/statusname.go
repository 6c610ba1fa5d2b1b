package job

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

const (
	window   = 7                // saves that the last one is compared with
	recent   = 14               // saves whose new bytes are listed
	maxSkew  = 10 * time.Minute // of clocks
	sizeSlop = 1 << 20          // bytes by which any save may differ
	fileSlop = 100              // and files
	// From so many bytes on it is told if more than half of a save is new, though less than
	// a tenth was before. Less than that is a package that was updated.
	churnSize = 64 << 20
)

// nameWatch looks at a NAME.
type nameWatch struct {
	w     *Watch
	p     *repo.Packs
	r     *RepoStatus
	diary *refDiary
	s     NameStatus
}

func (n *nameWatch) problem(kind ProblemKind, format string, args ...any) {
	n.r.problem(kind, n.s.Name, format, args...)
}

// errEnough ends a walk.
var errEnough = errors.New("enough")

// look looks at the last save and those before it.
func (n *nameWatch) look(ctx context.Context, ref repo.Ref) error {
	var saves []repo.Commit
	id := ref.ID
	for len(saves) <= window && !id.IsZero() {
		var c repo.Commit
		err := n.p.Get(ctx, []pack.ID{id}, func(_ int, t pack.Type, body []byte) (err error) {
			if t != pack.Commit {
				return fmt.Errorf("%v is a %v and no save", id, t)
			}
			c, err = repo.ParseCommit(body)
			return err
		})
		if err != nil {
			return err
		}
		saves = append(saves, c)
		if id = (pack.ID{}); len(c.Parents) > 0 {
			id = c.Parents[0]
		}
	}
	n.times(&saves[0])
	n.figures(saves)
	if len(saves) > 1 {
		return n.sources(ctx, saves)
	}
	return nil
}

// receipt returns the receipt of a save; nil if there is none.
func (n *nameWatch) receipt(c *repo.Commit) *repo.Receipt {
	pin := repo.PinOf("", c)
	if i, ok := n.diary.at[saveID{pin.Tree, pin.Author}]; ok {
		return &n.diary.events[i]
	}
	return nil
}

// times says when the last save came, and whether that is long ago. A save without a
// receipt, which git or bup made here, has the date that its commit says.
func (n *nameWatch) times(c *repo.Commit) {
	n.s.Host, _ = c.Trailer("Kedge-Host")
	n.s.Last = c.Committer.When
	if r := n.receipt(c); r != nil {
		n.s.Last = time.Unix(r.Time, 0)
		n.s.New, n.s.Seconds = r.Bytes, r.Seconds
		// The client's clock is that of the moment in which it began.
		begin := n.s.Last.Add(-time.Duration(r.Seconds * float64(time.Second)))
		theirs := time.Unix(r.ClientTime, 0)
		switch {
		case r.ClientTime == 0:
		case theirs.After(n.s.Last.Add(maxSkew)):
			n.problem(Skewed, "the client's clock is %s ahead", Span(theirs.Sub(n.s.Last)))
		case theirs.Before(begin.Add(-maxSkew)):
			n.problem(Skewed, "the client's clock is %s behind", Span(begin.Sub(theirs)))
		}
	}
	n.s.Last = n.s.Last.In(n.w.Now.Location())
	age := n.w.Now.Sub(n.s.Last)
	every := n.w.Server.Expected(n.r.Repo, n.s.Name)
	n.s.Age, n.s.Every = seconds(age), every.Seconds()
	if every > 0 && age > every {
		n.problem(Late, "the last save is %s old; one is expected every %s", Span(age), Span(every))
	}
}

// count returns the number in a trailer; -1 if there is none.
func count(c *repo.Commit, key string) int64 {
	v, _ := c.Trailer(key)
	if n, err := strconv.ParseInt(v, 10, 64); err == nil && n >= 0 {
		return n
	}
	return -1
}

// figures compares the last save, saves[0], with those before it. Saves that bup made tell
// no sizes.
func (n *nameWatch) figures(saves []repo.Commit) {
	last := &saves[0]
	n.s.Size, n.s.Files, n.s.Unreadable = max(0, count(last, "Kedge-Bytes")), max(0, count(last, "Kedge-Files")), max(0, count(last, "Kedge-Unreadable"))
	if n.s.Unreadable > 0 {
		n.problem(Unreadable, "%d paths could not be read", n.s.Unreadable)
	}
	limit := float64(n.w.Server.Status.SizeChange) / 100
	before := func(key string) (int64, bool) {
		var list []int64
		for i := range saves[1:] {
			if v := count(&saves[1+i], key); v >= 0 {
				list = append(list, v)
			}
		}
		return median(list), len(list) > 0 && count(last, key) >= 0
	}
	size, known := before("Kedge-Bytes")
	if known && size > 0 {
		n.s.Trend = math.Round(1000*(float64(n.s.Size)/float64(size)-1)) / 10
	}
	files, _ := before("Kedge-Files")
	switch {
	case !known:
	case n.s.Size < size-sizeSlop && float64(n.s.Size) < float64(size)*(1-limit):
		n.problem(Shrank, "%s, where the saves before had %s", bytesText(n.s.Size), bytesText(size))
	case n.s.Files < files-fileSlop && float64(n.s.Files) < float64(files)*(1-limit):
		n.problem(Shrank, "%d files, where the saves before had %d", n.s.Files, files)
	case n.s.Size > size+sizeSlop && float64(n.s.Size) > float64(size)*(1+limit):
		n.problem(Grew, "%s, where the saves before had %s", bytesText(n.s.Size), bytesText(size))
	}
	n.churn(last)
}

// churn lists what came in lately, and tells if the last save is mostly new.
func (n *nameWatch) churn(last *repo.Commit) {
	var list []int64
	for _, r := range n.diary.events[max(0, len(n.diary.events)-recent):] {
		list = append(list, r.Bytes)
	}
	n.s.Recent = list
	if len(list) < 4 || n.receipt(last) == nil || n.s.Size < churnSize {
		return
	}
	usual := median(slices.Clone(list[:len(list)-1]))
	if n.s.New > n.s.Size/2 && usual < n.s.Size/10 {
		n.problem(Churned, "%s of %s are new, where %s are usual", bytesText(n.s.New), bytesText(n.s.Size), bytesText(usual))
	}
}

// median returns the value in the middle; 0 of nothing. It sorts the list.
func median(list []int64) int64 {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[len(list)/2]
}

// bytesText writes a number of bytes for people.
func bytesText(n int64) string {
	f, unit := float64(n), 0
	for f >= 1023.95 && unit < 5 {
		f, unit = f/1024, unit+1
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %ciB", f, " KMGTP"[unit])
}

// sources looks for directories and streams that were there in the saves before and are
// empty or gone in the last one: a disk that is no longer mounted is no error to any walk.
// It looks at the first level that has more than one entry and the one below it. For as long
// as a save that had them is among those that are compared, the loss is told.
func (n *nameWatch) sources(ctx context.Context, saves []repo.Commit) error {
	lost := make(map[string]bool)
	oldest := saves[len(saves)-1].Tree
	for _, old := range slices.Compact([]pack.ID{oldest, saves[1].Tree}) {
		if old == saves[0].Tree {
			continue
		}
		f := finder{p: n.p, lost: lost, left: maxTrees}
		if err := f.compare(ctx, "/", old, saves[0].Tree, 0); err != nil && !errors.Is(err, errEnough) {
			return err
		}
	}
	var names []string
	for name := range lost {
		names = append(names, name)
	}
	slices.Sort(names)
	if more := len(names) - 3; more > 0 {
		names = append(names[:3], fmt.Sprintf("and %d more", more))
	}
	if len(names) > 0 {
		n.problem(Vanished, "empty or gone, and not so before: %s", strings.Join(names, ", "))
	}
	return nil
}

// maxTrees is how many trees of a save are looked at.
const maxTrees = 200

// finder looks for what was there and is no more.
type finder struct {
	p    *repo.Packs
	lost map[string]bool
	left int
}

// list returns the directories in a tree; all says how many entries there are of any kind.
// What is cut up for its size counts as one entry more than any.
func (f *finder) list(ctx context.Context, id pack.ID) (dirs map[string]pack.ID, all int, err error) {
	if f.left--; f.left < 0 {
		return nil, 0, errEnough
	}
	dirs = make(map[string]pack.ID)
	err = f.p.Get(ctx, []pack.ID{id}, func(_ int, _ pack.Type, body []byte) error {
		return repo.ParseTree(body, func(e repo.TreeEntry) error {
			if strings.HasPrefix(e.Name, ".bup") {
				return nil
			}
			all++
			if e.Mode == repo.ModeDir && !strings.HasSuffix(e.Name, ".bup") {
				dirs[e.Name] = e.ID
			}
			return nil
		})
	})
	return dirs, all, err
}

// compare compares two directories that have one name.
func (f *finder) compare(ctx context.Context, at string, old, now pack.ID, depth int) error {
	before, all, err := f.list(ctx, old)
	if err != nil {
		return err
	}
	after, _, err := f.list(ctx, now)
	if err != nil {
		return err
	}
	if all > 1 {
		depth++
	}
	for name, id := range before {
		there, ok := after[name]
		if ok && there == id {
			continue
		}
		full := path.Join(at, name)
		if gone, err := f.gone(ctx, id, there, ok); err != nil {
			return err
		} else if gone {
			f.lost[full] = true
			continue
		}
		if ok && depth < 2 {
			if err := f.compare(ctx, full, id, there, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

// gone reports whether a directory had something in it, and has nothing now.
func (f *finder) gone(ctx context.Context, old, now pack.ID, there bool) (bool, error) {
	_, had, err := f.list(ctx, old)
	if err != nil || had == 0 {
		return false, err
	}
	if !there {
		return true, nil
	}
	_, has, err := f.list(ctx, now)
	return has == 0, err
}
