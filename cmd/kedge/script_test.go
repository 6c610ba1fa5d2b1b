package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts in testdata/script run kedge as a user does, in a fresh directory
// with a home of its own, with git and bup as witnesses. They know these
// commands besides those of testscript:
//
//	exits N CMD...     run a command that must end with exit code N
//	sametree A B       A and B hold the same: names, types, contents, modes, owners,
//	                   times, links, ACLs, extended attributes
//	bytes FILE TEXT    write a file; TEXT is a Go string without its quotes
//	flip FILE OFFSET   change a byte of a file; a negative offset counts from its end
//	asbup ARGS...      kedge, called by the name bup
//	serve ARGS...      kedge serve, until the end of the script; see scriptServe
//
// $REL is $WORK without its first slash, as git wants paths.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"kedge": main,
		"asbup": func() {
			os.Args[0] = "bup"
			main()
		},
	})
}

func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			home := filepath.Join(env.WorkDir, "home")
			env.Values[servedKey{}] = new(exec.Cmd)
			env.Vars = append(env.Vars, "HOME="+home, "TZ=UTC", "LC_ALL=C.UTF-8", "GIT_CONFIG_NOSYSTEM=1",
				"KEDGE_DIR=", "BUP_DIR=", "REL="+strings.TrimPrefix(env.WorkDir, "/"))
			return os.Mkdir(home, 0o755)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":    scriptExits,
			"sametree": scriptSameTree,
			"bytes":    scriptBytes,
			"flip":     scriptFlip,
			"serve":    scriptServe,
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "bup", "acl", "xattr":
				name := map[string]string{"bup": "bup", "acl": "setfacl", "xattr": "setfattr"}[cond]
				_, err := exec.LookPath(name)
				return err == nil, nil
			case "root":
				return os.Getuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
	})
}

func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	code := 0
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

func scriptBytes(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: bytes FILE TEXT")
	}
	name, err := strconv.Unquote(`"` + args[0] + `"`)
	ts.Check(err)
	text, err := strconv.Unquote(`"` + args[1] + `"`)
	ts.Check(err)
	ts.Check(os.MkdirAll(filepath.Dir(ts.MkAbs(name)), 0o755))
	ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o644))
}

func scriptFlip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: flip FILE OFFSET")
	}
	names, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(names) != 1 {
		ts.Fatalf("%d files match %s", len(names), args[0])
	}
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	b, err := os.ReadFile(names[0])
	ts.Check(err)
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 1
	ts.Check(os.Chmod(names[0], 0o644))
	ts.Check(os.WriteFile(names[0], b, 0o644))
}

func scriptSameTree(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: sametree A B")
	}
	a, err := describeTree(ts.MkAbs(args[0]))
	ts.Check(err)
	b, err := describeTree(ts.MkAbs(args[1]))
	ts.Check(err)
	if slices.Equal(a, b) == neg {
		ts.Fatalf("%s and %s differ: %v\n%s", args[0], args[1], !neg, lineDiff(a, b))
	}
}

// describeTree writes down all there is to know about a tree, with the tools of
// the system, so that what kedge gets wrong both ways still shows.
func describeTree(dir string) ([]string, error) {
	var lines []string
	for _, tool := range [][]string{
		{"find", ".", "-printf", `%P|%y|%m|%U:%G|%T@|%l|%n\0`},
		{"find", ".", "!", "-type", "d", "-printf", `%P|size %s\0`},
		{"getfacl", "-R", "-n", "-p", "."},
		{"getfattr", "-R", "-h", "-d", "-e", "hex", "-m", "-", "."},
	} {
		if _, err := exec.LookPath(tool[0]); err != nil {
			continue
		}
		cmd := exec.Command(tool[0], tool[1:]...)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("%v: %w", tool, err)
		}
		sep, part := []byte("\n\n"), ""
		if tool[0] == "find" {
			sep, part = []byte{0}, tool[len(tool)-1]
		}
		for _, line := range bytes.Split(out, sep) {
			lines = append(lines, part+string(line))
		}
	}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		lines = append(lines, fmt.Sprintf("%s|%x", p[len(dir):], sha256.Sum256(b)))
		return err
	})
	slices.Sort(lines)
	return lines, err
}

// lineDiff returns the lines that only one of two sorted lists has.
func lineDiff(a, b []string) string {
	var s strings.Builder
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0] < b[0]:
			fmt.Fprintf(&s, "- %q\n", a[0])
			a = a[1:]
		case len(a) == 0 || b[0] < a[0]:
			fmt.Fprintf(&s, "+ %q\n", b[0])
			b = b[1:]
		default:
			a, b = a[1:], b[1:]
		}
	}
	return s.String()
}
