// Package lint holds the rules of the house as tests: what may import what,
// where the file system may be touched, how long a file may be. A rule is a
// function of one parsed file; TestHouse applies all to the tree, and
// TestRulesCatch shows each of them a file that breaks it.
package lint

import (
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/kedgebackup/kedge"

// levels is the house: a package imports packages of lower levels only. Peers
// never import one another.
var levels = map[string]int{
	"internal/fsx": 0,

	"chunk":     1,
	"pack":      1,
	"pack/midx": 1,
	"repo/meta": 1,

	"index": 2,
	"repo":  2,

	"repo/save":     3,
	"repo/restore":  3,
	"repo/prune":    3,
	"repo/gc":       3,
	"repo/get":      3,
	"remote":        3,
	"remote/wire":   3,
	"remote/access": 3,
	"remote/upload": 3,
	"remote/server": 3,
	"remote/sshd":   3,
	"s3sync":        3,

	"internal/job": 4,

	"cmd/kedge": 5,

	// Test tools, which no package but a test imports (see testOnly), and programs
	// that stand beside the house.
	"internal/fsx/fault": 1,
	"internal/fsx/crash": 1,
	"repo/storetest":     3,
	"repo/repotest":      3,
	"internal/compare":   1,
	"internal/sbom":      1,
}

// sideways are the imports within a level that are meant: from, to.
var sideways = [][2]string{
	{"pack/midx", "pack"}, // a table over idx files
	{"repo/meta", "pack"}, // its CorruptError

	{"remote", "remote/wire"},
	{"remote/access", "remote/wire"}, // rights, as they are told
	{"remote/server", "remote/wire"},
	{"remote/server", "remote/access"},
	{"remote/sshd", "remote/access"},
	{"remote/sshd", "remote/server"},
	{"remote/sshd", "remote/upload"},
}

// testOnly are packages that only tests import, and files that are built with
// the tag "faults", which no release is.
var testOnly = []string{"internal/fsx/fault", "internal/fsx/crash", "repo/storetest", "repo/repotest"}

// topLevel are the directories that there may be at the top.
var topLevel = []string{"cmd", "chunk", "pack", "index", "repo", "remote", "s3sync", "internal", "docs", "examples"}

// homes tells which packages may import a module of others. A module that is
// not listed is imported by tests alone.
var homes = map[string][]string{
	"github.com/go-git/go-billy":    {"repo"},
	"github.com/go-git/go-git":      {"repo", "remote/upload"},
	"github.com/klauspost/compress": {"pack"},
	"github.com/minio/minio-go":     {"s3sync"},
	"github.com/BurntSushi/toml":    {"internal/job"},
	"filippo.io/age":                {"s3sync"},
	"github.com/pjbgf/sha1cd":       {"pack"},
	"github.com/prometheus":         {"internal/job"},
	"github.com/restic/chunker":     {"chunk"},
	"github.com/spf13/cobra":        {"cmd/kedge"},
	"github.com/spf13/pflag":        {"cmd/kedge"},
	"golang.org/x/crypto":           {"remote", "remote/access", "remote/sshd", "s3sync"},
	"golang.org/x/sys/unix":         {"internal/fsx", "index", "repo/meta"},
	"golang.org/x/term":             {"cmd/kedge"},
}

const (
	maxFile    = 500 // lines
	maxFunc    = 80
	maxMethods = 6 // of an interface
)

// file is a parsed source file that is no test.
type file struct {
	name string // relative to the root of the module
	pkg  string // its directory
	*ast.File
	set   *token.FileSet
	lines int
}

func (f *file) isMain() bool { return f.Name.Name == "main" }

// forFaults reports whether the file is built with the tag "faults" only.
func (f *file) forFaults() bool {
	for _, group := range f.Comments {
		for _, c := range group.List {
			if expr, err := constraint.Parse(c.Text); err == nil && c.Pos() < f.Package {
				return !expr.Eval(func(tag string) bool { return tag != "faults" })
			}
		}
	}
	return false
}

// at names a place.
func (f *file) at(pos token.Pos) string {
	return fmt.Sprintf("%s:%d", f.name, f.set.Position(pos).Line)
}

// rules are all that is asked of a file.
var rules = map[string]func(*file) []string{
	"layers":    layers,
	"homes":     thirdParty,
	"seam":      seam,
	"no init":   noInit,
	"length":    length,
	"documents": documented,
	"quiet":     quiet,
	"names":     names,
}

func TestHouse(t *testing.T) {
	files, dirs := load(t, "../..")
	if len(files) < 10 {
		t.Fatalf("only %d files found", len(files))
	}
	for _, dir := range dirs {
		if !slices.Contains(topLevel, dir) {
			t.Errorf("%s: no such directory in the house", dir)
		}
	}
	for _, f := range files {
		for rule, check := range rules {
			for _, complaint := range check(f) {
				t.Errorf("%s: %s", rule, complaint)
			}
		}
	}
}

// load parses all sources below root that are not tests, and lists the
// directories at the top that hold any, tests included.
func load(t *testing.T, root string) (files []*file, dirs []string) {
	t.Helper()
	set := token.NewFileSet()
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipDir(name, rel)
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		if top, _, below := strings.Cut(rel, "/"); below && !slices.Contains(dirs, top) {
			dirs = append(dirs, top)
		}
		if strings.HasSuffix(name, "_test.go") {
			return nil
		}
		src, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		f, err := parse(set, rel, string(src))
		files = append(files, f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files, dirs
}

// skipDir passes over what the go tool does not build with this module.
func skipDir(name, rel string) error {
	base := filepath.Base(rel)
	if rel == "." {
		return nil
	}
	if base == "testdata" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
		return fs.SkipDir
	}
	if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}

func parse(set *token.FileSet, name, src string) (*file, error) {
	parsed, err := parser.ParseFile(set, name, src, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	return &file{name: name, pkg: path.Dir(name), File: parsed, set: set, lines: strings.Count(src, "\n")}, nil
}

// imports calls fn with the path of each import.
func (f *file) imports(fn func(pos token.Pos, target string)) {
	for _, spec := range f.Imports {
		target, _ := strconv.Unquote(spec.Path.Value)
		fn(spec.Pos(), target)
	}
}

// layers: imports go down only.
func layers(f *file) (bad []string) {
	own, known := levels[f.pkg]
	if !known && !strings.HasPrefix(f.pkg, "examples/") {
		return []string{fmt.Sprintf("%s: package %s has no level in the table", f.name, f.pkg)}
	}
	f.imports(func(pos token.Pos, target string) {
		target, ours := strings.CutPrefix(target, module+"/")
		if !ours {
			return
		}
		level, ok := levels[target]
		switch {
		case !ok:
			bad = append(bad, fmt.Sprintf("%s: imports %s, which is not in the table", f.at(pos), target))
		case slices.Contains(testOnly, target) && !slices.Contains(testOnly, f.pkg) && !f.forFaults():
			bad = append(bad, fmt.Sprintf("%s: imports %s, which is for tests", f.at(pos), target))
		case known && level >= own && !slices.Contains(sideways, [2]string{f.pkg, target}):
			bad = append(bad, fmt.Sprintf("%s: %s (level %d) imports %s (level %d)", f.at(pos), f.pkg, own, target, level))
		}
	})
	return bad
}

// thirdParty: code of others has one home each.
func thirdParty(f *file) (bad []string) {
	f.imports(func(pos token.Pos, target string) {
		host, _, _ := strings.Cut(target, "/")
		if !strings.Contains(host, ".") || strings.HasPrefix(target, module+"/") {
			return
		}
		for mod, allowed := range homes {
			if target == mod || strings.HasPrefix(target, mod+"/") {
				if !slices.Contains(allowed, f.pkg) {
					bad = append(bad, fmt.Sprintf("%s: %s is imported by %v only", f.at(pos), target, allowed))
				}
				return
			}
		}
		bad = append(bad, fmt.Sprintf("%s: %s has no home in the table", f.at(pos), target))
	})
	return bad
}

// changes are the calls that change files, by the package they are in. What
// opens a file for reading is left to the writer of the code.
var changes = map[string][]string{
	"os": {"Chmod", "Chown", "Chtimes", "CopyFS", "Create", "CreateTemp", "Lchown", "Link", "Mkdir",
		"MkdirAll", "MkdirTemp", "OpenFile", "Remove", "RemoveAll", "Rename", "Symlink", "Truncate", "WriteFile"},
	"syscall":               systemCalls,
	"golang.org/x/sys/unix": systemCalls,
}

var systemCalls = []string{"Creat", "Fallocate", "Fdatasync", "Fsync", "Ftruncate", "Link", "Linkat", "Mkdir",
	"Mkdirat", "Pwrite", "Rename", "Renameat", "Renameat2", "Rmdir", "Symlink",
	"Symlinkat", "Truncate", "Unlink", "Unlinkat", "Write"}

// seam: the repository, the index and packs change files through internal/fsx
// only. A restore writes to the user's files, by fsx.Dir.
func seam(f *file) []string {
	top, _, _ := strings.Cut(f.pkg, "/")
	if !slices.Contains([]string{"repo", "index", "pack"}, top) || f.pkg == "repo/restore" {
		return nil
	}
	return f.calls(changes, "changes files behind the back of internal/fsx")
}

// calls complains about each use of a listed name of a listed package.
func (f *file) calls(listed map[string][]string, why string) (bad []string) {
	local := map[string]string{} // name in this file: import path
	f.imports(func(_ token.Pos, target string) {
		if listed[target] != nil {
			local[path.Base(target)] = target
		}
	})
	for _, spec := range f.Imports {
		if target, _ := strconv.Unquote(spec.Path.Value); spec.Name != nil && listed[target] != nil {
			local[spec.Name.Name] = target
		}
	}
	ast.Inspect(f.File, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		id, ok := sel.X.(*ast.Ident)
		if !ok || id.Obj != nil { // Obj: a variable of the same name
			return true
		}
		if target := local[id.Name]; slices.Contains(listed[target], sel.Sel.Name) {
			bad = append(bad, fmt.Sprintf("%s: %s.%s %s", f.at(sel.Pos()), target, sel.Sel.Name, why))
		}
		return true
	})
	return bad
}

// noInit: nothing happens before main.
func noInit(f *file) (bad []string) {
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
			bad = append(bad, f.at(fn.Pos())+": init function")
		}
	}
	return bad
}

// length: what does not fit in the head is cut up.
func length(f *file) (bad []string) {
	if f.lines > maxFile {
		bad = append(bad, fmt.Sprintf("%s: %d lines, the edge is %d", f.name, f.lines, maxFile))
	}
	ast.Inspect(f.File, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if lines := f.set.Position(n.End()).Line - f.set.Position(n.Pos()).Line + 1; lines > maxFunc {
				bad = append(bad, fmt.Sprintf("%s: %s has %d lines, the edge is %d", f.at(n.Pos()), n.Name.Name, lines, maxFunc))
			}
		case *ast.InterfaceType:
			if m := n.Methods.NumFields(); m > maxMethods {
				bad = append(bad, fmt.Sprintf("%s: interface of %d methods, the edge is %d", f.at(n.Pos()), m, maxMethods))
			}
		}
		return true
	})
	return bad
}

// documented: every exported name has a comment.
func documented(f *file) (bad []string) {
	if f.isMain() {
		return nil
	}
	need := func(id *ast.Ident, docs ...*ast.CommentGroup) {
		if !id.IsExported() || slices.ContainsFunc(docs, func(c *ast.CommentGroup) bool { return c != nil }) {
			return
		}
		bad = append(bad, fmt.Sprintf("%s: %s has no comment", f.at(id.Pos()), id.Name))
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			need(d.Name, d.Doc)
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					need(s.Name, s.Doc, d.Doc)
				case *ast.ValueSpec:
					for _, id := range s.Names {
						need(id, s.Doc, d.Doc, s.Comment)
					}
				}
			}
		}
	}
	return bad
}

// loud is what a library leaves to its caller.
var loud = map[string][]string{
	"fmt": {"Print", "Printf", "Println"},
	"os":  {"Exit", "Getenv", "LookupEnv", "Environ", "Setenv", "Stdout", "Stderr", "Stdin"},
}

// quiet: a library neither prints, nor exits, nor reads the environment.
func quiet(f *file) []string {
	if f.isMain() {
		return nil
	}
	bad := f.calls(loud, "in a library")
	f.imports(func(pos token.Pos, target string) {
		if target == "log" {
			bad = append(bad, f.at(pos)+": imports log; a *slog.Logger is handed in")
		}
	})
	ast.Inspect(f.File, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if id, ok := call.Fun.(*ast.Ident); ok && (id.Name == "print" || id.Name == "println") && id.Obj == nil {
				bad = append(bad, f.at(call.Pos())+": "+id.Name)
			}
		}
		return true
	})
	return bad
}

// hollow are ends of names that say nothing.
var hollow = []string{"Manager", "Helper", "Helpers", "Util", "Utils", "Impl"}

// names: a type is called by what it is, and what is still to be done is not
// left in the code.
func names(f *file) (bad []string) {
	ast.Inspect(f.File, func(n ast.Node) bool {
		if spec, ok := n.(*ast.TypeSpec); ok {
			for _, end := range hollow {
				if strings.HasSuffix(spec.Name.Name, end) {
					bad = append(bad, fmt.Sprintf("%s: type %s", f.at(spec.Pos()), spec.Name.Name))
				}
			}
		}
		return true
	})
	for _, group := range f.Comments {
		for _, word := range strings.Fields(group.Text()) {
			if w := strings.Trim(word, ":(),."); w == "TODO" || w == "FIXME" || w == "XXX" {
				bad = append(bad, fmt.Sprintf("%s: %s", f.at(group.Pos()), w))
			}
		}
	}
	return bad
}

func TestRulesCatch(t *testing.T) {
	long := strings.Repeat("\t_ = 1\n", maxFunc)
	tests := []struct {
		rule, name, src string
		want            string // part of the complaint; "" if there must be none
	}{
		{"layers", "pack/a.go", `import "` + module + `/repo"`, "imports repo (level 2)"},
		{"layers", "repo/save/a.go", `import "` + module + `/repo/restore"`, "imports repo/restore (level 3)"},
		{"layers", "index/a.go", `import "` + module + `/repo"`, "imports repo (level 2)"},
		{"layers", "repo/a.go", `import "` + module + `/internal/fsx/fault"`, "is for tests"},
		{"layers", "cmd/kedge/a.go", "//go:build faults\n\npackage main\nimport \"" + module + `/internal/fsx/fault"`, ""},
		{"layers", "cmd/kedge/a.go", "//go:build !faults\n\npackage main\nimport \"" + module + `/internal/fsx/fault"`, "is for tests"},
		{"layers", "repo/a.go", `import "` + module + `/internal/strange"`, "not in the table"},
		{"layers", "internal/strange/a.go", ``, "has no level"},
		{"layers", "pack/midx/a.go", `import "` + module + `/pack"`, ""},
		{"layers", "pack/a.go", `import "` + module + `/pack/midx"`, "imports pack/midx"},
		{"layers", "cmd/kedge/a.go", `import "` + module + `/repo/save"`, ""},
		{"homes", "repo/a.go", `import "golang.org/x/sys/unix"`, "imported by"},
		{"homes", "pack/a.go", `import "github.com/klauspost/compress/zlib"`, ""},
		{"homes", "pack/a.go", `import "github.com/pkg/errors"`, "has no home"},
		{"homes", "repo/a.go", `import "github.com/go-git/go-git/v5/config"`, ""},
		{"seam", "repo/a.go", `import "os"; func f() { os.Rename("a", "b") }`, "os.Rename"},
		{"seam", "pack/a.go", `import system "os"; func f() { system.WriteFile("a", nil, 0) }`, "os.WriteFile"},
		{"seam", "repo/meta/a.go", `import "golang.org/x/sys/unix"; var f = unix.Unlink`, "unix.Unlink"},
		{"seam", "repo/a.go", `import "os"; func f() { os.Open("a") }`, ""},
		{"seam", "repo/a.go", `import "os"; type x struct{ Remove func() }; func f(os x) { os.Remove() }`, ""},
		{"seam", "repo/restore/a.go", `import "os"; func f() { os.Rename("a", "b") }`, ""},
		{"no init", "pack/a.go", `func init() {}`, "init function"},
		{"no init", "pack/a.go", `type x int; func (x) init() {}`, ""},
		{"length", "pack/a.go", strings.Repeat("//\n", maxFile), "lines, the edge is 500"},
		{"length", "pack/a.go", "func f() {\n" + long + "}", "f has 82 lines"},
		{"length", "pack/a.go", `type x interface{ A(); B(); C(); D(); E(); F(); G() }`, "interface of 7"},
		{"documents", "pack/a.go", `func F() {}`, "F has no comment"},
		{"documents", "pack/a.go", `type x int; func (x) M() {}`, "M has no comment"},
		{"documents", "pack/a.go", `const C = 1`, "C has no comment"},
		{"documents", "pack/a.go", "// T is one.\ntype T int", ""},
		{"quiet", "pack/a.go", `import "fmt"; func f() { fmt.Println() }`, "fmt.Println in a library"},
		{"quiet", "pack/a.go", `import "os"; func f() { os.Exit(1) }`, "os.Exit in a library"},
		{"quiet", "pack/a.go", `import "log"; var _ = log.Default`, "imports log"},
		{"quiet", "pack/a.go", `func f() { println() }`, "println"},
		{"quiet", "pack/a.go", `import "fmt"; func f() string { return fmt.Sprint() }`, ""},
		{"names", "pack/a.go", `type PackManager int`, "type PackManager"},
		{"names", "pack/a.go", "// TODO: later\nvar x int", "TODO"},
	}
	tested := map[string]bool{}
	for _, tt := range tests {
		if !strings.Contains(tt.src, "package main") {
			tt.src = "package p\n" + tt.src
		}
		f, err := parse(token.NewFileSet(), tt.name, tt.src)
		if err != nil {
			t.Fatalf("%s: %v", tt.src, err)
		}
		bad := strings.Join(rules[tt.rule](f), "\n")
		if (tt.want == "") != (bad == "") || !strings.Contains(bad, tt.want) {
			t.Errorf("%s, %s: %q\n got complaint %q\nwant %q", tt.rule, tt.name, tt.src, bad, tt.want)
		}
		tested[tt.rule] = tested[tt.rule] || tt.want != ""
	}
	for rule := range rules {
		if !tested[rule] {
			t.Errorf("rule %q never complained", rule)
		}
	}
}
