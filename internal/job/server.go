package job

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kedgebackup/kedge/repo/prune"
)

// Server says what a server is and what it does by itself. Its schedules say on which days
// something is due; `kedge upkeep`, which runs every night, does what is.
type Server struct {
	Root           string `toml:"root"`            // the repositories are directories in it
	User           string `toml:"user"`            // that units run as; default: who owns the root
	Listen         string `toml:"listen"`          // of kedge serve
	AuthorizedKeys string `toml:"authorized-keys"` // default: ROOT/.kedge/authorized_keys
	HostKey        string `toml:"host-key"`        // default: ROOT/.kedge/host_key
	Quota          string `toml:"quota"`           // of a repository: "500G"; status tells when nine tenths are full

	Schedule  string               `toml:"schedule"` // when upkeep runs; default "04:00"
	Retention map[string]Retention `toml:"retention"`
	Prune     Prune                `toml:"prune"`
	GC        GC                   `toml:"gc"`
	Fsck      Fsck                 `toml:"fsck"`
	Mirror    *Mirror              `toml:"mirror"`

	Status Alarms `toml:"status"`
	// DeadMan is how long a NAME may be without a save; default 26h. Expect says so of some:
	// its keys are as those of retention, "0s" expects none. A key without wildcards is a
	// NAME that has to be there.
	DeadMan Duration            `toml:"dead-man"`
	Expect  map[string]Duration `toml:"expect"`
	Metrics string              `toml:"metrics"` // address of /metrics, for kedge status --listen
	Notify  *Notify             `toml:"notify"`
}

// Retention is the rules for the repositories and names that its key matches: "*",
// "build", "build/dir-*". The longest key that matches counts. Values are as the options of
// kedge prune.
type Retention struct {
	Last      string   `toml:"keep-last"`
	Hourly    string   `toml:"keep-hourly"`
	Daily     string   `toml:"keep-daily"`
	Weekly    string   `toml:"keep-weekly"`
	Monthly   string   `toml:"keep-monthly"`
	Quarterly string   `toml:"keep-quarterly"`
	Yearly    string   `toml:"keep-yearly"`
	Within    string   `toml:"keep-within"`
	Tags      []string `toml:"keep-tag"`
}

// Prune says when saves are left out by the rules of retention.
type Prune struct {
	Schedule string `toml:"schedule"` // default: "daily"
}

// GC says when garbage is collected.
type GC struct {
	Schedule  string `toml:"schedule"`  // default: "Sun"
	Threshold int    `toml:"threshold"` // percent; default 10
}

// Fsck says how much is read to see whether it is what was written.
type Fsck struct {
	Schedule string   `toml:"schedule"` // default: "daily"
	Every    Duration `toml:"every"`    // each pack is read once in this time; default 30d
	Nightly  string   `toml:"nightly"`  // and no more than so much in a run, "50G"; default: no limit
}

// Alarms says what status tells of.
type Alarms struct {
	Schedule   string `toml:"schedule"`    // when it is told by itself; default "08:00"
	SizeChange int    `toml:"size-change"` // percent by which a save may grow or shrink; default 50
	Ping       string `toml:"ping"`        // told by kedge status --notify; that of [server.notify] is told by upkeep
}

// deadMan is how long a NAME may be without a save: a day, and what a night is longer than
// another.
const deadMan = Duration(26 * time.Hour)

// Defaults fills in what is not said.
func (s *Server) Defaults() {
	s.DeadMan = cmp.Or(s.DeadMan, deadMan)
	s.Schedule = cmp.Or(s.Schedule, "04:00")
	s.Prune.Schedule = cmp.Or(s.Prune.Schedule, "daily")
	s.GC.Schedule = cmp.Or(s.GC.Schedule, "Sun")
	s.Fsck.Schedule = cmp.Or(s.Fsck.Schedule, "daily")
	s.Fsck.Every = cmp.Or(s.Fsck.Every, Duration(30*24*time.Hour))
	s.Status.Schedule = cmp.Or(s.Status.Schedule, "08:00")
	s.Status.SizeChange = cmp.Or(s.Status.SizeChange, 50)
	if s.Mirror != nil {
		s.Mirror.Schedule = cmp.Or(s.Mirror.Schedule, "Sat")
	}
}

// The tasks of upkeep, in the order in which they are done: what is damaged is neither
// pruned nor collected, and what is collected was mirrored before.
const (
	TaskFsck   = "fsck"
	TaskMirror = "mirror"
	TaskPrune  = "prune"
	TaskGC     = "gc"
)

// Tasks lists the tasks of upkeep in their order.
func Tasks() []string { return []string{TaskFsck, TaskMirror, TaskPrune, TaskGC} }

// Has reports whether the config asks for a task.
func (s *Server) Has(task string) bool {
	switch task {
	case TaskMirror:
		return s.Mirror != nil
	case TaskPrune:
		return len(s.Retention) > 0
	}
	return true
}

// When returns when a task is done.
func (s *Server) When(task string) (Calendar, error) {
	switch task {
	case TaskFsck:
		return ParseCalendar(s.Fsck.Schedule)
	case TaskMirror:
		if s.Mirror != nil {
			return ParseCalendar(s.Mirror.Schedule)
		}
	case TaskPrune:
		return ParseCalendar(s.Prune.Schedule)
	case TaskGC:
		return ParseCalendar(s.GC.Schedule)
	}
	return Calendar{}, fmt.Errorf("there is no task %q", task)
}

// Rules returns what is kept of a NAME, and the key of the config that says so; ok is false
// if none does: then everything is kept.
func (s *Server) Rules(repo, name string) (rules prune.Rules, key string, ok bool, err error) {
	r, key, ok := longest(s.Retention, repo, name)
	if ok {
		rules, err = r.Rules()
	}
	return rules, key, ok, err
}

// Expected returns how long a NAME may be without a save; 0: for ever.
func (s *Server) Expected(repo, name string) time.Duration {
	if d, _, ok := longest(s.Expect, repo, name); ok {
		return time.Duration(d)
	}
	return time.Duration(s.DeadMan)
}

// longest returns the value of the longest key that matches a NAME of a repository.
func longest[V any](m map[string]V, repo, name string) (value V, key string, ok bool) {
	for k, v := range m {
		if matches(k, repo, name) && (!ok || len(k) > len(key) || len(k) == len(key) && k < key) {
			value, key, ok = v, k, true
		}
	}
	return value, key, ok
}

// matches reports whether a key such as "*", "build" or "build/dir-*" matches. A NAME may
// have slashes of its own, which a * alone takes in.
func matches(key, repo, name string) bool {
	r, n, named := strings.Cut(key, "/")
	if ok, err := path.Match(r, repo); !ok || err != nil {
		return false
	}
	if !named || n == "*" || n == name {
		return true
	}
	ok, err := path.Match(n, name)
	return ok && err == nil
}

// exactly reports whether a key of expect stands for one NAME.
func exactly(key string) (repo, name string, ok bool) {
	repo, name, ok = strings.Cut(key, "/")
	return repo, name, ok && !strings.ContainsAny(key, `*?[\`)
}

// Rules returns the rules. An error begins with the key that it is about.
func (r Retention) Rules() (rules prune.Rules, err error) {
	var errs []error
	for _, c := range []struct {
		key, text string
		to        *int
	}{
		{"keep-last", r.Last, &rules.Last}, {"keep-hourly", r.Hourly, &rules.Hourly}, {"keep-daily", r.Daily, &rules.Daily},
		{"keep-weekly", r.Weekly, &rules.Weekly}, {"keep-monthly", r.Monthly, &rules.Monthly},
		{"keep-quarterly", r.Quarterly, &rules.Quarterly}, {"keep-yearly", r.Yearly, &rules.Yearly},
	} {
		switch n, err := strconv.Atoi(c.text); {
		case c.text == "":
		case c.text == "all":
			*c.to = prune.All
		case err != nil || n < 0:
			errs = append(errs, fmt.Errorf("%s: %q is no number and not 'all'", c.key, c.text))
		default:
			*c.to = n
		}
	}
	if r.Within != "" {
		if rules.Within, err = prune.ParsePeriod(r.Within); err != nil {
			errs = append(errs, fmt.Errorf("keep-within: %w", err))
		}
	}
	for _, t := range r.Tags {
		if _, err := path.Match(t, ""); err != nil {
			errs = append(errs, fmt.Errorf("keep-tag: pattern %q: %w", t, err))
		}
	}
	rules.Tags = r.Tags
	if err := errors.Join(errs...); err != nil {
		return rules, err
	}
	return rules, rules.Check()
}

// QuotaBytes returns how large a repository may get; 0: no limit.
func (s *Server) QuotaBytes() int64 {
	n, _ := parseBytes(s.Quota) // it was checked
	return n
}

// check looks for what cannot be meant of a server.
func (s *Server) check(bad func(key, format string, args ...any)) {
	if !filepath.IsAbs(s.Root) {
		bad("server.root", "%q is not absolute", s.Root)
	}
	if m := s.Mirror; m != nil && !strings.HasPrefix(m.To, "s3://") {
		bad("server.mirror.to", "%q is not of the form s3://bucket/prefix", m.To)
	}
	if m := s.Mirror; m != nil && m.KeepGenerations != 0 {
		bad("server.mirror.keep-generations", "the server's credentials should not be able to delete: leave it out, and run 'kedge mirror prune --keep-generations %d %s' from elsewhere, with others", m.KeepGenerations, m.To)
	}
	if s.GC.Threshold < 0 || s.GC.Threshold > 100 {
		bad("server.gc.threshold", "%d is no percentage", s.GC.Threshold)
	}
	if s.Status.SizeChange < 1 {
		bad("server.status.size-change", "%d is no percentage", s.Status.SizeChange)
	}
	for _, z := range []struct{ key, text string }{{"server.quota", s.Quota}, {"server.fsck.nightly", s.Fsck.Nightly}} {
		if _, err := parseBytes(z.text); z.text != "" && err != nil {
			bad(z.key, "%v", err)
		}
	}
	schedules := map[string]string{"server.schedule": s.Schedule, "server.prune.schedule": s.Prune.Schedule, "server.gc.schedule": s.GC.Schedule,
		"server.fsck.schedule": s.Fsck.Schedule, "server.status.schedule": s.Status.Schedule}
	if s.Mirror != nil {
		schedules["server.mirror.schedule"] = s.Mirror.Schedule
	}
	for key, text := range schedules {
		if _, err := ParseCalendar(text); err != nil {
			bad(key, "%v", err)
		}
	}
	for key, r := range s.Retention {
		checkKey("server.retention", key, bad)
		if _, err := r.Rules(); err != nil {
			bad(fmt.Sprintf("server.retention.%q", key), "%v", err)
		}
	}
	for key := range s.Expect {
		checkKey("server.expect", key, bad)
	}
	if s.Notify != nil && !slices.Contains([]string{"", "failure", "always"}, s.Notify.On) {
		bad("server.notify.on", "%q is neither failure nor always", s.Notify.On)
	}
}

// checkKey looks whether a key can match anything.
func checkKey(where, key string, bad func(key, format string, args ...any)) {
	r, n, _ := strings.Cut(key, "/")
	for _, pattern := range []string{r, n} {
		if _, err := path.Match(pattern, ""); err != nil {
			bad(where, "%q: %v", key, err)
		}
	}
	if r == "" {
		bad(where, "%q names no repository", key)
	}
}

// parseBytes reads a number of bytes as "500G": steps of 1024.
func parseBytes(s string) (int64, error) {
	num := strings.TrimRight(s, "kKmMgGtTpP")
	shift := 0
	if unit := s[len(num):]; len(unit) == 1 {
		shift = 10 * (1 + strings.Index("kmgtp", strings.ToLower(unit)))
	} else if unit != "" {
		num = ""
	}
	n, err := strconv.ParseInt(num, 10, 64)
	if err != nil || n <= 0 || n > (1<<63-1)>>shift {
		return 0, fmt.Errorf("%q is no size; write a number and k, M, G, T or P", s)
	}
	return n << shift, nil
}
