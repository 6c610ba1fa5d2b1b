package main

import (
	"fmt"
	"path/filepath"
	"strings"
)

// paths are where a tool works: home is its own directory on the client, if the repository
// is elsewhere.
type paths struct{ src, repo, out, home string }

type command struct {
	argv []string
	env  []string
}

// A tool is how one backup program does each step.
type tool struct {
	name, exe string
	env       []string
	setup     func(p paths) []command
	save      func(p paths, n int) [][]string
	restore   func(p paths) [][]string // in p.out
	restored  func(p paths) string     // where in p.out the source tree stands then
	check     func(p paths) [][]string // nil: there is no such step
	server    *process                 // that has the repository; nil: it is a directory
}

func allTools(kedge, dir string) []tool {
	return []tool{kedgeTool(kedge), bupTool(), resticTool(dir), borgTool(dir)}
}

func kedgeTool(exe string) tool {
	k := func(p paths, args ...string) []string { return append([]string{exe, "-d", p.repo}, args...) }
	return tool{
		name: "kedge", exe: exe,
		setup: func(p paths) []command { return []command{{argv: k(p, "init")}} },
		save: func(p paths, _ int) [][]string {
			return [][]string{k(p, "index", p.src), k(p, "save", "-q", "-n", "main", p.src)}
		},
		restore: func(p paths) [][]string {
			return [][]string{k(p, "restore", "-q", "-C", p.out, "main/latest"+p.src+"/.")}
		},
		restored: func(paths) string { return "." },
		check:    func(p paths) [][]string { return [][]string{k(p, "fsck")} },
	}
}

func bupTool() tool {
	t := kedgeTool("bup")
	t.name = "bup"
	return t
}

func resticTool(dir string) tool {
	env := []string{"RESTIC_PASSWORD=x", "RESTIC_CACHE_DIR=" + filepath.Join(dir, "restic-cache")}
	r := func(p paths, args ...string) []string { return append([]string{"restic", "-q", "-r", p.repo}, args...) }
	return tool{
		name: "restic", exe: "restic", env: env,
		setup: func(p paths) []command { return []command{{argv: r(p, "init"), env: env}} },
		save:  func(p paths, _ int) [][]string { return [][]string{r(p, "backup", p.src)} },
		restore: func(p paths) [][]string {
			return [][]string{r(p, "restore", "latest", "--target", p.out)}
		},
		restored: func(p paths) string { return strings.TrimPrefix(p.src, "/") },
		check:    func(p paths) [][]string { return [][]string{r(p, "check", "--read-data")} },
	}
}

func borgTool(dir string) tool {
	env := []string{
		"BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes", "BORG_RELOCATED_REPO_ACCESS_IS_OK=yes",
		"BORG_BASE_DIR=" + filepath.Join(dir, "borg"),
	}
	return tool{
		name: "borg", exe: "borg", env: env,
		setup: func(p paths) []command {
			return []command{
				{argv: []string{"rm", "-rf", filepath.Join(dir, "borg")}},
				{argv: []string{"mkdir", "-p", filepath.Join(dir, "borg")}},
				{argv: []string{"borg", "init", "-e", "none", p.repo}, env: env},
			}
		},
		save: func(p paths, n int) [][]string {
			return [][]string{{"borg", "create", fmt.Sprintf("%s::a%d", p.repo, n), p.src}}
		},
		restore:  func(p paths) [][]string { return [][]string{{"borg", "extract", p.repo + "::a3"}} },
		restored: func(p paths) string { return strings.TrimPrefix(p.src, "/") },
		check:    func(p paths) [][]string { return [][]string{{"borg", "check", "--verify-data", p.repo}} },
	}
}
