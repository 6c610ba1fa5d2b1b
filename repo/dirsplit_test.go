package repo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo/meta"
)

// layout draws a split directory: names in order, parts with what is in them.
func (m memObjects) layout(t testing.TB, id pack.ID) string {
	t.Helper()
	var parts []string
	err := ParseTree(m[id].body, func(e TreeEntry) error {
		name := e.Name
		if strings.HasSuffix(name, partEnd) {
			name += "/{" + m.layout(t, e.ID) + "}"
		}
		parts = append(parts, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(parts, ",")
}

// hitName makes a name of n bytes that begins with front and ends a part when it
// is rolled after the names before.
func hitName(front string, n int, before ...string) string {
	r := rand.New(rand.NewPCG(7, 8))
	for {
		var roll nameRoll
		for _, b := range before {
			roll.feed(b)
		}
		name := []byte(front)
		for len(name) < n {
			name = append(name, "0123456789abcdefghijklmnopqrstuvwxyz"[r.IntN(36)])
		}
		if roll.feed(string(name)) {
			return string(name)
		}
	}
}

func filesNamed(names ...string) (items []DirEntry) {
	slices.Sort(names)
	for _, n := range names {
		items = append(items, DirEntry{Name: n, Mode: ModeFile, ID: someID(1), Meta: (&meta.Meta{Mode: 0o100600, Size: 1}).Append(nil)})
	}
	return items
}

// TestSplitExample is the example of the format's description, trap included: X
// stands above "b" and under A..1.bupd.
func TestSplitExample(t *testing.T) {
	m := memObjects{}
	x := hitName("btn8", 121, "A")
	w := m.dirWriter(t)
	w.SplitTrees = true
	self := (&meta.Meta{Mode: 0o040755, Size: -1}).Append(nil)
	id, err := w.Write(self, filesNamed("A", x, x+"c", "z"))
	if err != nil {
		t.Fatal(err)
	}
	want := ".bupm,A..1.bupd/{.bupm,A,X},b..1.bupd/{.bupm,Xc,z}"
	if got := strings.ReplaceAll(m.layout(t, id), x, "X"); got != want {
		t.Errorf("layout %s\nwant   %s", got, want)
	}
	bupm := func(tree pack.ID) []byte {
		for _, e := range m.tree(t, tree) {
			if f := strings.Fields(e); f[1] == bupmName {
				return m[mustID(f[2])].body
			}
		}
		return nil
	}
	if got := bupm(id); string(got) != string(self) {
		t.Errorf(".bupm of the directory: %x", got)
	}
	part := mustID(strings.Fields(m.tree(t, id)[1])[2])
	if got := bupm(part); len(got) == 0 || got[0] != 0 {
		t.Errorf(".bupm of a part: %x", got)
	}
	r := &memRepo{memObjects: m}
	if items := collect(t, r, id); len(items) != 5 || items[0].Meta.Mode != 0o040755 || items[3].Meta.Mode != 0o100600 {
		t.Errorf("read back %+v", items)
	}
}

// model is the rule of splitting written down a second time, the slow way.
type model struct {
	m     memObjects
	split func([]byte) (TreeEntry, error)
}

type modelPart struct {
	record, first, last string
	id                  pack.ID
}

func (d *model) write(self []byte, items []DirEntry) pack.ID {
	var names []string
	for _, e := range items {
		names = append(names, e.Name)
	}
	groups := d.group(names)
	if len(groups) == 1 {
		return d.leaf(self, items)
	}
	var parts []modelPart
	for _, g := range groups {
		in := items[g[0]:g[1]]
		parts = append(parts, modelPart{in[0].Name, in[0].Name, in[len(in)-1].Name, d.leaf(emptyMeta, in)})
	}
	for level := 1; ; level++ {
		names = names[:0]
		for _, p := range parts {
			names = append(names, p.record)
		}
		groups := d.group(names)
		var next []modelPart
		for _, g := range groups {
			in := parts[g[0]:g[1]]
			var list []TreeEntry
			if len(groups) == 1 {
				e, _ := d.split(self)
				e.Name = bupmName
				list = append(list, e)
			}
			first := ""
			for i, p := range in {
				name := fmt.Sprintf("%s..%d.bupd", d.short(in, i), level)
				list = append(list, TreeEntry{ModeDir, name, p.id})
				if i == 0 {
					first = name
				}
			}
			SortTree(list)
			id, _ := d.m.addTree(AppendTree(nil, list))
			next = append(next, modelPart{first, in[0].first, in[len(in)-1].last, id})
		}
		if parts = next; len(parts) == 1 {
			return parts[0].id
		}
	}
}

func (d *model) leaf(first []byte, items []DirEntry) pack.ID {
	var list []TreeEntry
	bupm := slices.Clone(first)
	for _, e := range items {
		list = append(list, TreeEntry{e.Mode, MangleName(e.Name, e.Chunked), e.ID})
		if !e.dir() {
			bupm = append(bupm, e.Meta...)
		}
	}
	if len(bupm) > 1 {
		e, _ := d.split(bupm)
		list = append(list, TreeEntry{e.Mode, bupmName, e.ID})
	}
	SortTree(list)
	id, _ := d.m.addTree(AppendTree(nil, list))
	return id
}

// group returns from and to of each group. For each byte the sum is made anew
// from what the window holds.
func (d *model) group(names []string) (out [][2]int) {
	var fed []byte
	count, from := 0, 0
	for i, name := range names {
		end := false
		for _, c := range []byte(name) {
			fed = append(fed, c)
			if d.digest(fed)&rollMask == rollMask {
				end, fed, count = true, nil, 0
				break
			}
		}
		if count += len(name); count > rollMost {
			end, fed, count = true, nil, 0
		}
		if end && i-from >= 1 || i == len(names)-1 {
			out = append(out, [2]int{from, i + 1})
			from = i + 1
		}
	}
	return out
}

func (d *model) digest(fed []byte) uint32 {
	window := make([]byte, 64)
	s1, s2 := uint32(1984), uint32(124992)
	for _, c := range fed[max(0, len(fed)-64):] {
		s1 += uint32(c) - uint32(window[0])
		s2 += s1 - 64*(uint32(window[0])+31)
		window = append(window[1:], c)
	}
	return s1<<16 | s2&0xffff
}

func (d *model) short(in []modelPart, at int) string {
	var bounds []string
	for i, p := range in {
		bounds = append(bounds, p.first)
		if i < len(in)-1 {
			bounds = append(bounds, p.last)
		}
	}
	name := in[at].first
	for {
		cut := name[:len(name)-1]
		next := map[byte]bool{}
		for _, b := range bounds {
			if len(b) > len(cut) && strings.HasPrefix(b, cut) {
				next[b[len(cut)]] = true
			}
		}
		if cut == "" || cut == "." || cut == ".." || len(next) != 1 {
			return name
		}
		name = cut
	}
}

// TestSplitAgainstModel compares ids for directories of up to three levels.
func TestSplitAgainstModel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	m := memObjects{}
	w := m.dirWriter(t)
	w.SplitTrees = true
	deepest := 0
	for _, c := range []struct{ n, length int }{{1, 10}, {2, 200}, {100, 20}, {400, 60}, {300, 221}, {1500, 221}, {150, 9000}} {
		used := map[string]bool{}
		var names []string
		for len(names) < c.n {
			b := make([]byte, 1+rnd.IntN(c.length))
			for i := range b {
				b[i] = ".ab\xf0"[min(rnd.IntN(4), rnd.IntN(5))]
			}
			if s := string(b); !used[s] && s != "." && s != ".." {
				used[s] = true
				names = append(names, s)
			}
		}
		items := filesNamed(names...)
		for i := range items {
			if i%3 == 0 {
				items[i].Mode, items[i].Meta = ModeDir, nil
			}
		}
		self := (&meta.Meta{Mode: 0o040700, Size: -1}).Append(nil)
		id, err := w.Write(self, items)
		if err != nil {
			t.Fatal(err)
		}
		d := model{m: m, split: w.Split}
		if want := d.write(self, items); id != want {
			t.Errorf("%d names of up to %d bytes: %v, model says %v", c.n, c.length, id, want)
		}
		layout := m.layout(t, id)
		for level := 1; strings.Contains(layout, fmt.Sprintf("..%d.bupd", level)); level++ {
			deepest = max(deepest, level)
		}
		got := collect(t, &memRepo{memObjects: m}, id)
		for i, d := range got[1:] {
			if d.Name != items[i].Name {
				t.Fatalf("item %d is %q, want %q", i, d.Name, items[i].Name)
			}
		}
	}
	if deepest < 2 {
		t.Errorf("%d levels only", deepest)
	}
}

// TestSplitCollision: two parts whose names would be abbreviated to the same.
func TestSplitCollision(t *testing.T) {
	got := shortNames([]groupItem{
		{first: "b", last: "bX"}, {first: "bXc", last: "bXd"}, {first: "c", last: "d"},
	})
	if slices.Compare(got, []string{"b", "bXc", "c"}) != 0 {
		t.Errorf("%q", got)
	}
	if got := shortNames([]groupItem{{first: "..a", last: "..ab"}, {first: ".b", last: "x"}}); !slices.Equal(got, []string{"..a", ".b"}) {
		t.Errorf("%q", got)
	}
	got = shortNames([]groupItem{{first: "b", last: "bX"}, {first: "bXc", last: "bXd"}})
	if got[0] == got[1] {
		t.Errorf("%q", got)
	}
}

// TestSplitChange: one more name in a large directory changes a few trees.
func TestSplitChange(t *testing.T) {
	m := memObjects{}
	w := m.dirWriter(t)
	w.SplitTrees = true
	var names []string
	for i := range 20000 {
		names = append(names, fmt.Sprintf("file-%08d", i*7919))
	}
	if _, err := w.Write(nil, filesNamed(names...)); err != nil {
		t.Fatal(err)
	}
	before := len(m)
	id, err := w.Write(nil, filesNamed(append(names, "file-00000001")...))
	if err != nil {
		t.Fatal(err)
	}
	if before < 30 || len(m)-before > 8 {
		t.Errorf("%d objects at first, %d for one more name", before, len(m)-before)
	}
	if d, err := Lookup(context.Background(), &memRepo{memObjects: m}, id, "file-00007919", false); err != nil || d == nil {
		t.Error(d, err)
	}
}
