package job

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// Scheduler writes down for the system when kedge runs: units and timers of systemd, or
// where there is no systemd a file of /etc/cron.d. Everything that it writes begins with one
// line, by which it knows its own files again: others it neither changes nor removes.
type Scheduler struct {
	FS      *fsx.FS
	Prefix  string // in front of every path: the root of another system, for packages and tests
	Program string // this program, as it is on the system
	File    string // the config file, as it is on the system
	Cron    bool   // not systemd
	Server  string // user that the tasks of the server run as
}

const (
	unitDir  = "/etc/systemd/system"
	cronFile = "/etc/cron.d/kedge"
	madeBy   = "# Written by 'kedge schedule install', which replaces it; 'kedge schedule remove' removes it.\n"
)

// Entry is something that is to run by itself.
type Entry struct {
	Name   string     // "run etc", "upkeep"
	Unit   string     // "kedge-run-etc"
	When   []Calendar // none: at boot
	Jitter time.Duration
	Args   []string // of the program
	User   string
	after  []string // arguments of what runs when it has ended, however it did
	guard  sandbox
}

// entries lists what runs by itself, as the config says.
func (s *Scheduler) entries(c *Config) (list []Entry, err error) {
	config := []string{"--config", s.File}
	good := slices.Concat([]string{"run", "--quiet", "--make-good"}, config)
	left := false
	for i := range c.Jobs {
		j := &c.Jobs[i]
		hooks := len(j.Hooks.Resume)+len(j.Hooks.Finally) > 0
		left = left || hooks
		if j.Schedule == "" {
			continue
		}
		when, err := ParseCalendar(j.Schedule)
		if err != nil {
			return nil, fmt.Errorf("job %s: %w", j.Job, err)
		}
		e := Entry{Name: "run " + j.Job, Unit: "kedge-run-" + unitName(j.Job), When: []Calendar{when}, Jitter: time.Duration(j.Jitter),
			Args: slices.Concat([]string{"run", "--quiet"}, config, []string{j.Job}), User: "root", guard: jobSandbox(c, j)}
		if !s.Cron { // the timer waits, and shows for how long
			e.Args = slices.Concat([]string{"run", "--quiet", "--now"}, config, []string{j.Job})
		}
		if hooks {
			e.after = good
		}
		list = append(list, e)
	}
	if left {
		list = append(list, Entry{Name: "run --make-good", Unit: "kedge-make-good", Args: good, User: "root", guard: sandbox{needs: filepath.Join(c.State, dirRun)}})
	}
	if c.Server != nil {
		server, err := s.serverEntries(c.Server, config)
		if err != nil {
			return nil, err
		}
		list = append(list, server...)
	}
	return list, nil
}

// serverEntries lists what a server does by itself. Upkeep does what is due, so it runs at
// its own time, and at those of tasks that have one.
func (s *Scheduler) serverEntries(v *Server, config []string) ([]Entry, error) {
	when, err := ParseCalendar(v.Schedule)
	if err != nil {
		return nil, err
	}
	times := []Calendar{when}
	for _, task := range Tasks() {
		if !v.Has(task) {
			continue
		}
		c, err := v.When(task)
		if err != nil {
			return nil, err
		}
		if !c.Midnight() && !slices.Contains(times, c) {
			times = append(times, c)
		}
	}
	report, err := ParseCalendar(v.Status.Schedule)
	if err != nil {
		return nil, err
	}
	guard := serverSandbox(v)
	return []Entry{
		{Name: "upkeep", Unit: "kedge-upkeep", When: times, User: s.Server, guard: guard,
			Args: slices.Concat([]string{"upkeep", "--quiet", "--wait", "30m"}, config)},
		{Name: "status", Unit: "kedge-status", When: []Calendar{report}, User: s.Server, guard: guard,
			Args: slices.Concat([]string{"status", "--quiet", "--notify"}, config)},
	}, nil
}

// unitName makes of a name a part of the name of a unit, as systemd-escape does.
func unitName(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		plain := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.:", c) >= 0
		if plain && (i > 0 || c != '.') {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return b.String()
}

// wanted returns the text of each file that there should be, and the links that enable units.
func (s *Scheduler) wanted(c *Config) (files map[string]string, links map[string]string, err error) {
	list, err := s.entries(c)
	if err != nil {
		return nil, nil, err
	}
	files, links = make(map[string]string), make(map[string]string)
	if s.Cron {
		text, err := s.crontab(list)
		if err == nil && len(list) > 0 {
			files[cronFile] = text
		}
		return files, links, err
	}
	for i := range list {
		e := &list[i]
		files[filepath.Join(unitDir, e.Unit+".service")] = s.service(e)
		unit, target := e.Unit+".timer", "timers.target"
		if len(e.When) == 0 {
			unit, target = e.Unit+".service", "multi-user.target"
		} else {
			files[filepath.Join(unitDir, unit)] = s.timer(e)
		}
		links[filepath.Join(unitDir, target+".wants", unit)] = filepath.Join(unitDir, unit)
	}
	return files, links, nil
}

// Change is what was done to a file, or would be.
type Change struct {
	Path string `json:"path"`
	What string `json:"what"` // "written", "removed", "enabled", "unchanged"
	Text string `json:"-"`    // that was written
}

// ForeignError says that a file is in the way that somebody else wrote.
type ForeignError struct{ Path string }

// Error names the file.
func (e *ForeignError) Error() string {
	return e.Path + " was not written by kedge schedule, and is left as it is"
}

// Install makes files and links be as the config says, and removes those of earlier configs.
// With dry nothing is changed. Run again it changes nothing.
func (s *Scheduler) Install(c *Config, dry bool) ([]Change, error) {
	files, links, err := s.wanted(c)
	if err != nil {
		return nil, err
	}
	for path := range files {
		if _, own, err := s.read(path); err != nil {
			return nil, err
		} else if !own {
			return nil, &ForeignError{s.at(path)}
		}
	}
	changes, err := s.sweep(files, links, dry)
	if err != nil {
		return changes, err
	}
	for _, path := range sortedKeys(files) {
		old, _, err := s.read(path)
		what := "written"
		if old == files[path] {
			what = "unchanged"
		} else if err == nil && !dry {
			if err = s.FS.MkdirAll(s.at(filepath.Dir(path)), 0o755); err == nil {
				err = s.FS.Replace(s.at(path), []byte(files[path]), 0o644)
			}
		}
		if err != nil {
			return changes, err
		}
		changes = append(changes, Change{path, what, files[path]})
	}
	for _, path := range sortedKeys(links) {
		if to, err := os.Readlink(s.at(path)); err == nil && to == links[path] {
			continue
		}
		if !dry {
			if err := s.link(path, links[path]); err != nil {
				return changes, err
			}
		}
		changes = append(changes, Change{path, "enabled", ""})
	}
	return changes, nil
}

func sortedKeys(m map[string]string) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Remove removes all that Install ever wrote, and nothing else.
func (s *Scheduler) Remove(dry bool) ([]Change, error) { return s.sweep(nil, nil, dry) }

// at is where a path of the system is.
func (s *Scheduler) at(path string) string { return filepath.Join(s.Prefix, path) }

// read reads a file, "" if there is none; own says that it may be replaced.
func (s *Scheduler) read(path string) (text string, own bool, err error) {
	b, err := s.FS.ReadFile(s.at(path), 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return "", true, nil
	}
	return string(b), strings.HasPrefix(string(b), madeBy), err
}

// link enables a unit, as systemctl does it.
func (s *Scheduler) link(path, to string) error {
	if err := s.FS.MkdirAll(s.at(filepath.Dir(path)), 0o755); err != nil {
		return err
	}
	if err := os.Remove(s.at(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(to, s.at(path))
}

// sweep removes what was written and is not wanted: links first, so that nothing is enabled
// that is not there.
func (s *Scheduler) sweep(files, links map[string]string, dry bool) (changes []Change, err error) {
	own, err := s.Installed()
	if err != nil {
		return nil, err
	}
	var gone []string
	for _, path := range own {
		if _, keep := files[path]; keep {
			continue
		}
		for _, target := range []string{"timers.target.wants", "multi-user.target.wants"} {
			link := filepath.Join(unitDir, target, filepath.Base(path))
			if _, keep := links[link]; keep {
				continue
			}
			if to, err := os.Readlink(s.at(link)); err == nil && to == path {
				gone = append(gone, link)
			}
		}
	}
	for _, path := range own {
		if _, keep := files[path]; !keep {
			gone = append(gone, path)
		}
	}
	for _, path := range gone {
		if !dry {
			if err := s.FS.Remove(s.at(path)); err != nil {
				return changes, err
			}
		}
		changes = append(changes, Change{Path: path, What: "removed"})
	}
	return changes, nil
}

// Installed lists the files that Install wrote, in order.
func (s *Scheduler) Installed() (paths []string, err error) {
	units, err := s.FS.ReadDir(s.at(unitDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	candidates := []string{cronFile}
	for _, e := range units {
		ext := filepath.Ext(e.Name())
		if strings.HasPrefix(e.Name(), "kedge-") && (ext == ".service" || ext == ".timer") && e.Type().IsRegular() {
			candidates = append(candidates, filepath.Join(unitDir, e.Name()))
		}
	}
	for _, path := range candidates {
		text, own, err := s.read(path)
		if err != nil {
			return nil, err
		}
		if text != "" && own {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths, nil
}

// Planned is an entry with when it runs next, and whether it is installed.
type Planned struct {
	Name  string    `json:"name"`
	When  []string  `json:"when"` // none: at boot
	Next  time.Time `json:"next,omitzero"`
	State string    `json:"state"` // "installed", "not installed", "changed since"
}

// Show says what would run when, and whether it will.
func (s *Scheduler) Show(c *Config, now time.Time) (list []Planned, err error) {
	entries, err := s.entries(c)
	if err != nil {
		return nil, err
	}
	files, links, err := s.wanted(c)
	if err != nil {
		return nil, err
	}
	for i := range entries {
		e := &entries[i]
		p := Planned{Name: e.Name, When: []string{}, State: "installed"}
		for _, w := range e.When {
			p.When = append(p.When, w.String())
			if next := w.Next(now); p.Next.IsZero() || next.Before(p.Next) {
				p.Next = next
			}
		}
		for path, text := range files {
			if path != cronFile && strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)) != e.Unit {
				continue
			}
			switch old, own, err := s.read(path); {
			case err != nil:
				return nil, err
			case old == "" || !own:
				p.State = "not installed"
			case old != text && p.State == "installed":
				p.State = "changed since"
			}
		}
		for link, to := range links {
			if strings.TrimSuffix(filepath.Base(link), filepath.Ext(link)) != e.Unit {
				continue
			}
			if is, err := os.Readlink(s.at(link)); (err != nil || is != to) && p.State == "installed" {
				p.State = "not enabled"
			}
		}
		list = append(list, p)
	}
	return list, nil
}
