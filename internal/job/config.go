package job

import (
	"fmt"
	"strings"
	"time"
)

// Config is the config file, /etc/kedge/kedge.toml. Keys are the field names in lower case
// with dashes: "one-file-system". A key that is none of these is an error.
type Config struct {
	Repository string `toml:"repository"` // where jobs save to, unless a job says otherwise
	Access            // how to reach it
	State      string `toml:"state"`   // directory of what is remembered; default /var/lib/kedge
	Include    string `toml:"include"` // pattern of further files with jobs, "/etc/kedge/jobs.d/*.toml"
	Mirror     string `toml:"mirror"`  // where the server mirrors the repository to, s3://bucket/prefix/REPO: for kedge kit

	Jobs   []Job   `toml:"job"`
	Notify Notify  `toml:"notify"`
	Server *Server `toml:"server"`
}

// Access says how a repository on a server or in a bucket is reached.
type Access struct {
	SSH        string   `toml:"ssh"` // "system" or "builtin"
	SSHKey     string   `toml:"ssh-key"`
	KnownHosts string   `toml:"known-hosts"`
	Endpoint   string   `toml:"endpoint"`
	Region     string   `toml:"region"`
	Profile    string   `toml:"profile"`
	Trust      []string `toml:"trust"` // keys that may sign manifests
	Identity   string   `toml:"identity"`
	BWLimit    string   `toml:"bwlimit"` // "10M" a second
}

// Job is one or more parts that are saved together.
type Job struct {
	Job        string `toml:"name"` // its own name, for locks, logs and `kedge run NAME`
	Repository string `toml:"repository"`
	Access
	Prefix string `toml:"prefix"` // of every NAME

	// Save is the NAME of the commit, a template: {host}, {job}, and {path}, the path with
	// dashes for slashes, which makes a part of every path ("dir-{path}" of /etc and /srv/www:
	// dir-etc, dir-srv-www). Default: the name of the job.
	Save  string   `toml:"save"`
	Paths []string `toml:"paths"`
	Scope

	Streams []Stream `toml:"stream"`
	Parts   []Part   `toml:"part"` // further parts, with NAMEs of their own
	Hooks   Hooks    `toml:"hooks"`

	Schedule      string   `toml:"schedule"` // systemd's OnCalendar: "daily", "*-*-* 22:00"
	Jitter        Duration `toml:"jitter"`   // wait up to so long before beginning
	Timeout       Duration `toml:"timeout"`  // of the whole run; 0: none
	Nice          int      `toml:"nice"`
	IONice        string   `toml:"ionice"` // "idle", "best-effort", "best-effort:7"
	StopOnFailure bool     `toml:"stop-on-failure"`
	Notify        *Notify  `toml:"notify"` // in place of the file's
}

// Part is one NAME of a job.
type Part struct {
	Save    string   `toml:"save"`
	Paths   []string `toml:"paths"`
	Streams []Stream `toml:"stream"`
	Scope
}

// Scope says what below paths is saved, and where it stands in the saved tree.
type Scope struct {
	Exclude          []string `toml:"exclude"`
	ExcludeRx        []string `toml:"exclude-rx"`
	ExcludeGlob      []string `toml:"exclude-glob"`
	ExcludeFrom      string   `toml:"exclude-from"`
	ExcludeIfPresent []string `toml:"exclude-if-present"`
	ExcludeCaches    bool     `toml:"exclude-caches"`
	OneFileSystem    bool     `toml:"one-file-system"`
	Graft            []string `toml:"graft"` // "OLD=NEW": a snapshot stands where its original does
}

// Stream is the output of a command that is saved as a file.
type Stream struct {
	Name string `toml:"name"`
	Path string `toml:"path"` // in the saved tree; default /.streams/NAME

	// One of these says what runs: a preset of presets.go, or a command for bash, with
	// pipefail, whose standard output is saved.
	Preset  string `toml:"preset"`
	Command string `toml:"command"`

	Database string   `toml:"database"` // of a preset; "" is all of them
	Host     string   `toml:"host"`
	Port     int      `toml:"port"`
	User     string   `toml:"user"`
	RunAs    string   `toml:"run-as"`        // system user that the command runs as ("postgres")
	Secret   string   `toml:"password-file"` // mode 0600; handed over by file, never as an argument; KEDGE_PASSWORD_FILE names it to a command
	File     string   `toml:"file"`          // of sqlite, device and tar: what is read
	Args     []string `toml:"args"`          // further arguments of the dump

	Restore string `toml:"restore"` // command that reads the stream; default: that of the preset
	Empty   string `toml:"empty"`   // command that prints nothing or 0 if there is nothing that Restore could replace
}

// Hooks are commands for bash. They get KEDGE_JOB, KEDGE_STEP, and, after the save,
// KEDGE_STATUS, the exit code so far. What they print goes to standard error.
type Hooks struct {
	Before   []string `toml:"before"`
	Snapshot []string `toml:"snapshot"`
	Resume   []string `toml:"resume"`
	After    []string `toml:"after"`
	Finally  []string `toml:"finally"`
	Recover  []string `toml:"recover"` // at the end of kedge recover
	Timeout  Duration `toml:"timeout"` // of each; default 1h
}

// Notify says who is told how a run ended.
type Notify struct {
	Ping     string   `toml:"ping"`     // healthchecks.io and the like: URL/start, URL, URL/fail with the tail of the log
	Webhook  string   `toml:"webhook"`  // POST of the JSON result
	Mail     []string `toml:"mail"`     // through sendmail
	On       string   `toml:"on"`       // "failure" (default), "always"; pings are always sent
	Textfile string   `toml:"textfile"` // directory of Prometheus' node exporter
}

// Mirror says where repositories are mirrored to, and when.
type Mirror struct {
	To        string   `toml:"to"`       // "s3://bucket/prefix"
	Schedule  string   `toml:"schedule"` // default: "Sat"
	EncryptTo []string `toml:"encrypt-to"`
	Access
	ObjectLockDays  int `toml:"object-lock-days"`
	KeepGenerations int `toml:"keep-generations"`
}

// Duration is a length of time in the file: "90s", "10m", "26h", "30d".
type Duration time.Duration

// UnmarshalText reads a duration; "d" is a day of 24 hours.
func (d *Duration) UnmarshalText(text []byte) error {
	s := string(text)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n int
		if _, err := fmt.Sscanf(days, "%d", &n); err == nil && fmt.Sprint(n) == days && n >= 0 && n < 100_000 {
			*d = Duration(n) * Duration(24*time.Hour)
			return nil
		}
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is no duration, as 90s, 10m, 26h or 30d are", s)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes the duration as UnmarshalText reads it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String returns the duration as Go writes it.
func (d Duration) String() string { return time.Duration(d).String() }
