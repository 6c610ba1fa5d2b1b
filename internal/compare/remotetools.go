package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// remoteTools are the same programs with their repositories behind an SSH server. Their
// repository is the directory "repo" under the root of the host.
func remoteTools(kedge, dir string, h *host) []tool {
	path := "PATH=" + h.dir + "/bin:" + os.Getenv("PATH")
	return []tool{
		kedgeRemote("kedge, ssh", kedge, h.sshd, path, dir,
			"-r", fmt.Sprintf("ssh://%s@127.0.0.1:%d%s/root/repo", h.login, h.sshd.port, h.dir), "--ssh", "system"),
		kedgeRemote("kedge, built in", kedge, h.serve, path, dir,
			"-r", fmt.Sprintf("ssh://%s@127.0.0.1:%d/repo", h.login, h.serve.port), "--ssh", "builtin",
			"--ssh-key", h.dir+"/client_key", "--known-hosts", h.dir+"/known_hosts"),
		bupRemote(h, path),
		resticRemote(h, dir),
		borgRemote(h, dir),
	}
}

// kedgeRemote is kedge with the options that lead to a server.
func kedgeRemote(name, exe string, server *process, path, dir string, far ...string) tool {
	k := func(p paths, verb string, args ...string) []string {
		argv := append([]string{exe, "-d", p.home, verb}, far...)
		return append(argv, args...)
	}
	env := []string{path, "KEDGE_CACHE_DIR=" + filepath.Join(dir, "kedge-cache")}
	return tool{
		name: name, exe: exe, server: server, env: env,
		setup: func(p paths) []command {
			return []command{{argv: []string{"rm", "-rf", filepath.Join(dir, "kedge-cache")}}, {argv: k(p, "init"), env: env}}
		},
		save: func(p paths, _ int) [][]string {
			return [][]string{{exe, "-d", p.home, "index", p.src}, k(p, "save", "-q", "-n", "main", p.src)}
		},
		restore: func(p paths) [][]string {
			return [][]string{k(p, "restore", "-q", "-C", p.out, "main/latest"+p.src+"/.")}
		},
		restored: func(paths) string { return "." },
	}
}

func bupRemote(h *host, path string) tool {
	b := func(p paths, verb string, args ...string) []string {
		argv := []string{"bup", "-d", p.home, verb, "-r", h.login + "@127.0.0.1:" + p.repo}
		return append(argv, args...)
	}
	env := []string{path}
	return tool{
		name: "bup -r", exe: "bup", server: h.sshd, env: env,
		setup: func(p paths) []command {
			return []command{{argv: []string{"bup", "-d", p.home, "init"}}, {argv: b(p, "init"), env: env}}
		},
		save: func(p paths, _ int) [][]string {
			return [][]string{{"bup", "-d", p.home, "index", p.src}, b(p, "save", "-q", "-n", "main", p.src)}
		},
		restore: func(p paths) [][]string {
			return [][]string{b(p, "restore", "-q", "-C", p.out, "main/latest"+p.src+"/.")}
		},
		restored: func(paths) string { return "." },
	}
}

func resticRemote(h *host, dir string) tool {
	t := resticTool(dir)
	r := func(p paths, args ...string) []string {
		at := h.login + "@127.0.0.1"
		return append([]string{"restic", "-q", "-r", "sftp:" + at + ":" + p.repo,
			"-o", "sftp.command=" + h.dir + "/bin/ssh " + at + " -s sftp"}, args...)
	}
	t.name, t.server, t.check = "restic, sftp", h.sshd, nil
	t.setup = func(p paths) []command { return []command{{argv: r(p, "init"), env: t.env}} }
	t.save = func(p paths, _ int) [][]string { return [][]string{r(p, "backup", p.src)} }
	t.restore = func(p paths) [][]string { return [][]string{r(p, "restore", "latest", "--target", p.out)} }
	return t
}

func borgRemote(h *host, dir string) tool {
	t := borgTool(dir)
	at := func(p paths) string { return fmt.Sprintf("ssh://%s@127.0.0.1:%d%s", h.login, h.sshd.port, p.repo) }
	local := t.setup
	t.name, t.server, t.check = "borg, ssh", h.sshd, nil
	t.env = append(t.env, "BORG_RSH="+h.dir+"/bin/ssh")
	t.setup = func(p paths) []command {
		list := local(p)
		list[len(list)-1] = command{argv: []string{"borg", "init", "-e", "none", at(p)}, env: t.env}
		return list
	}
	t.save = func(p paths, n int) [][]string {
		return [][]string{{"borg", "create", fmt.Sprintf("%s::a%d", at(p), n), p.src}}
	}
	t.restore = func(p paths) [][]string { return [][]string{{"borg", "extract", at(p) + "::a3"}} }
	return t
}

// printRemote prints the table of the remote section.
func printRemote(tools []tool, sets []string, all []result) {
	var head, rule strings.Builder
	for _, t := range tools {
		fmt.Fprintf(&head, " %s |", t.name)
		rule.WriteString("---|")
	}
	fmt.Printf("\nOver SSH on loopback: seconds (CPU seconds of the client + of the server).\n\n| set | step |%s\n|---|---|%s\n", head.String(), rule.String())
	for _, set := range sets {
		for _, step := range []string{"first", "unchanged", "day 2", "restore"} {
			fmt.Printf("| %s | %s |", set, step)
			for _, t := range tools {
				r, ok := best(all, set, t.name, step)
				if !ok {
					fmt.Print(" – |")
					continue
				}
				fmt.Printf(" %.2f (%.1f + %.1f)%s |", r.wall, r.cpu, r.server, r.note)
			}
			fmt.Println()
		}
	}
}
