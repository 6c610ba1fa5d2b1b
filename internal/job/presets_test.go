package job

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// The command lines, to the letter: what dedup and safety rest on is in them.
func TestPresetCommands(t *testing.T) {
	const secret = "/proc/self/fd/3"
	mysqlTool := func(a, b string) string { return "$(command -v " + a + " || echo " + b + ")" }
	for _, tt := range []struct {
		s          Stream
		secret     string
		dump, load string
	}{
		{Stream{Preset: "postgresql", Database: "app", Host: "/run/pg", Port: 5433, User: "bob", Args: []string{"--exclude-table=a b"}}, secret,
			"PGPASSFILE=" + secret + " pg_dump " + restrictKey + " --no-password --host=/run/pg --port=5433 --username=bob '--exclude-table=a b' --dbname=app",
			"PGPASSFILE=" + secret + " psql --no-psqlrc --quiet --no-align --tuples-only --no-password --set=ON_ERROR_STOP=1 --host=/run/pg --port=5433 --username=bob --dbname=app --output=/dev/null --single-transaction"},
		{Stream{Preset: "postgresql", Database: "it's"}, "",
			"pg_dump " + restrictKey + ` --no-password '--dbname=it'\''s'`,
			`psql --no-psqlrc --quiet --no-align --tuples-only --no-password --set=ON_ERROR_STOP=1 '--dbname=it'\''s' --output=/dev/null --single-transaction`},
		{Stream{Preset: "postgresql-all"}, "",
			"pg_dumpall " + restrictKey + " --no-password",
			"psql --no-psqlrc --quiet --no-align --tuples-only --no-password --set=ON_ERROR_STOP=1 --dbname=postgres --output=/dev/null"},
		{Stream{Preset: "mysql", Database: "bugs", Host: "db1", Port: 3307, User: "u"}, secret,
			mysqlTool("mariadb-dump", "mysqldump") + " --defaults-extra-file=" + secret + " --host=db1 --port=3307 --user=u --single-transaction --quick --skip-dump-date --order-by-primary --routines --triggers --events --hex-blob --databases bugs",
			mysqlTool("mariadb", "mysql") + " --defaults-extra-file=" + secret + " --host=db1 --port=3307 --user=u"},
		{Stream{Preset: "mysql", Host: "/run/s.sock"}, "",
			mysqlTool("mariadb-dump", "mysqldump") + " --socket=/run/s.sock --single-transaction --quick --skip-dump-date --order-by-primary --routines --triggers --events --hex-blob --all-databases --flush-privileges",
			mysqlTool("mariadb", "mysql") + " --socket=/run/s.sock"},
		{Stream{Preset: "sqlite", File: "/a b.db"}, "",
			"sqlite3 -readonly -bail '/a b.db' BEGIN 'SELECT '\\''PRAGMA application_id='\\'' || application_id || '\\'';'\\'' FROM pragma_application_id'" +
				" 'SELECT '\\''PRAGMA user_version='\\'' || user_version || '\\'';'\\'' FROM pragma_user_version' '.dump --preserve-rowids' COMMIT",
			"sqlite3 -bail '/a b.db'"},
		{Stream{Preset: "mongodb", Database: "app", Host: "h", User: "u"}, secret,
			"mongodump --quiet --archive --config=" + secret + " --host=h --username=u --db=app",
			"mongorestore --quiet --archive --stopOnError --config=" + secret + " --host=h --username=u"},
		{Stream{Preset: "redis", Host: "h", Port: 1, User: "u"}, secret,
			`redis-cli --askpass <` + secret + ` -h h -p 1 --user u --rdb -`, "cat > /var/lib/redis/dump.rdb"},
		{Stream{Preset: "redis", Host: "/run/s.sock", File: "/d/x.rdb"}, "", "redis-cli -s /run/s.sock --rdb -", "cat > /d/x.rdb"},
		{Stream{Preset: "tar", File: "/srv/www/", Args: []string{"--exclude=*.o"}}, "",
			"tar --create --file=- --sort=name --numeric-owner --xattrs --acls --sparse '--exclude=*.o' --directory=/ ./srv/www",
			"tar --extract --file=- --numeric-owner --same-permissions --xattrs --xattrs-include='*' --acls --sparse --directory=/"},
		{Stream{Preset: "device", File: "/dev/vg/a b"}, "",
			"dd 'if=/dev/vg/a b' bs=1M iflag=fullblock status=none",
			"dd of='/dev/vg/a b' bs=64K iflag=fullblock conv=sparse,fsync status=none"},
		{Stream{Command: "mine | x", Restore: "x | yours"}, secret, "mine | x", "x | yours"},
	} {
		dump, err := tt.s.command(false, tt.secret)
		if err != nil || dump != tt.dump {
			t.Errorf("%s\n got %s, %v\nwant %s", tt.s.Preset, dump, err, tt.dump)
		}
		load, err := tt.s.command(true, tt.secret)
		if err != nil || load != tt.load {
			t.Errorf("%s\n got %s, %v\nwant %s", tt.s.Preset, load, err, tt.load)
		}
		for _, c := range []string{dump, load} {
			if out, err := exec.Command("bash", "-n", "-c", c).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", c, err, out)
			}
		}
	}
	if _, err := (&Stream{Name: "s", Command: "x"}).command(true, ""); err == nil || !strings.Contains(err.Error(), "which command reads it (restore)") {
		t.Error(err)
	}
}

// All that presets ask and tell is fit for bash, whatever the names are like.
func TestPresetScripts(t *testing.T) {
	for i := range presets {
		p := &presets[i]
		s := &Stream{Name: "s", Preset: p.name, Database: "a'b\"c`d $e", File: "/a'b", Host: "h'h", User: "u u"}
		var all [][]string
		if p.there != nil {
			all = append(all, p.there(s))
		}
		if p.ready != nil {
			all = append(all, p.ready(s, true, ".x"), p.ready(s, false, ".x"))
		}
		if p.skip != nil {
			all = append(all, p.skip(s))
		}
		if p.up != nil {
			all = append(all, p.up(s))
		}
		for _, words := range append(all, p.dump(s), p.load(s, true)) {
			text := script(words, "/s", "/f")
			if out, err := exec.Command("bash", "-n", "-c", text).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", text, err, out)
			}
			if strings.Contains(text, "{secret}") || strings.Contains(text, "{file}") {
				t.Errorf("%s", text)
			}
		}
	}
}

// A name that is moved aside stays one of at most 63 bytes, and ends in the time.
func TestPgAside(t *testing.T) {
	const suffix = ".before-restore-20260722-231500"
	if got := pgAside("app", suffix); got != "app"+suffix {
		t.Error(got)
	}
	if got := pgAside(strings.Repeat("x", 63), suffix); len(got) != 63 || !strings.HasSuffix(got, suffix) {
		t.Error(got)
	}
}

func TestQuoteWord(t *testing.T) {
	for _, w := range []string{"", "a", "a b", "it's", "$(x)", "`x`", "a\nb", "*", "~", "!x", "ä", `\`, "'''"} {
		out, err := exec.Command("bash", "-c", "printf %s "+quoteWord(w)).Output()
		if err != nil || string(out) != w {
			t.Errorf("%q becomes %q, %v", w, out, err)
		}
	}
}

// Secrets reach tools in a file that only their user can read, in the form that each takes.
func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "pw")
	for _, tt := range []struct {
		preset, secret, want string // want "": refused
	}{
		{"postgresql", `a:b\c"d'e f%s`, `*:*:*:*:a\:b\\c"d'e f%s` + "\n"},
		{"postgresql", "a\nb", ""},
		{"mysql", "a#b;'c %s", "[client]\npassword=\"a#b;'c %s\"\n"},
		{"mysql", `a"b`, ""}, {"mysql", `a\b`, ""}, {"mysql", "a\nb", ""},
		{"mongodb", "p: 'w", "password: \"p: 'w\"\n"}, {"mongodb", `a"b`, ""},
		{"redis", `a"b\c`, `a"b\c`},
		{"", "a\n\"b", "a\n\"b"}, {"", "", ""},
	} {
		if err := os.WriteFile(file, []byte(tt.secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		s := &Stream{Name: "s", Preset: tt.preset, Secret: file, Database: "d"}
		if tt.preset == "" {
			s.Command = `cat "$KEDGE_PASSWORD_FILE"`
		}
		p, err := s.Prepare(&fsx.FS{})
		if tt.want == "" {
			if err == nil || tt.secret != "" && strings.Contains(err.Error(), tt.secret) {
				t.Errorf("%s: %q: %v", tt.preset, tt.secret, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(p.Command+strings.Join(p.Env, " "), tt.secret) {
			t.Errorf("the secret is in %q or %q", p.Command, p.Env)
		}
		cmd := exec.Command("cat", secretFile)
		cmd.ExtraFiles = p.Files
		out, err := cmd.Output()
		if err != nil || string(out) != tt.want {
			t.Errorf("%s: %q, %v, want %q", tt.preset, out, err, tt.want)
		}
		p.Close()
	}
	// Of files that others can read nothing is taken.
	for mode, ok := range map[os.FileMode]bool{0o600: true, 0o400: true, 0o640: false, 0o604: false, 0o644: false, 0o620: false} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("geheim"), mode); err != nil {
			t.Fatal(err)
		}
		p, err := (&Stream{Name: "s", Command: "x", Secret: file}).Prepare(&fsx.FS{})
		if (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "chmod go-rwx") {
			t.Errorf("mode %04o: %v", mode, err)
		}
		if p != nil {
			p.Close()
		}
	}
}

// What runs as somebody else finds the secret too, and only he does.
func TestRunAs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	file := filepath.Join(t.TempDir(), "pw") // in a directory that nobody may search
	if err := os.WriteFile(file, []byte("geheim"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &Stream{Name: "s", Command: `id -un; echo $HOME; cat $KEDGE_PASSWORD_FILE`, Secret: file, RunAs: "nobody"}
	p, err := s.Prepare(&fsx.FS{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	l := &Loading{Stream: s, FS: &fsx.FS{}, Env: os.Environ(), Stderr: os.Stderr}
	got, err := l.ask(t.Context(), []string{p.Command})
	if err != nil || !strings.HasPrefix(got, "nobody\n/nonexistent\n") || !strings.HasSuffix(got, "geheim") {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := (&Stream{Name: "s", Command: "x", RunAs: "no-such-user"}).Prepare(&fsx.FS{}); err == nil {
		t.Error("there is no such user")
	}
}

func TestTool(t *testing.T) {
	for preset, want := range map[string]string{"postgresql": "pg_dump", "sqlite": "sqlite3", "mysql": "", "": ""} {
		if got := (&Stream{Preset: preset}).Tool(); got != want {
			t.Errorf("%s: %q", preset, got)
		}
	}
}
