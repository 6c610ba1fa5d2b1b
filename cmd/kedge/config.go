package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/internal/job"
	"github.com/kedgebackup/kedge/remote/wire"
)

const configHelp = `Config looks after the config file, which says what 'kedge run' does on a client and
what a server does by itself.

'kedge config check' reads it, looks at the world it speaks of, and says all that is
wrong: keys that there are none of, paths that are missing, a server that does not
answer or that the key has no right to write to, a tool that is not installed, a file
with a password that others can read. 'kedge config init' prints one for this host,
with comments, to begin with.`

const configExample = `  kedge config init | sudo tee /etc/kedge/kedge.toml
  kedge config check`

func (a *app) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "config check|init",
		Short:   "check the config file, or print one to begin with",
		Long:    configHelp,
		Example: configExample,
	}
	cmd.AddCommand(a.configCheckCommand(), a.configInitCommand())
	return a.command(cmd, func(context.Context, []string) error {
		return withHint(usagef("config needs check or init"), "kedge config --help")
	})
}

func (a *app) configCheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "check [--config FILE] [--offline]",
		Short:   "say all that is wrong with the config file",
		Long:    "Check reads the config file, and says all that is wrong with it and with what it\nspeaks of.",
		Example: "  kedge config check\n  kedge config check --config ./kedge.toml --offline",
		Args:    cobra.NoArgs,
	}
	var file string
	configFlag(cmd, &file)
	offline := cmd.Flags().Bool("offline", false, "look at the file alone")
	return a.command(cmd, func(ctx context.Context, _ []string) error {
		file = a.configFile(file)
		c, err := job.Load(a.FS, file)
		problems := flatten(err)
		if c == nil || *offline {
			return a.checked(file, c, problems)
		}
		asked := make(map[string]bool) // repositories that many jobs share are asked once
		for i := range c.Jobs {
			j := &c.Jobs[i]
			found := a.checkJob(j)
			if way := j.Repository + "\x00" + j.SSHKey; !asked[way] {
				asked[way] = true
				found = append(found, a.checkRepository(ctx, c.State, j)...)
			}
			for _, err := range found {
				problems = append(problems, fmt.Errorf("job %s: %w", j.Job, err))
			}
		}
		problems = append(problems, a.checkServer(ctx, c.Server)...)
		if len(c.Jobs) > 0 && a.exists(c.State) {
			if err := spaceOf(c.State); err != nil {
				problems = append(problems, err)
			}
		}
		if err := a.checkClock(); err != nil {
			problems = append(problems, err)
		}
		return a.checked(file, c, problems)
	})
}

// checked says what is wrong, a line for each problem.
func (a *app) checked(file string, c *job.Config, problems []error) error {
	if len(problems) == 0 {
		return a.conclude("%s: %s, nothing is wrong", escape(file), plural(int64(len(c.Jobs)), "job"))
	}
	if len(problems) == 1 {
		return &codedError{exitUsage, problems[0]}
	}
	for _, p := range problems {
		a.ui.line("%s", escapeText(p.Error()))
	}
	return &codedError{exitUsage, fmt.Errorf("%s: %s", file, plural(int64(len(problems)), "mistake"))}
}

// flatten returns the errors that one was joined from.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		return many.Unwrap()
	}
	return []error{err}
}

// checkJob looks at the world of a job: sources, tools and secrets.
func (a *app) checkJob(j *job.Job) (problems []error) {
	plans, err := j.Plans(hostname())
	if err != nil {
		return []error{err}
	}
	for _, p := range plans {
		for _, dir := range p.Paths {
			if _, err := a.FS.Lstat(dir); err != nil {
				problems = append(problems, err)
			}
		}
		if p.Scope.ExcludeFrom != "" && !a.exists(p.Scope.ExcludeFrom) {
			problems = append(problems, fmt.Errorf("exclude-from: there is no %s", p.Scope.ExcludeFrom))
		}
		for i := range p.Streams {
			s := &p.Streams[i]
			what, err := s.Prepare(a.FS)
			if err != nil {
				problems = append(problems, err)
				continue
			}
			what.Close()
			if tool := s.Tool(); tool != "" {
				if _, err := exec.LookPath(tool); err != nil {
					problems = append(problems, fmt.Errorf("stream %s: the program %s is not installed", s.Name, tool))
				}
			}
		}
	}
	return problems
}

// checkRepository opens the repository of a job and looks whether it may be written to.
func (a *app) checkRepository(ctx context.Context, state string, j *job.Job) []error {
	a.reachJob(state, j)
	at, err := a.place()
	if err != nil {
		return []error{err}
	}
	if at.scheme == "" && !a.exists(at.path) {
		return nil // the first run makes it
	}
	r, err := a.open(ctx, at.scheme != "ssh")
	if err != nil {
		if exitCode(ctx, err) == exitNotFound && at.scheme == "ssh" {
			return nil // the first run makes it
		}
		return []error{err}
	}
	defer r.Close()
	if s, ok := r.(served); ok && s.Info().Rights&wire.MayAppend == 0 {
		return []error{fmt.Errorf("%s: this key may read there, and not save", j.Repository)}
	}
	if at.scheme == "" {
		return writable(at.path)
	}
	return nil
}

// writable reports a directory that cannot be written to.
func writable(dir string) []error {
	f, err := os.CreateTemp(filepath.Join(dir, "kedge"), ".check-*")
	if err != nil {
		return []error{err}
	}
	f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return []error{err}
	}
	return nil
}

func (a *app) configInitCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "init",
		Short:   "print a config file for this host, with comments",
		Long:    "Init prints a config file for this host, with comments: its directories, and the\ndatabases that run here.",
		Example: "  kedge config init > kedge.toml",
		Args:    cobra.NoArgs,
	}
	return a.command(cmd, func(context.Context, []string) error {
		return a.print([]byte(a.sampleConfig()))
	})
}

// usualPaths are what is worth saving on most machines.
var usualPaths = []string{"/etc", "/home", "/root", "/srv", "/var/www", "/var/spool/cron", "/opt", "/usr/local"}

// usualDumps are the databases that are looked for, by the program that dumps them.
var usualDumps = []struct{ tool, text string }{
	{"pg_dumpall", "[[job.stream]]\nname = \"postgresql\"\npreset = \"postgresql-all\"\nrun-as = \"postgres\"\n"},
	{"mariadb-dump", "[[job.stream]]\nname = \"mysql\"\npreset = \"mysql\"\n# password-file = \"/etc/kedge/mysql.password\"   # mode 0600; not needed for root over the socket\n"},
	{"mysqldump", "[[job.stream]]\nname = \"mysql\"\npreset = \"mysql\"\n# password-file = \"/etc/kedge/mysql.password\"   # mode 0600; not needed for root over the socket\n"},
	{"mongodump", "[[job.stream]]\nname = \"mongodb\"\npreset = \"mongodb\"\n"},
	{"redis-cli", "[[job.stream]]\nname = \"redis\"\npreset = \"redis\"\n"},
}

// sampleConfig makes a config file for this host.
func (a *app) sampleConfig() string {
	var paths []string
	for _, p := range usualPaths {
		if list, err := os.ReadDir(p); err == nil && len(list) > 0 {
			paths = append(paths, fmt.Sprintf("%q", p))
		}
	}
	var dumps []string
	for _, d := range usualDumps {
		if _, err := exec.LookPath(d.tool); err == nil && !slices.Contains(dumps, d.text) {
			dumps = append(dumps, d.text)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, `# What kedge saves of %[1]s every night. 'kedge config check' looks for mistakes,
# 'kedge run' does it now, 'kedge schedule install' every night.

# One repository for this host: on a server, or in a directory.
repository = "ssh://backup@backup.example.org/%[1]s"
ssh-key = "/etc/kedge/id_ed25519"

[notify]
# ping = "https://hc-ping.com/UUID"      # told after every run
# mail = ["root"]                        # told when something is wrong

[[job]]
name = "files"
save = "dir-{path}"                      # one name for each path: dir-etc, dir-home
paths = [%[2]s]
exclude-caches = true
one-file-system = true
schedule = "*-*-* 22:00"
jitter = "30m"
nice = 10
ionice = "idle"
`, hostname(), strings.Join(paths, ", "))
	if len(dumps) > 0 {
		fmt.Fprintf(&b, "\n[[job]]\nname = \"databases\"\nschedule = \"*-*-* 22:00\"\njitter = \"30m\"\n\n%s", strings.Join(dumps, "\n"))
	}
	b.WriteString(sampleServer)
	return b.String()
}

// sampleServer is what a backup server has in its config file.
const sampleServer = `
# On a backup server: what 'kedge upkeep' does at night, and what 'kedge status' expects.
# 'kedge schedule install' has both run by themselves.
#
# [server]
# root = "/srv/backup"
# [server.retention."*"]                 # REPO, or REPO/NAME
# keep-daily = "14"
# keep-weekly = "8"
# keep-monthly = "24"
# [server.mirror]
# to = "s3://bucket/backup"
# [server.notify]
# mail = ["root"]
`
