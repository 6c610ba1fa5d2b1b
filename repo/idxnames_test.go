package repo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
)

// gitPack makes a pack with git out of a few files and returns the ids that it holds.
func gitPack(t *testing.T, dir string, files map[string]string) (ids []string) {
	t.Helper()
	work := t.TempDir()
	run := func(stdin string, args ...string) string {
		cmd := exec.Command("git", append([]string{"--git-dir=" + dir, "--work-tree=" + work,
			"-c", "user.name=n", "-c", "user.email=e@h"}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("git %v: %v", args, err)
		}
		return strings.TrimSpace(string(out))
	}
	for name, body := range files {
		if err := os.WriteFile(filepath.Join(work, name), []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run("", "add", "-A")
	run("", "commit", "-qm", "m")
	run("", "repack", "-adq")
	for _, line := range strings.Split(run("", "rev-list", "--objects", "HEAD"), "\n") {
		id, _, _ := strings.Cut(line, " ")
		ids = append(ids, id)
	}
	return ids
}

func TestIndexes(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	config, err := InitDir(ctx, dir, InitOptions{Bup: true})
	if err != nil || config.Chunker != "rollsum:13" || config.Version != 0 || config.ID == "" {
		t.Fatalf("config %+v, %v", config, err)
	}
	ids := gitPack(t, dir, map[string]string{"a": "hello\n", "b": "b\n"})
	p, err := OpenDir(ctx, dir, DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	names, err := p.Indexes(ctx)
	if err != nil || len(names) != 1 {
		t.Fatalf("indexes %v, %v", names, err)
	}
	b, err := p.OpenIndex(ctx, names[0])
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(io.NewSectionReader(b, 0, b.Size()))
	b.Close()
	want, _ := os.ReadFile(filepath.Join(dir, "objects/pack", names[0]))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("OpenIndex gives other bytes, %v", err)
	}
	for _, bad := range []string{"", ".idx", "pack-.idx", "../pack/" + names[0], strings.TrimSuffix(names[0], ".idx")} {
		if _, err := p.OpenIndex(ctx, bad); !errors.As(err, new(*NotFoundError)) {
			t.Errorf("OpenIndex(%q): %v", bad, err)
		}
	}
	for _, hex := range ids {
		id, err := pack.ParseID(hex)
		if err != nil {
			t.Fatal(err)
		}
		if name, err := p.IndexOf(id); name != names[0] || err != nil {
			t.Errorf("IndexOf(%s) = %q, %v", hex, name, err)
		}
		for _, n := range []int{4, 5, 20, 39, 40} {
			if got, err := p.Abbreviated(ctx, hex[:n]); got != id || err != nil {
				t.Errorf("Abbreviated(%s) = %v, %v", hex[:n], got, err)
			}
		}
		if got, _ := p.Abbreviated(ctx, hex[:3]); !got.IsZero() {
			t.Errorf("three digits are enough for %v", got)
		}
	}
	if name, err := p.IndexOf(pack.Sum(pack.Blob, []byte("nobody's"))); name != "" || err != nil {
		t.Errorf("IndexOf what is not there: %q, %v", name, err)
	}
	for _, bad := range []string{"zzzz", "ABCD", strings.Repeat("0", 41), "0000"} {
		if got, err := p.Abbreviated(ctx, bad); !got.IsZero() || err != nil {
			t.Errorf("Abbreviated(%q) = %v, %v", bad, got, err)
		}
	}
}

// A pack of which something below an object is lost is kept from clients that would
// believe its idx.
func TestIndexesOpen(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	if _, err := InitDir(ctx, dir, InitOptions{Bup: true}); err != nil {
		t.Fatal(err)
	}
	gitPack(t, dir, map[string]string{"a": "hello\n"})
	// The tree and the commit alone, without the blob.
	tree, err := exec.Command("git", "--git-dir="+dir, "rev-parse", "HEAD^{tree}").Output()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("git", "--git-dir="+dir, "pack-objects", "-q", filepath.Join(dir, "objects/pack/pack"))
	cmd.Stdin = bytes.NewReader(tree)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("pack-objects: %v: %s", err, out)
	}
	all, _ := filepath.Glob(filepath.Join(dir, "objects/pack/pack-*.pack"))
	if len(all) != 2 {
		t.Fatalf("%d packs", len(all))
	}
	for _, name := range all { // the larger one has the blob
		if info, _ := os.Stat(name); info.Size() > 120 {
			os.Remove(name)
			os.Remove(strings.TrimSuffix(name, ".pack") + ".idx")
		}
	}
	p, err := OpenDir(ctx, dir, DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if names, err := p.Indexes(ctx); len(names) != 0 || err != nil {
		t.Fatalf("indexes %v, %v", names, err)
	}
	id, _ := pack.ParseID(strings.TrimSpace(string(tree)))
	if name, err := p.IndexOf(id); name != "" || err != nil {
		t.Errorf("IndexOf = %q, %v", name, err)
	}
}
