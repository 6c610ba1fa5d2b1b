package repo

import (
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo/meta"
)

// TestCheckMalformed: trees that hash to their names and are nonsense.
func TestCheckMalformed(t *testing.T) {
	rec := func(mode uint32) []byte { return (&meta.Meta{Mode: mode, Size: -1}).Append(nil) }
	for _, c := range []struct {
		name, want string
		make       func(m *memRepo) pack.ID // returns the tree of a save
	}{
		{"overlap", `has 10 bytes, not 4`, func(m *memRepo) pack.ID {
			return m.treeOf("40000 big.bup", m.treeOf("100644 0", m.blob(10), "100644 4", m.blob(4)))
		}},
		{"gap below", `has 8 bytes, not 10`, func(m *memRepo) pack.ID {
			sub := m.treeOf("100644 0", m.blob(4), "100644 4", m.blob(4))
			return m.treeOf("40000 big.bup", m.treeOf("40000 00", sub, "100644 0a", m.blob(4)))
		}},
		{"shared tree is right in one place only", `has 8 bytes, not 10`, func(m *memRepo) pack.ID {
			sub := m.treeOf("100644 0", m.blob(4), "100644 4", m.blob(4))
			return m.treeOf("40000 a.bup", m.treeOf("40000 0", sub, "100644 8", m.blob(4)), "40000 b.bup", m.treeOf("40000 00", sub, "100644 0a", m.blob(4)))
		}},
		{"mixed types", "mode 120000 in a tree of chunks", func(m *memRepo) pack.ID {
			return m.treeOf("40000 big.bup", m.treeOf("100644 0", m.blob(4), "120000 4", m.blob(4)))
		}},
		{"too deep", "nested deeper", func(m *memRepo) pack.ID {
			id := m.treeOf("100644 0", m.blob(4))
			for range 70 {
				id = m.treeOf("40000 0", id)
			}
			return m.treeOf("40000 big.bup", id)
		}},
		{"tree for a blob", "is a tree, not a blob", func(m *memRepo) pack.ID { return m.treeOf("100644 f", m.treeOf("100644 x", m.blob(1))) }},
		{"blob for a tree", "is a blob, not a tree", func(m *memRepo) pack.ID { return m.treeOf("40000 d", m.blob(1)) }},
		{"too few records", "too few records", func(m *memRepo) pack.ID {
			bupm, _ := m.add(pack.Blob, slices.Concat(rec(0o040755), rec(0o100644)))
			return m.treeOf("100644 .bupm", bupm, "100644 a", m.blob(1), "100644 b", m.blob(2))
		}},
		{"bad record", "record of \"a\"", func(m *memRepo) pack.ID {
			bupm, _ := m.add(pack.Blob, slices.Concat(rec(0o040755), []byte{10, 3, 0xa4, 0x86, 4, 0}))
			return m.treeOf("100644 .bupm", bupm, "100644 a", m.blob(1))
		}},
		{"name twice", `"a" twice`, func(m *memRepo) pack.ID {
			return m.treeOf("100644 a", m.blob(1), "40000 a.bup", m.treeOf("100644 0", m.blob(2)))
		}},
	} {
		_, dir := newRepo(t, InitOptions{})
		m := &memRepo{memObjects: memObjects{}}
		bad := c.make(m)
		tip := m.commit(m.treeOf("40000 fine", m.treeOf("100644 f", m.blob(3)), "40000 in", bad), 1700000000)
		writePack(t, dir, m.memObjects)
		git(t, dir, "update-ref", "refs/heads/n", tip.String())
		res, lines := check(t, dir, CheckOptions{})
		text := strings.Join(lines, "\n")
		if res.Damage < 2 || !strings.Contains(text, c.want) || !strings.Contains(text, `affected`) || !strings.Contains(text, `"/in`) {
			t.Errorf("%s: %s", c.name, text)
		}
		if strings.Contains(text, "/fine") {
			t.Errorf("%s: names what is whole: %s", c.name, text)
		}
		if _, more := check(t, dir, CheckOptions{Names: []string{"n"}}); !strings.Contains(strings.Join(more, "\n"), c.want) {
			t.Errorf("%s, by name: %q", c.name, more)
		}
	}
}

// TestCheckConfused: objects that are right in one place and of the wrong type in another are
// told of whichever place is come to first, and damage elsewhere is traced past them.
func TestCheckConfused(t *testing.T) {
	for _, c := range []struct {
		name, want, first, second string
	}{
		{"blob then tree", "is a blob, not a tree", "100644", "40000"},
		{"tree then blob", "is a tree, not a blob", "40000", "100644"},
		{"link then tree", "is a blob, not a tree", "120000", "40000"},
	} {
		for _, damage := range []bool{false, true} {
			_, dir := newRepo(t, InitOptions{})
			m := &memRepo{memObjects: memObjects{}}
			shared := m.blob(3)
			if c.first == "40000" {
				shared = m.treeOf("100644 x", m.blob(1))
			}
			root := m.treeOf(c.first+" a", shared, c.second+" b", shared)
			if damage {
				root = m.treeOf(c.first+" a", shared, c.second+" b", shared, "100644 lost", someID(5))
			}
			tip := m.commit(root, 1700000000)
			writePack(t, dir, m.memObjects)
			git(t, dir, "update-ref", "refs/heads/a", tip.String())
			res, lines := check(t, dir, CheckOptions{})
			text := strings.Join(lines, "\n")
			if res.Damage < 2 || !strings.Contains(text, c.want) || damage != strings.Contains(text, `"/lost"`) {
				t.Errorf("%s, %v: %s", c.name, damage, text)
			}
		}
	}
}

// TestCheckBlobForRoot: a commit whose tree is a blob that a ref leads to.
func TestCheckBlobForRoot(t *testing.T) {
	_, dir := newRepo(t, InitOptions{})
	m := &memRepo{memObjects: memObjects{}}
	blob := m.blob(3)
	tip := m.commit(blob, 1700000000)
	writePack(t, dir, m.memObjects)
	git(t, dir, "update-ref", "refs/tags/a", blob.String())
	git(t, dir, "update-ref", "refs/tags/b", tip.String())
	if _, lines := check(t, dir, CheckOptions{}); !strings.Contains(strings.Join(lines, "\n"), "is a blob, not a tree") {
		t.Errorf("%q", lines)
	}
}

// TestCheckDeep: directories in one another as deep as a path can be made, with
// damage at the end.
func TestCheckDeep(t *testing.T) {
	const levels = 20000
	_, dir := newRepo(t, InitOptions{})
	m := &memRepo{memObjects: memObjects{}}
	gone := someID(5)
	id := m.treeOf("100644 f", gone)
	for range levels {
		id = m.treeOf("40000 d", id)
	}
	writePack(t, dir, m.memObjects)
	tip := m.commit(id, 1700000000)
	writePack(t, dir, memObjects{tip: m.memObjects[tip]})
	git(t, dir, "update-ref", "refs/heads/n", tip.String())
	_, lines := check(t, dir, CheckOptions{})
	if len(lines) != 2 || !strings.HasSuffix(strings.TrimSuffix(lines[1], `": is missing`), strings.Repeat("/d", levels)+"/f") {
		t.Errorf("%.300q", lines)
	}
}
