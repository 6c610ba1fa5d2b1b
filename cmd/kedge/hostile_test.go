package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/meta"
)

// planter puts objects into a repository with git, which asks no questions either.
type planter struct {
	t    *testing.T
	repo string
}

func (p *planter) git(in []byte, args ...string) string {
	p.t.Helper()
	cmd := exec.Command("git", append([]string{"-C", p.repo}, args...)...)
	cmd.Stdin = bytes.NewReader(in)
	cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=x", "GIT_AUTHOR_EMAIL=x", "GIT_COMMITTER_NAME=x", "GIT_COMMITTER_EMAIL=x")
	out, err := cmd.Output()
	if err != nil {
		p.t.Fatalf("git %q: %v", args, err)
	}
	return strings.TrimSpace(string(out))
}

func (p *planter) put(kind string, body []byte) pack.ID {
	p.t.Helper()
	id, err := pack.ParseID(p.git(body, "hash-object", "-t", kind, "-w", "--literally", "--stdin"))
	if err != nil {
		p.t.Fatal(err)
	}
	return id
}

func (p *planter) blob(body string) pack.ID { return p.put("blob", []byte(body)) }

// tree stores entries as they are, in the order given.
func (p *planter) tree(entries ...repo.TreeEntry) pack.ID {
	var b []byte
	for _, e := range entries {
		b = fmt.Appendf(b, "%o %s\x00", e.Mode, e.Name)
		b = e.ID.AppendBytes(b)
	}
	return p.put("tree", b)
}

func (p *planter) file(name, body string) repo.TreeEntry {
	return repo.TreeEntry{Mode: repo.ModeFile, Name: name, ID: p.blob(body)}
}

func (p *planter) dir(name string, entries ...repo.TreeEntry) repo.TreeEntry {
	return repo.TreeEntry{Mode: repo.ModeDir, Name: name, ID: p.tree(entries...)}
}

// meta stores a .bupm of records with these modes.
func (p *planter) meta(modes ...uint32) repo.TreeEntry {
	var b []byte
	for _, mode := range modes {
		b = (&meta.Meta{Mode: mode, Size: -1}).Append(b)
	}
	return p.file(".bupm", string(b))
}

// chunks makes a tree of chunks, of which each has 256 of the one below: 2^(15+8×levels)
// bytes of zeros behind a front of 32 KiB.
func (p *planter) chunks(front string, levels int) repo.TreeEntry {
	id, size, mode := p.blob(string(make([]byte, 32<<10))), int64(32<<10), uint32(repo.ModeFile)
	for range levels {
		var list []repo.TreeEntry
		for i := range int64(256) {
			list = append(list, repo.TreeEntry{Mode: mode, Name: fmt.Sprintf("%014x", i*size), ID: id})
		}
		id, size, mode = p.tree(list...), 256*size, repo.ModeDir
	}
	front += string(make([]byte, 32<<10-len(front)))
	return repo.TreeEntry{Mode: repo.ModeDir, ID: p.tree(
		repo.TreeEntry{Mode: repo.ModeFile, Name: fmt.Sprintf("%014x", 0), ID: p.blob(front)},
		repo.TreeEntry{Mode: mode, Name: fmt.Sprintf("%014x", 32<<10), ID: id})}
}

func named(name string, e repo.TreeEntry) repo.TreeEntry {
	e.Name = name
	return e
}

// hostileTrees are directories that no writer makes, by what is wrong with them, with
// the exit codes of restore, ls -lR and fsck.
func (p *planter) hostileTrees() map[string]hostileTree {
	link := repo.TreeEntry{Mode: repo.ModeSymlink, Name: "a", ID: p.blob("../..")}
	in := p.file("in", "in")
	deep := p.file("0", "x")
	for range 80 {
		deep = p.dir("0", deep)
	}
	long := binary.AppendUvarint([]byte{3}, 1<<39)
	short := binary.AppendUvarint([]byte{3}, 1<<20)
	return map[string]hostileTree{
		"slash":               {[]repo.TreeEntry{p.file("../outside", "x")}, 5, 5, 5},
		"absolute":            {[]repo.TreeEntry{p.file("/outside", "x")}, 5, 5, 5},
		"dot dot":             {[]repo.TreeEntry{p.dir("..", in)}, 5, 5, 5},
		"dot":                 {[]repo.TreeEntry{p.dir(".", in)}, 5, 5, 5},
		"no name":             {[]repo.TreeEntry{p.file("", "x")}, 5, 5, 5},
		"twice":               {[]repo.TreeEntry{p.file("a", "x"), p.file("a", "y")}, 5, 5, 5},
		"link and directory":  {[]repo.TreeEntry{link, p.dir("a", p.file("outside", "x"))}, 5, 5, 5},
		"directory and link":  {[]repo.TreeEntry{p.dir("a", p.file("outside", "x")), link}, 5, 5, 5},
		"twice when read":     {[]repo.TreeEntry{link, named("a.bup", p.chunks("x", 1))}, 5, 5, 5},
		"order":               {[]repo.TreeEntry{p.file("b", "x"), p.file("a", "x")}, 5, 5, 5},
		"git's names":         {[]repo.TreeEntry{p.dir(".git", p.file("config", "[core]")), p.file(".gitmodules", "x")}, 0, 0, 0},
		"no octal mode":       {[]repo.TreeEntry{{Mode: 0o7777777, Name: "a", ID: in.ID}}, 5, 5, 5},
		"not a tree":          {[]repo.TreeEntry{{Mode: repo.ModeDir, Name: "a", ID: in.ID}}, 5, 5, 5},
		"not a blob":          {[]repo.TreeEntry{{Mode: repo.ModeFile, Name: "a", ID: p.tree(in)}}, 5, 5, 5},
		"chunks too deep":     {[]repo.TreeEntry{named("a.bup", deep)}, 5, 5, 5},
		"chunks overlap":      {[]repo.TreeEntry{p.dir("a.bup", p.file("0", "xyz"), p.file("1", "y"))}, 5, 0, 5},
		"chunks far apart":    {[]repo.TreeEntry{p.dir("a.bup", p.file("00000", "x"), p.file("fffff", "y"))}, 5, 0, 5},
		"chunks at 2^63":      {[]repo.TreeEntry{p.dir("a.bup", p.file("0000000000000000", "x"), p.file("7fffffffffffffff", "yz"))}, 5, 5, 5},
		"no chunk":            {[]repo.TreeEntry{p.dir("a.bup")}, 5, 5, 5},
		"records too few":     {[]repo.TreeEntry{p.meta(0o40755), in}, 5, 5, 5},
		"records too many":    {[]repo.TreeEntry{p.meta(0o40755, 0o100644, 0o100644), in}, 5, 5, 5},
		"records of others":   {[]repo.TreeEntry{p.meta(0o40755, 0o120777), in}, 5, 5, 5},
		"record of a file":    {[]repo.TreeEntry{p.meta(0o100644, 0o100644), in}, 5, 5, 5},
		"records without end": {[]repo.TreeEntry{named(".bupm", p.chunks(string(short), 3)), in}, 5, 5, 5},
		"a record of 2^39":    {[]repo.TreeEntry{named(".bupm", p.chunks(string(long), 3)), in}, 5, 5, 5},
		"records, a file":     {[]repo.TreeEntry{p.file(".bupm", "junk"), in}, 5, 5, 5},
		"records that loop":   {[]repo.TreeEntry{{Mode: repo.ModeSymlink, Name: ".bupm", ID: in.ID}, in}, 5, 5, 5},
		"a long name":         {[]repo.TreeEntry{p.file(strings.Repeat("n", 300), "x")}, 3, 0, 0},
		"a long link":         {[]repo.TreeEntry{{Mode: repo.ModeSymlink, Name: "a", ID: p.blob(strings.Repeat("x", 1<<20))}}, 5, 5, 5},
		"an odd link":         {[]repo.TreeEntry{{Mode: repo.ModeSymlink, Name: "a", ID: p.blob("x\x00y")}}, 5, 5, 0},
	}
}

type hostileTree struct {
	entries           []repo.TreeEntry
	restore, ls, fsck int
}

// TestHostileRepository: whatever is in a tree, each command that reads it ends with a
// named error or a safe result, and soon; what stands beside it is restored, and nothing
// is written outside of OUTDIR.
func TestHostileRepository(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("no git here")
	}
	u := newPerson(t)
	u.do("init")
	p := &planter{t, filepath.Join(u.dir, "repo")}
	for name, c := range p.hostileTrees() {
		top := p.tree(p.dir("bad", c.entries...), p.file("good", "good"), p.dir("later", p.file("inside", "x")))
		tip := p.git([]byte("x"), "commit-tree", top.String())
		p.git(nil, "update-ref", "refs/heads/x", tip)
		before := new(runtime.MemStats)
		runtime.ReadMemStats(before)
		for _, cmd := range []struct {
			line string
			want []int
		}{
			{"restore -C out x/latest/", []int{c.restore}},
			{"restore --dry-run -C out2 x/latest/", []int{c.restore, 0}},
			{"restore --tar x/latest/", []int{c.restore, 0, 5}},
			{"ls -lR x/latest", []int{c.ls}},
			{"ls -la x/latest/bad/..", []int{0, 5}},
			{"ls x/latest/bad/a", []int{0, 4, 5}},
			{"cat-file x/latest/bad/a", []int{0, 2, 4, 5}},
			{"cat-file --meta x/latest/bad/a", []int{0, 4, 5}},
			{"cat-file x/latest/good", []int{0}},
			{"fsck", []int{c.fsck}},
			{"fsck --quick", []int{0}},
		} {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			out, err, code := u.run(ctx, cmd.line)
			cancel()
			if strings.HasPrefix(cmd.line, "ls -lR") && !strings.Contains(out, " inside\n") {
				t.Errorf("%s: kedge %s stops before its end:\n%s%s", name, cmd.line, out, err)
			}
			if !slices.Contains(cmd.want, code) {
				t.Errorf("%s: kedge %s: exit %d, want one of %v\n%s", name, cmd.line, code, cmd.want, err)
			}
		}
		after := new(runtime.MemStats)
		runtime.ReadMemStats(after)
		if grown := int64(after.Sys - before.Sys); grown > 256<<20 {
			t.Errorf("%s: took %d MiB", name, grown>>20)
		}
		if got, err := os.ReadFile("out/good"); err != nil || string(got) != "good" {
			t.Errorf("%s: good: %q, %v", name, got, err)
		}
		if err := os.RemoveAll("out"); err != nil {
			t.Fatal(err)
		}
		list, err := os.ReadDir(".")
		if err != nil || len(list) != 2 { // src and repo
			t.Fatalf("%s: there is %v, error %v", name, list, err)
		}
	}
}
