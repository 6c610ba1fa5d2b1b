package job

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// loadText loads a config file with this text.
func loadText(t testing.TB, text string) (*Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kedge.toml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return Load(&fsx.FS{}, file)
}

const okJob = "repository = '/r'\n[[job]]\nname = 'j'\n"

// Every mistake has a message of its own, with the place.
func TestConfigMistakes(t *testing.T) {
	stream := func(more string) string { return okJob + "[[job.stream]]\nname = 's'\n" + more }
	for _, tt := range []struct{ text, want string }{
		{"repositroy = '/r'\n", "kedge.toml:1: repositroy: there is no such key"},
		{"repository = '/r'\n\n[[job]]\nname = 'j'\npathes = ['/a']\n", "kedge.toml:5: job.pathes: there is no such key"},
		{okJob + "paths = ['/a']\n[job.hook]\nbefore = []\n", "job.hook: there is no such key"},
		{"[[job]]\nname =\n", "kedge.toml:2: "},
		{"[[job]]\nname = 'a'\nname = 'b'\n", "kedge.toml:3: "},
		{okJob + "paths = '/a'\n", "paths"},
		{okJob + "paths = ['/a']\njitter = 'soon'\n", `"soon" is no duration`},
		{okJob + "paths = ['/a']\ntimeout = '-3h'\n", `"-3h" is no duration`},
		{"state = 'here'\n", `state: "here" is not absolute`},
		{"repository = '/r'\n[[job]]\npaths = ['/a']\n", "job[0]: it has no name"},
		{"repository = '/r'\n[[job]]\nname = 'a b'\npaths = ['/a']\n", `"a b" cannot be the name of a job`},
		{"repository = '/r'\n[[job]]\nname = 'a/b'\npaths = ['/a']\n", `"a/b" cannot be the name of a job`},
		{"repository = '/r'\n[[job]]\nname = 'x.lock'\npaths = ['/a']\n", `"x.lock" cannot be the name of a job`},
		{"repository = '/r'\n[[job]]\nname = '..'\npaths = ['/a']\n", `".." cannot be the name of a job`},
		{"[[job]]\nname = 'j'\npaths = ['/a']\n", "neither the job nor the file says where to save to"},
		{okJob, "job.j: it has neither paths nor streams"},
		{okJob + "paths = ['a']\n", `path "a" is not absolute`},
		{okJob + "paths = ['/a']\nsave = '{hots}'\n", `save "{hots}": {host}, {job} and {path} are known`},
		{okJob + "paths = ['/a']\nnice = 20\n", "job.j.nice: 20 is not from -20 to 19"},
		{okJob + "paths = ['/a']\nionice = 'fast'\n", `job.j.ionice: ionice "fast"`},
		{okJob + "paths = ['/a']\nssh = 'mine'\n", `job.j.ssh: "mine" is neither system nor builtin`},
		{okJob + "paths = ['/a']\n[job.notify]\non = 'never'\n", `job.j.notify.on: "never" is neither failure nor always`},
		{okJob + "paths = ['/a']\n[job.hooks]\nbefore = ['stop']\n", "what before stops, no hook resume or finally starts again"},
		{okJob + "paths = ['/a']\n[job.hooks]\nsnapshot = ['take']\nresume = ['x']\n", "a snapshot that no hook finally removes stays"},
		{okJob + "paths = ['/a']\n[[job]]\nname = 'j'\npaths = ['/b']\n", "job.j: two jobs have this name"},
		{okJob + "paths = ['/a']\n[[job]]\nname = 'k'\nsave = 'j'\npaths = ['/b']\n", "job.k: it saves j, as job.j does"},
		{stream(""), "stream s: it needs a preset or a command"},
		{stream("preset = 'tar'\nfile = '/a'\ncommand = 'x'\n"), "stream s: it needs a preset or a command"},
		{okJob + "[[job.stream]]\ncommand = 'x'\n", "a stream has no name"},
		{okJob + "[[job.stream]]\nname = 'a@b'\ncommand = 'x'\n", `stream "a@b": no stream can have this name`},
		{okJob + "[[job.stream]]\nname = '../b'\ncommand = 'x'\n", `stream "../b": no stream can have this name`},
		{stream("command = 'x'\npath = 'rel'\n"), `stream s: "rel" is no path in the saved tree`},
		{stream("command = 'x'\npath = '/a/../b'\n"), "is no path in the saved tree"},
		{stream("command = 'x'\n[[job.stream]]\nname = 's'\ncommand = 'y'\n"), "stream s: another one has the path /.streams/s"},
		{stream("preset = 'oracle'\n"), `there is no preset "oracle": postgresql, postgresql-all, mysql, sqlite, mongodb, redis, tar, device are known`},
		{stream("preset = 'postgresql'\n"), "the preset postgresql needs a database"},
		{stream("preset = 'sqlite'\n"), "the preset sqlite needs a file"},
		{stream("preset = 'sqlite'\nfile = 'a.db'\n"), `file "a.db" is not absolute`},
		{stream("preset = 'tar'\nfile = '/a'\npassword-file = '/p'\n"), "the preset tar takes no password"},
		{stream("preset = 'mysql'\ndatabase = '--all'\n"), `"--all" is no name of a database`},
		{stream("preset = 'postgresql'\ndatabase = 'postgresql://u:geheim@h/d'\n"), "is no name of a database"},
		{stream("preset = 'postgresql'\ndatabase = 'dbname=x password=geheim'\n"), "is no name of a database"},
		{stream("preset = 'mysql'\nargs = ['-pgeheim']\n"), "everybody on this machine can read a password there"},
		{stream("preset = 'mysql'\nargs = ['--password=geheim']\n"), "everybody on this machine can read a password there"},
		{stream("preset = 'mongodb'\nargs = ['--uri=mongodb://u:geheim@h']\n"), "everybody on this machine can read a password there"},
		{stream("preset = 'redis'\nargs = ['-a', 'geheim']\n"), "everybody on this machine can read a password there"},
		{okJob + "paths = ['/a', '/b']\nsave = '{path}'\n[[job.stream]]\nname = 's'\ncommand = 'x'\n", "streams need a part of their own"},
	} {
		_, err := loadText(t, tt.text)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s\ngives %v\nand not %s", tt.text, err, tt.want)
		}
	}
}

// All mistakes are told at once.
func TestConfigAllMistakes(t *testing.T) {
	_, err := loadText(t, "state = 'x'\nrepository = '/r'\n[[job]]\nname = 'a'\n[[job]]\nname = 'b'\npaths = ['c']\nnice = 99\n")
	many, ok := err.(interface{ Unwrap() []error })
	if !ok || len(many.Unwrap()) != 4 {
		t.Fatalf("%v", err)
	}
	for _, e := range many.Unwrap() {
		var ce *ConfigError
		if !errors.As(e, &ce) || ce.File == "" {
			t.Errorf("%#v names no place", e)
		}
	}
}

// What is not said is taken from the file, and from the defaults.
func TestConfigDefaults(t *testing.T) {
	c, err := loadText(t, `
repository = "ssh://srv/all"
ssh-key = "/k"
bwlimit = "1M"
[notify]
ping = "https://x/"
[[job]]
name = "a"
paths = ["/a"]
[[job]]
name = "b"
repository = "/own"
bwlimit = "9M"
paths = ["/b"]
timeout = "2d"
[job.notify]
webhook = "https://y/"
`)
	if err != nil {
		t.Fatal(err)
	}
	a, b := c.Jobs[0], c.Jobs[1]
	if c.State != DefaultState || a.Repository != "ssh://srv/all" || a.SSHKey != "/k" || a.BWLimit != "1M" || a.Notify.Ping != "https://x/" {
		t.Errorf("%+v", a)
	}
	if b.Repository != "/own" || b.SSHKey != "/k" || b.BWLimit != "9M" || b.Notify.Webhook != "https://y/" || b.Notify.Ping != "" || b.Timeout != Duration(48*time.Hour) {
		t.Errorf("%+v", b)
	}
}

// Included files have jobs and nothing else, and are as private as the first.
func TestConfigInclude(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	load := func() (*Config, error) { return Load(&fsx.FS{}, filepath.Join(dir, "kedge.toml")) }
	write("kedge.toml", "repository = '/r'\ninclude = 'jobs.d/*.toml'\n", 0o644)
	write("jobs.d/2.toml", "[[job]]\nname = 'two'\npaths = ['/2']\n", 0o644)
	write("jobs.d/1.toml", "[[job]]\nname = 'one'\npaths = ['/1']\n", 0o644)
	c, err := load()
	if err != nil || len(c.Jobs) != 2 || c.Jobs[0].Job != "one" || c.Jobs[1].Repository != "/r" {
		t.Fatalf("%+v, %v", c, err)
	}
	write("jobs.d/3.toml", "state = '/x'\n", 0o644)
	if _, err := load(); err == nil || !strings.Contains(err.Error(), "3.toml: an included file has jobs and nothing else") {
		t.Error(err)
	}
	write("jobs.d/3.toml", "[[job]]\nname = 'three'\npaths = ['/3']\n", 0o666)
	if _, err := load(); err == nil || !strings.Contains(err.Error(), "3.toml: its mode is 0666") {
		t.Error(err)
	}
}

// What others may change, or could put there, is not run as root.
func TestConfigRights(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "kedge.toml"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, []byte(okJob+"paths = ['/a']\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for mode, ok := range map[os.FileMode]bool{0o600: true, 0o644: true, 0o664: false, 0o602: false, 0o666: false} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{file, link} {
			_, err := Load(&fsx.FS{}, name)
			if (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "chmod go-w") {
				t.Errorf("%s, mode %04o: %v", name, mode, err)
			}
		}
	}
	if os.Geteuid() == 0 {
		if err := errors.Join(os.Chmod(file, 0o600), os.Chown(file, 12345, 0)); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(&fsx.FS{}, file); err == nil || !strings.Contains(err.Error(), "it belongs to uid 12345") {
			t.Error(err)
		}
	}
	if _, err := Load(&fsx.FS{}, filepath.Join(dir, "nothing")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := Load(&fsx.FS{}, dir); err == nil {
		t.Error("a directory is loaded")
	}
}

// NAMEs are made of prefix, template and paths.
func TestPlans(t *testing.T) {
	for _, tt := range []struct {
		job  Job
		want string
	}{
		{Job{Job: "etc", Paths: []string{"/etc", "/home"}}, "etc"},
		{Job{Job: "j", Save: "dir-{path}", Paths: []string{"/etc", "/srv/www", "/", "/a//b/"}}, "dir-etc dir-srv-www dir-root dir-a-b"},
		{Job{Job: "j", Prefix: "web1-", Save: "{job}", Paths: []string{"/x"}}, "web1-j"},
		{Job{Job: "j", Prefix: "{host}/", Save: "{path}", Paths: []string{"/x/y"}}, "h/x-y"},
		{Job{Job: "j", Save: "all", Paths: []string{"/a"}, Parts: []Part{{Save: "p-{path}", Paths: []string{"/b", "/c"}}, {Paths: []string{"/d"}}}}, "all p-b p-c j"},
		{Job{Job: "j", Streams: []Stream{{Name: "s", Command: "x"}}}, "j"},
	} {
		plans, err := tt.job.Plans("h")
		var names []string
		for _, p := range plans {
			names = append(names, p.Name)
		}
		if got := strings.Join(names, " "); err != nil || got != tt.want {
			t.Errorf("%+v: %s, %v, want %s", tt.job, got, err, tt.want)
		}
	}
}

func TestSelect(t *testing.T) {
	c := &Config{Jobs: []Job{{Job: "a"}, {Job: "b"}}}
	if list, err := c.Select(nil); len(list) != 2 || err != nil {
		t.Errorf("%v, %v", list, err)
	}
	if list, err := c.Select([]string{"b"}); len(list) != 1 || list[0].Job != "b" || err != nil {
		t.Errorf("%v, %v", list, err)
	}
	if _, err := c.Select([]string{"b", "c"}); err == nil {
		t.Error("there is a job c")
	}
	if _, err := (&Config{}).Select(nil); err == nil {
		t.Error("there is a job")
	}
}

// Whatever stands in the file: a config or an error, and of a config all names can be made.
func FuzzConfig(f *testing.F) {
	f.Add(okJob + "paths = ['/a']\nsave = 'dir-{path}'\nnice = 3\nionice = 'idle'\n")
	f.Add(okJob + "[[job.stream]]\nname = 's'\npreset = 'mysql'\ndatabase = 'x'\nargs = ['--a']\n[job.hooks]\nbefore = ['x']\nfinally = ['y']\ntimeout = '30d'\n")
	f.Add("repository = '/r'\n[server]\nroot = '/s'\n[[job]]\nname = 'j'\n[[job.part]]\npaths = ['/']\n")
	f.Add("[[job]]\n[[job.stream]]\n= \x00")
	file := filepath.Join(f.TempDir(), "kedge.toml")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "include") {
			t.Skip() // of other files
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(&fsx.FS{}, file)
		if err != nil {
			return
		}
		for i := range c.Jobs {
			plans, err := c.Jobs[i].Plans("host")
			if err != nil || len(plans) == 0 {
				t.Fatalf("checked, and yet: %v", err)
			}
			for _, p := range plans {
				for k := range p.Streams {
					if s := &p.Streams[k]; s.Preset != "" {
						if command, err := s.command(false, ""); err != nil || strings.Contains(command, "{secret}") {
							t.Fatalf("%q, %v", command, err)
						}
					}
				}
			}
		}
	})
}
