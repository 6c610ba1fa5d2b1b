package job

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// scheduled is a config with all kinds of jobs, and a server.
func scheduled(t testing.TB, root string) *Config {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "kedge.toml")
	text := strings.ReplaceAll(`
repository = "ssh://backup@srv/web1"
state = "DIR/state"

[[job]]
name = "etc"
paths = ["/etc"]
schedule = "22:00"
jitter = "30m"

[[job]]
name = "db"
schedule = "Mon..Fri 23:15"
[job.hooks]
before = ["systemctl stop db"]
resume = ["systemctl start db"]
[[job.stream]]
name = "x"
command = "true"

[[job]]
name = "by hand"
paths = ["/home"]

[server]
root = "ROOT"
user = "backup"
[server.mirror]
to = "s3://bucket/x"
schedule = "Sat 06:00"
[server.notify]
textfile = "/var/lib/prometheus/node-exporter"
`, "DIR", dir)
	text = strings.ReplaceAll(strings.ReplaceAll(text, "ROOT", root), "by hand", "by-hand")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(new(fsx.FS), file)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newScheduler(t testing.TB) *Scheduler {
	// A path with what has a meaning for systemd, cron and shells.
	return &Scheduler{FS: new(fsx.FS), Prefix: t.TempDir(), Program: "/bin/true", File: "/etc/kedge/100% a$b.toml", Server: "backup"}
}

// whats sums changes up: "written kedge-run-etc.timer".
func whats(changes []Change) (list []string) {
	for _, c := range changes {
		list = append(list, c.What+" "+filepath.Base(c.Path))
	}
	return list
}

func TestScheduleSystemd(t *testing.T) {
	c := scheduled(t, "/srv/backup")
	s := newScheduler(t)
	if changes, err := s.Install(c, true); err != nil || len(changes) != 14 {
		t.Errorf("a dry run: %v, %v", whats(changes), err)
	}
	if own, err := s.Installed(); err != nil || len(own) != 0 {
		t.Fatalf("a dry run left %v, %v", own, err)
	}
	changes, err := s.Install(c, false)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"written kedge-make-good.service", "written kedge-run-db.service", "written kedge-run-db.timer", "written kedge-run-etc.service", "written kedge-run-etc.timer",
		"written kedge-status.service", "written kedge-status.timer", "written kedge-upkeep.service", "written kedge-upkeep.timer",
		"enabled kedge-make-good.service", "enabled kedge-run-db.timer", "enabled kedge-run-etc.timer", "enabled kedge-status.timer", "enabled kedge-upkeep.timer",
	}
	if got := whats(changes); !slices.Equal(got, want) {
		t.Errorf("%q, want\n%q", got, want)
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(s.Prefix, unitDir, name))
		if err != nil {
			t.Error(err)
		}
		return string(text)
	}
	for name, lines := range map[string][]string{
		"kedge-run-etc.timer": {"OnCalendar=*-*-* 22:00:00", "Persistent=true", "RandomizedDelaySec=1800", "WantedBy=timers.target"},
		"kedge-run-etc.service": {`ExecStart=/bin/true run --quiet --now --config "/etc/kedge/100%% a$$b.toml" etc`, "ProtectSystem=strict", "NoNewPrivileges=yes",
			"CapabilityBoundingSet=CAP_DAC_READ_SEARCH CAP_FOWNER CAP_SYS_NICE", "ReadWritePaths=" + c.State},
		"kedge-run-db.service":    {`ExecStopPost=/bin/true run --quiet --make-good --config "/etc/kedge/100%% a$$b.toml"`, "KillMode=mixed"},
		"kedge-make-good.service": {"WantedBy=multi-user.target", "ConditionDirectoryNotEmpty=" + c.State + "/run"},
		"kedge-upkeep.timer":      {"OnCalendar=*-*-* 04:00:00", "OnCalendar=Sat *-*-* 06:00:00"},
		"kedge-upkeep.service": {"User=backup", "ReadWritePaths=/srv/backup", "ReadWritePaths=/var/lib/prometheus/node-exporter", "CapabilityBoundingSet=",
			"RequiresMountsFor=/srv/backup", "ProtectHome=yes"},
		"kedge-status.timer": {"OnCalendar=*-*-* 08:00:00"},
	} {
		text := read(name)
		for _, line := range lines {
			if !slices.Contains(strings.Split(text, "\n"), line) {
				t.Errorf("%s has no line %s:\n%s", name, line, text)
			}
		}
	}
	if text := read("kedge-run-db.service"); strings.Contains(text, "ProtectSystem") || strings.Contains(text, "NoNewPrivileges") {
		t.Errorf("what hooks do is restrained:\n%s", text)
	}
	verifyUnits(t, filepath.Join(s.Prefix, unitDir))

	// Again: nothing changes. Another config: what is no longer in it goes.
	for _, ch := range must(s.Install(c, false)) {
		if ch.What != "unchanged" {
			t.Errorf("the second time: %s %s", ch.What, ch.Path)
		}
	}
	c.Jobs, c.Server = c.Jobs[:1], nil
	got := whats(must(s.Install(c, false)))
	if n := len(got); n != 13 || got[n-1] != "unchanged kedge-run-etc.timer" {
		t.Errorf("with one job left: %q", got)
	}
	left, err := s.Installed()
	if err != nil || len(left) != 2 {
		t.Errorf("with one job left: %v, %v", left, err)
	}
	foreign(t, s, c)
}

// verifyUnits has systemd read units. It ends well whatever they are: what counts is what it
// says.
func verifyUnits(t *testing.T, dir string) {
	t.Helper()
	exe, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("needs systemd-analyze")
	}
	units, err := filepath.Glob(filepath.Join(dir, "kedge-*"))
	if err != nil || len(units) == 0 {
		t.Fatal("no units", err)
	}
	out, err := exec.Command(exe, append([]string{"verify", "--man=no"}, units...)...).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// foreign: what somebody else wrote stays, and is in nobody's way.
func foreign(t *testing.T, s *Scheduler, c *Config) {
	t.Helper()
	file := filepath.Join(s.Prefix, unitDir, "kedge-serve.service")
	if err := os.WriteFile(file, []byte("[Unit]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(s.Prefix, unitDir, "kedge-run-etc.service")
	text, err := os.ReadFile(own)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(own, text[10:], 0o644); err != nil {
		t.Fatal(err)
	}
	if changes, err := s.Install(c, false); !errors.As(err, new(*ForeignError)) || len(changes) > 0 {
		t.Errorf("over a file of somebody else: %v, %v", whats(changes), err)
	}
	got := whats(must(s.Remove(false)))
	if !slices.Equal(got, []string{"removed kedge-run-etc.timer", "removed kedge-run-etc.timer"}) {
		t.Errorf("removed: %q", got)
	}
	for _, f := range []string{file, own} {
		if _, err := os.Stat(f); err != nil {
			t.Error(err)
		}
	}
	if again := must(s.Remove(false)); len(again) != 0 {
		t.Errorf("removed twice: %q", whats(again))
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestScheduleCron(t *testing.T) {
	c := scheduled(t, "/srv/backup")
	s := newScheduler(t)
	s.Cron = true
	changes, err := s.Install(c, false)
	if err != nil || !slices.Equal(whats(changes), []string{"written kedge"}) {
		t.Fatalf("%v, %v", whats(changes), err)
	}
	text, err := os.ReadFile(filepath.Join(s.Prefix, cronFile))
	if err != nil {
		t.Fatal(err)
	}
	file := `'/etc/kedge/100\% a$b.toml'`
	want := madeBy + `SHELL=/bin/sh
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

0 22 * * *  root  /bin/true run --quiet --config ` + file + ` etc
15 23 * * 1,2,3,4,5  root  /bin/true run --quiet --config ` + file + ` db
@reboot  root  /bin/true run --quiet --make-good --config ` + file + `
0 4 * * *  backup  /bin/true upkeep --quiet --wait 30m --config ` + file + `
0 6 * * 6  backup  /bin/true upkeep --quiet --wait 30m --config ` + file + `
0 8 * * *  backup  /bin/true status --quiet --notify --config ` + file + `
`
	if string(text) != want {
		t.Errorf("%s\nwant\n%s", text, want)
	}
	if got := must(s.Install(c, false)); got[0].What != "unchanged" {
		t.Errorf("the second time: %q", whats(got))
	}
	// From cron to systemd and back: never both.
	s.Cron = false
	if got := whats(must(s.Install(c, false))); got[0] != "removed kedge" {
		t.Errorf("to systemd: %q", got)
	}
	s.Cron = true
	must(s.Install(c, false))
	if own := must(s.Installed()); !slices.Equal(own, []string{cronFile}) {
		t.Errorf("back to cron: %q", own)
	}
	c.Jobs[0].Schedule = "Sat *-*-1 22:00"
	if _, err := s.Install(c, false); err == nil || !strings.Contains(err.Error(), "cron cannot ask") {
		t.Errorf("what cron cannot ask for: %v", err)
	}
}

func TestScheduleShow(t *testing.T) {
	c := scheduled(t, "/srv/backup")
	s := newScheduler(t)
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) // a Saturday
	show := func() (list []string) {
		for _, p := range must(s.Show(c, now)) {
			next := "boot"
			if !p.Next.IsZero() {
				next = p.Next.Format("Mon 15:04")
			}
			list = append(list, p.Name+" "+next+" "+p.State)
		}
		return list
	}
	want := []string{"run etc Sat 22:00 ?", "run db Mon 23:15 ?", "run --make-good boot ?", "upkeep Sun 04:00 ?", "status Sun 08:00 ?"}
	all := func(state string) (list []string) {
		for _, w := range want {
			list = append(list, strings.Replace(w, "?", state, 1))
		}
		return list
	}
	if got := show(); !slices.Equal(got, all("not installed")) {
		t.Errorf("%q", got)
	}
	must(s.Install(c, false))
	if got := show(); !slices.Equal(got, all("installed")) {
		t.Errorf("%q", got)
	}
	c.Jobs[0].Jitter = 0
	if got := show(); got[0] != "run etc Sat 22:00 changed since" || got[1] != all("installed")[1] {
		t.Errorf("%q", got)
	}
	if err := os.Remove(filepath.Join(s.Prefix, unitDir, "timers.target.wants/kedge-upkeep.timer")); err != nil {
		t.Fatal(err)
	}
	if got := show(); got[3] != "upkeep Sun 04:00 not enabled" {
		t.Errorf("%q", got)
	}
}

// Names that systemd cannot have in a file name are escaped as it does it.
func TestUnitName(t *testing.T) {
	for _, name := range []string{"etc", "a.b-c_d", ".x", "ä", `a\b`, "a@b", "100%"} {
		out, err := exec.Command("systemd-escape", "--", name).Output()
		if err != nil {
			t.Skip("needs systemd-escape")
		}
		// A dash stands for a slash there, which no job has in its name.
		want := strings.ReplaceAll(strings.TrimSuffix(string(out), "\n"), `\x2d`, "-")
		if got := unitName(name); got != want {
			t.Errorf("%q is %q, systemd has %q", name, got, want)
		}
	}
}
