package repo

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
)

// TestCheckBomb: trees of chunks of which each has the next one sixteen times, so that
// there are 16^12 ways to the last one, where something is missing or does not fit. The
// check takes each once.
func TestCheckBomb(t *testing.T) {
	for _, c := range []struct {
		name, want string
		chunk      func(m memObjects) (id pack.ID, size int64)
	}{
		{"missing", "missing ", func(memObjects) (pack.ID, int64) { return someID(9), 8 }},
		{"wrong size", "malformed ", func(m memObjects) (pack.ID, int64) { return m.blob(3), 8 }},
		{"right", "", func(m memObjects) (pack.ID, int64) { return m.blob(8), 8 }},
	} {
		_, dir := newRepo(t, InitOptions{})
		m := &memRepo{memObjects: memObjects{}}
		id, size := c.chunk(m.memObjects)
		mode := "100644"
		for range 12 {
			var list []any
			for i := range int64(16) {
				list = append(list, fmt.Sprintf("%s %0*x", mode, hexWidth(15*size), i*size), id)
			}
			id, size, mode = m.treeOf(list...), 16*size, "40000"
		}
		tip := m.commit(m.treeOf("40000 f.bup", id), 1700000000)
		writePack(t, dir, m.memObjects)
		git(t, dir, "update-ref", "refs/heads/n", tip.String())
		res, lines := check(t, dir, CheckOptions{})
		if c.want == "" {
			if len(lines) > 0 || res.Trees != 13 {
				t.Errorf("%s: %+v %q", c.name, res, lines)
			}
			continue
		}
		if len(lines) != 2 || !hasFinding(lines, c.want, "") || !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, ` "/f"`) }) {
			t.Errorf("%s: %q", c.name, lines)
		}
	}
}

// TestSweepCheckMemory checks a directory of a million files, as it is and after the
// pack that they are in was lost, in a process of its own: it stays below 200 MiB (I7).
func TestSweepCheckMemory(t *testing.T) {
	if dir := os.Getenv("KEDGE_CHECK_REPO"); dir != "" { // the measured process
		debug.SetGCPercent(50) // as the program does
		debug.SetMemoryLimit(150 << 20)
		p, err := OpenDir(context.Background(), dir, DirOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if _, err := Check(context.Background(), p, CheckOptions{}, func(Finding) {}); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile("/proc/self/status") // getrusage counts the parent before exec
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("%s\n", text)
		return
	}
	if os.Getenv("KEDGE_SWEEP") == "" {
		t.Skip("makes a million objects; KEDGE_SWEEP=full")
	}
	const files = 1_000_000
	_, dir := newRepo(t, InitOptions{})
	var tree bytes.Buffer
	objects := memObjects{}
	for i := range files {
		id, _ := objects.add(pack.Blob, fmt.Appendf(nil, "%d", i))
		fmt.Fprintf(&tree, "100644 %07d\x00", i)
		tree.Write(id.AppendBytes(nil))
	}
	data := writePack(t, dir, objects)
	m := &memRepo{memObjects: memObjects{}}
	root, _ := m.addTree(tree.Bytes())
	tip := m.commit(root, 1700000000)
	writePack(t, dir, m.memObjects)
	git(t, dir, "update-ref", "refs/heads/n", tip.String())
	measure := func(state string) {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestSweepCheckMemory$")
		cmd.Env = append(os.Environ(), "KEDGE_CHECK_REPO="+dir)
		out, err := cmd.CombinedOutput()
		peak := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(out)
		if err != nil || peak == nil {
			t.Fatalf("%v\n%s", err, out)
		}
		kib, _ := strconv.Atoi(string(peak[1]))
		t.Logf("%s: %d MiB", state, kib>>10)
		if kib > 200<<10 {
			t.Errorf("%s: %d MiB", state, kib>>10)
		}
	}
	measure("whole")
	if err := firstErr(os.Remove(data+".pack"), os.Remove(data+".idx")); err != nil {
		t.Fatal(err)
	}
	measure("without the data")
}
