package save

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/index"
	"github.com/kedgebackup/kedge/internal/fsx"
)

// A set is named by its first path in the order of the index, or as bup has it by the last
// in plain byte order; and what no set is named by any more takes no room.
func TestLinks(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var paths []string
	for i := range 300 {
		dir := fmt.Sprintf("/snap/%03d", i)
		for j := range 40 {
			paths = append(paths, fmt.Sprintf("%s%s/n%s%d", dir, []string{"", "-", ".x", "/d"}[r.IntN(4)], strings.Repeat("x", r.IntN(20)), j))
		}
	}
	slices.SortFunc(paths, index.Compare)
	paths = append([]string{"/top"}, paths...)
	inode := func(p string) uint64 { return uint64(len(p)*7+int(p[len(p)-1])) % 100 }
	for _, last := range []bool{false, true} {
		l := links{last: last}
		want := map[uint64]string{}
		for _, p := range paths {
			l.note(&index.Record{Path: p, Stat: fsx.Stat{Mode: 0o100644, Nlink: 2, Dev: 1, Ino: inode(p)}})
			if have, ok := want[inode(p)]; !ok || last && p > have {
				want[inode(p)] = p
			}
		}
		count := 0
		for _, p := range paths {
			s := l.take(&index.Record{Path: p, Stat: fsx.Stat{Mode: 0o100644, Nlink: 2, Dev: 1, Ino: inode(p)}})
			if s == nil || l.first(s) != want[inode(p)] {
				t.Fatalf("last %v: %s belongs to %v, want %s", last, p, s, want[inode(p)])
			}
			count++
		}
		for _, s := range l.sets {
			if s.left != 0 {
				t.Errorf("last %v: %d names left of a set", last, s.left)
			}
		}
		if count != len(paths) || len(l.names)+32*len(l.dirs) > 1<<16+1<<10 {
			t.Errorf("last %v: %d paths; %d bytes of names and %d directories for %d sets", last, count, len(l.names), len(l.dirs), len(l.sets))
		}
	}
}
