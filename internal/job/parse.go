package job

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/BurntSushi/toml"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// maxConfig bounds a config file.
const maxConfig = 4 << 20

// A ConfigError is what is wrong with a config file, at a place.
type ConfigError struct {
	File string
	Line int    // 0: it is about no line
	Key  string // "job.etc.paths"
	Text string
}

// Error names the place.
func (e *ConfigError) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	if e.Key != "" {
		fmt.Fprintf(&b, ": %s", e.Key)
	}
	return b.String() + ": " + e.Text
}

// Load reads a config file and those that it includes, and checks everything that can be
// checked without looking at the world: every error that it finds, not only the first, is in
// the error that it returns, a *ConfigError each.
func Load(fsys *fsx.FS, file string) (*Config, error) {
	c := new(Config)
	err := loadFile(fsys, file, c)
	if err == nil && c.Include != "" {
		err = c.include(fsys, file)
	}
	if err != nil {
		return nil, err
	}
	c.defaults()
	return c, c.check(file)
}

// LoadServer reads the section [server] of a config file; nil: it has none. Files that are
// included hold jobs and nothing else, and may be such that who serves cannot read them: they are
// not looked at.
func LoadServer(fsys *fsx.FS, file string) (*Server, error) {
	c := new(Config)
	if err := loadFile(fsys, file, c); err != nil {
		return nil, err
	}
	c.defaults()
	return c.Server, c.check(file)
}

// loadFile reads one file. A file with secrets in it, or that somebody else may change, would
// make others masters of what root runs.
func loadFile(fsys *fsx.FS, file string, c *Config) error {
	if err := private(fsys, file, 0o022); err != nil {
		return err
	}
	text, err := fsys.ReadFile(file, maxConfig)
	if err != nil {
		return err
	}
	meta, err := toml.NewDecoder(bytes.NewReader(text)).Decode(c)
	var bad toml.ParseError
	if errors.As(err, &bad) {
		return &ConfigError{File: file, Line: bad.Position.Line, Text: bad.Message}
	} else if err != nil {
		return &ConfigError{File: file, Text: err.Error()}
	}
	var errs []error
	for _, key := range meta.Undecoded() {
		errs = append(errs, &ConfigError{File: file, Line: lineOf(text, key[len(key)-1]), Key: key.String(), Text: "there is no such key"})
	}
	return errors.Join(errs...)
}

// lineOf finds the first line that sets a key; 0 if none is found.
func lineOf(text []byte, key string) int {
	for i, line := range strings.Split(string(text), "\n") {
		name, _, found := strings.Cut(line, "=")
		name = strings.Trim(strings.TrimSpace(name), `"'[]`)
		if (found || strings.HasPrefix(strings.TrimSpace(line), "[")) && (name == key || strings.HasSuffix(name, "."+key)) {
			return i + 1
		}
	}
	return 0
}

// private refuses a file that others than its owner may change (or read, by mask), or that
// belongs to somebody who is neither root nor who runs this.
func private(fsys *fsx.FS, file string, mask fs.FileMode) error {
	info, err := fsys.Lstat(file)
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 { // the target is what counts; fsx has no Stat
		target, err := filepath.EvalSymlinks(file)
		if err != nil {
			return err
		}
		return private(fsys, target, mask)
	}
	if open := info.Mode().Perm() & mask; open != 0 {
		return &ConfigError{File: file, Text: fmt.Sprintf("its mode is %04o: others must not have that right (chmod %s)", info.Mode().Perm(), chmod(mask))}
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return &ConfigError{File: file, Text: fmt.Sprintf("it belongs to uid %d, who could have root run anything", st.Uid)}
	}
	return nil
}

// chmod says how rights are taken away.
func chmod(mask fs.FileMode) string {
	if mask&0o044 != 0 {
		return "go-rwx"
	}
	return "go-w"
}

// include reads the jobs of further files, which may hold nothing else.
func (c *Config) include(fsys *fsx.FS, file string) error {
	pattern := c.Include
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(filepath.Dir(file), pattern)
	}
	files, err := filepath.Glob(pattern)
	if err != nil {
		return &ConfigError{File: file, Line: 0, Key: "include", Text: err.Error()}
	}
	slices.Sort(files)
	for _, f := range files {
		var more Config
		if err := loadFile(fsys, f, &more); err != nil {
			return err
		}
		jobs := more.Jobs
		more.Jobs = nil
		if more.Include != "" || more.Repository != "" || more.Server != nil || more.State != "" {
			return &ConfigError{File: f, Text: "an included file has jobs and nothing else"}
		}
		c.Jobs = append(c.Jobs, jobs...)
	}
	return nil
}

// DefaultState is where kedge remembers what it did.
const DefaultState = "/var/lib/kedge"

// defaults fills in what is not said.
func (c *Config) defaults() {
	if c.State == "" {
		c.State = DefaultState
	}
	for i := range c.Jobs {
		j := &c.Jobs[i]
		if j.Repository == "" {
			j.Repository = c.Repository
		}
		j.Access = j.Access.or(c.Access)
		if j.Notify == nil {
			j.Notify = &c.Notify
		}
	}
	if s := c.Server; s != nil {
		if s.Notify == nil {
			s.Notify = &c.Notify
		}
		s.Defaults()
		if s.Mirror != nil {
			s.Mirror.Access = s.Mirror.Access.or(c.Access)
		}
	}
}

// or takes from b what a does not say.
func (a Access) or(b Access) Access {
	pick := func(x *string, y string) {
		if *x == "" {
			*x = y
		}
	}
	pick(&a.SSH, b.SSH)
	pick(&a.SSHKey, b.SSHKey)
	pick(&a.KnownHosts, b.KnownHosts)
	pick(&a.Endpoint, b.Endpoint)
	pick(&a.Region, b.Region)
	pick(&a.Profile, b.Profile)
	pick(&a.Identity, b.Identity)
	pick(&a.BWLimit, b.BWLimit)
	if a.Trust == nil {
		a.Trust = b.Trust
	}
	return a
}

// check looks for what cannot be meant.
func (c *Config) check(file string) error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, &ConfigError{File: file, Key: key, Text: fmt.Sprintf(format, args...)})
	}
	if !filepath.IsAbs(c.State) {
		bad("state", "%q is not absolute", c.State)
	}
	seen := make(map[string]bool)
	names := make(map[string]string)
	for i := range c.Jobs {
		j := &c.Jobs[i]
		key := fmt.Sprintf("job[%d]", i)
		if j.Job == "" {
			bad(key, "it has no name")
			continue
		}
		key = "job." + j.Job
		if strings.ContainsAny(j.Job, "/ \t\n") || strings.HasPrefix(j.Job, ".") || strings.HasSuffix(j.Job, ".lock") {
			bad(key, "%q cannot be the name of a job", j.Job)
		}
		if seen[j.Job] {
			bad(key, "two jobs have this name")
		}
		seen[j.Job] = true
		j.check(key, bad)
		plans, err := j.Plans("host")
		if err != nil {
			bad(key, "%v", err)
		}
		for _, p := range plans {
			at := j.Repository + " " + p.Name
			if other, taken := names[at]; taken {
				bad(key, "it saves %s, as %s does", p.Name, other)
			}
			names[at] = key
		}
	}
	if c.Server != nil {
		c.Server.check(bad)
	}
	return errors.Join(errs...)
}

// check looks for what cannot be meant in a job.
func (j *Job) check(key string, bad func(key, format string, args ...any)) {
	if j.Repository == "" {
		bad(key+".repository", "neither the job nor the file says where to save to")
	}
	if j.SSH != "" && j.SSH != "system" && j.SSH != "builtin" {
		bad(key+".ssh", "%q is neither system nor builtin", j.SSH)
	}
	if j.Nice < -20 || j.Nice > 19 {
		bad(key+".nice", "%d is not from -20 to 19", j.Nice)
	}
	if _, err := ioPriority(j.IONice); err != nil {
		bad(key+".ionice", "%v", err)
	}
	if len(j.Hooks.Snapshot) > 0 && len(j.Hooks.Finally) == 0 {
		bad(key+".hooks", "a snapshot that no hook finally removes stays")
	}
	if len(j.Hooks.Before) > 0 && len(j.Hooks.Resume)+len(j.Hooks.Finally) == 0 {
		bad(key+".hooks", "what before stops, no hook resume or finally starts again")
	}
	if j.Schedule != "" {
		if _, err := ParseCalendar(j.Schedule); err != nil {
			bad(key+".schedule", "%v", err)
		}
	}
	if j.Notify != nil && !slices.Contains([]string{"", "failure", "always"}, j.Notify.On) {
		bad(key+".notify.on", "%q is neither failure nor always", j.Notify.On)
	}
}

// Plans returns the parts of a job as they will be saved.
func (j *Job) Plans(host string) ([]Plan, error) {
	var plans []Plan
	add := func(save string, paths []string, scope Scope, streams []Stream) error {
		if save == "" {
			save = j.Job
		}
		each := [][]string{paths}
		if strings.Contains(save, "{path}") {
			each = nil
			for _, p := range paths {
				each = append(each, []string{p})
			}
			if len(streams) > 0 {
				return fmt.Errorf("save %q makes a part of every path: streams need a part of their own", save)
			}
		}
		for _, paths := range each {
			name, err := expand(j.Prefix+save, host, j.Job, paths)
			if err != nil {
				return err
			}
			p := Plan{Name: name, Paths: paths, Scope: scope, Streams: slices.Clone(streams)}
			if err := p.check(); err != nil {
				return err
			}
			plans = append(plans, p)
		}
		return nil
	}
	if len(j.Paths)+len(j.Streams) > 0 {
		if err := add(j.Save, j.Paths, j.Scope, j.Streams); err != nil {
			return nil, err
		}
	}
	for _, p := range j.Parts {
		if err := add(p.Save, p.Paths, p.Scope, p.Streams); err != nil {
			return nil, err
		}
	}
	if len(plans) == 0 {
		return nil, errors.New("it has neither paths nor streams")
	}
	return plans, nil
}

// expand fills in a template of a NAME.
func expand(save, host, job string, paths []string) (string, error) {
	at := ""
	if len(paths) == 1 {
		if at = strings.ReplaceAll(strings.Trim(path.Clean(paths[0]), "/"), "/", "-"); at == "" {
			at = "root"
		}
	}
	name := strings.NewReplacer("{host}", host, "{job}", job, "{path}", at).Replace(save)
	if strings.ContainsAny(name, "{}") {
		return "", fmt.Errorf("save %q: {host}, {job} and {path} are known", save)
	}
	return name, nil
}

// check looks for what cannot be meant in a part.
func (p *Plan) check() error {
	for _, dir := range p.Paths {
		if !filepath.IsAbs(dir) {
			return fmt.Errorf("path %q is not absolute", dir)
		}
	}
	places := make(map[string]bool)
	for i := range p.Streams {
		s := &p.Streams[i]
		if s.Path == "" {
			s.Path = "/.streams/" + s.Name
		}
		switch {
		case s.Name == "":
			return errors.New("a stream has no name")
		case strings.ContainsAny(s.Name, "/@ \t\n\x00") || strings.HasPrefix(s.Name, ".") || strings.HasPrefix(s.Name, "-"):
			return fmt.Errorf("stream %q: no stream can have this name", s.Name)
		case (s.Preset == "") == (s.Command == ""):
			return fmt.Errorf("stream %s: it needs a preset or a command", s.Name)
		case !path.IsAbs(s.Path) || path.Clean(s.Path) != s.Path || s.Path == "/":
			return fmt.Errorf("stream %s: %q is no path in the saved tree", s.Name, s.Path)
		case places[s.Path]:
			return fmt.Errorf("stream %s: another one has the path %s", s.Name, s.Path)
		}
		places[s.Path] = true
		if err := s.checkPreset(); err != nil {
			return err
		}
	}
	return nil
}
