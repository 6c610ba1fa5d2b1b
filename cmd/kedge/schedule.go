package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/internal/job"
)

const scheduleHelp = `Schedule has the system run kedge by itself, as the config file says: each job that has
a schedule, and on a server its upkeep and status.

'kedge schedule install' writes services and timers of systemd, which make up for what
was slept through, wait a random part of the job's jitter, and keep each service from
what it does not need. Where there is no systemd it writes /etc/cron.d/kedge. Run it
again when the config has changed: what is no longer in it goes. What somebody else
wrote is neither changed nor removed. A job of which hooks stop something also gets a
service that starts it again after a crash, at boot.

'kedge schedule show' says what runs when, 'kedge schedule remove' undoes install.`

const scheduleExample = `  sudo kedge schedule install
  kedge schedule show
  kedge schedule install --dry-run --cron
  sudo kedge schedule remove`

// scheduleOptions are those of the commands of schedule.
type scheduleOptions struct {
	config, root, program string
	cron, systemd, dryRun bool
}

func (a *app) scheduleCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "schedule install|show|remove",
		Short:   "have the system run jobs and upkeep by itself",
		Long:    scheduleHelp,
		Example: scheduleExample,
	}
	for _, sub := range []struct {
		name, short, long string
		run               func(context.Context, *scheduleOptions, *job.Scheduler, *job.Config) error
	}{
		{"install", "write timers, or lines for cron", "Install writes services and timers for systemd, or a file for cron, as the config\nfile says, and removes what it wrote for earlier ones.", a.scheduleInstall},
		{"show", "say what runs when", "Show says what the config file has run when, and whether that is installed.", a.scheduleShow},
		{"remove", "remove what install wrote", "Remove removes what install wrote, and nothing else.", a.scheduleRemove},
	} {
		cmd.AddCommand(a.scheduleSub(sub.name, sub.short, sub.long, sub.run))
	}
	return a.command(cmd, func(context.Context, []string) error {
		return withHint(usagef("schedule needs install, show or remove"), "kedge schedule --help")
	})
}

func (a *app) scheduleSub(name, short, long string, run func(context.Context, *scheduleOptions, *job.Scheduler, *job.Config) error) *cobra.Command {
	cmd := &cobra.Command{
		Use:     name + " [--root DIR] [--cron | --systemd]",
		Short:   short,
		Long:    long,
		Example: "  kedge schedule " + name,
		Args:    cobra.NoArgs,
	}
	var o scheduleOptions
	f := cmd.Flags()
	configFlag(cmd, &o.config)
	f.StringVar(&o.root, "root", "", "of the system in `DIR`, not of this one: for packages and images")
	f.BoolVar(&o.cron, "cron", false, "for cron, though there is systemd")
	f.BoolVar(&o.systemd, "systemd", false, "for systemd, though it does not run")
	f.StringVar(&o.program, "program", "", "`FILE` is what runs (default: this program)")
	if name != "show" {
		f.BoolVarP(&o.dryRun, "dry-run", "n", false, "only say what would be done")
	}
	return a.command(cmd, func(ctx context.Context, _ []string) error {
		if o.cron && o.systemd {
			return usagef("--cron and --systemd: one of them")
		}
		s := &job.Scheduler{FS: a.FS, Prefix: o.root, Program: o.program}
		if name == "remove" { // though there be no config any more
			return run(ctx, &o, s, nil)
		}
		c, err := a.loadConfig(o.config)
		if err != nil {
			return err
		}
		if err := a.scheduler(s, &o, c); err != nil {
			return err
		}
		return run(ctx, &o, s, c)
	})
}

// scheduler fills in what is to be known of the system.
func (a *app) scheduler(s *job.Scheduler, o *scheduleOptions, c *job.Config) (err error) {
	if s.File, err = filepath.Abs(a.configFile(o.config)); err != nil {
		return err
	}
	if s.Program == "" {
		if s.Program, err = os.Executable(); err != nil {
			return err
		}
	}
	s.Cron = o.cron || !o.systemd && !a.hasSystemd(o.root)
	if c.Server != nil {
		s.Server = a.serverUser(c.Server)
	}
	return nil
}

// hasSystemd reports whether systemd runs, or in another system is there.
func (a *app) hasSystemd(root string) bool {
	if root == "" {
		return a.exists("/run/systemd/system")
	}
	return a.exists(filepath.Join(root, "usr/lib/systemd/systemd")) || a.exists(filepath.Join(root, "lib/systemd/systemd"))
}

// serverUser returns the user that the tasks of a server run as: that of the config, else
// whose the root is.
func (a *app) serverUser(s *job.Server) string {
	if s.User != "" {
		return s.User
	}
	info, err := os.Stat(s.Root)
	if err != nil {
		return "root"
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "root"
	}
	id := strconv.FormatUint(uint64(st.Uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

func (a *app) scheduleInstall(ctx context.Context, o *scheduleOptions, s *job.Scheduler, c *job.Config) error {
	changes, err := s.Install(c, o.dryRun)
	if perr := a.printChanges(changes, "schedule install", o.dryRun); err == nil {
		err = perr
	}
	if err != nil || o.dryRun || s.Cron {
		return err
	}
	return a.systemctl(ctx, o, changes)
}

func (a *app) scheduleRemove(ctx context.Context, o *scheduleOptions, s *job.Scheduler, _ *job.Config) error {
	changes, err := s.Remove(o.dryRun)
	if perr := a.printChanges(changes, "schedule remove", o.dryRun); err == nil {
		err = perr
	}
	if err != nil || o.dryRun {
		return err
	}
	return a.systemctl(ctx, o, changes)
}

// printChanges prints what was done; what stayed as it was only with -v.
func (a *app) printChanges(changes []job.Change, command string, dry bool) error {
	if err := a.doc.begin(a, command); err != nil {
		return err
	}
	n := 0
	for _, c := range changes {
		if c.What != "unchanged" {
			n++
		}
		if a.common.json {
			if err := a.doc.entry(a, c); err != nil {
				return err
			}
			continue
		}
		if a.common.quiet || c.What == "unchanged" && a.common.verbose == 0 {
			continue
		}
		text := fmt.Sprintf("%-9s  %s\n", c.What, escapeText(c.Path))
		if dry && c.What == "written" {
			for line := range strings.Lines(c.Text) {
				text += strings.TrimRight("    "+escapeText(strings.TrimSuffix(line, "\n")), " ") + "\n"
			}
		}
		if err := a.print([]byte(text)); err != nil {
			return err
		}
	}
	if n == 0 {
		a.ui.note("nothing had to be changed")
	}
	return nil
}

// systemctl has systemd take note of what was done, if that is this system's and runs.
func (a *app) systemctl(ctx context.Context, o *scheduleOptions, changes []job.Change) error {
	if o.root != "" || !a.exists("/run/systemd/system") {
		return nil
	}
	var start, stop []string
	changed := false
	for _, c := range changes {
		unit := filepath.Base(c.Path)
		changed = changed || c.What != "unchanged"
		switch {
		case filepath.Ext(unit) != ".timer" || filepath.Base(filepath.Dir(c.Path)) != "system":
		case c.What == "removed":
			stop = append(stop, unit)
		default:
			start = append(start, unit)
		}
	}
	if !changed {
		return nil
	}
	var errs []error
	call := func(args ...string) {
		out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
		if err != nil {
			errs = append(errs, fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out))))
		}
	}
	if len(stop) > 0 {
		call(append([]string{"stop"}, stop...)...)
	}
	call("daemon-reload")
	if len(start) > 0 {
		call(append([]string{"restart"}, start...)...)
	}
	return errors.Join(errs...)
}

func (a *app) scheduleShow(_ context.Context, _ *scheduleOptions, s *job.Scheduler, c *job.Config) error {
	list, err := s.Show(c, a.now())
	if err != nil {
		return err
	}
	if err := a.doc.begin(a, "schedule show"); err != nil {
		return err
	}
	rows := [][]string{{"", "WHAT", "WHEN", "NEXT", "STATE"}}
	for _, p := range list {
		if a.common.json {
			if err := a.doc.entry(a, p); err != nil {
				return err
			}
			continue
		}
		when, next := strings.Join(p.When, "; "), "at boot"
		if !p.Next.IsZero() {
			next = p.Next.Format("Mon 2006-01-02 15:04")
		}
		rows = append(rows, []string{"", escapeText(p.Name), when, next, p.State})
	}
	if a.common.json {
		return nil
	}
	if len(list) == 0 {
		a.ui.note("the config file has nothing with a schedule")
		return nil
	}
	return a.print([]byte(table(rows, "<<<<<")))
}
