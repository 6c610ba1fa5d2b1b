package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A host is a machine with a config file.
type host struct {
	dir, repo, config string
	env               []string
}

// newHost writes a config file; HERE in it is the directory of the host.
func newHost(t testing.TB, config string) *host {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	check(t, err)
	h := &host{dir: dir, repo: dir + "/repo", config: dir + "/kedge.toml"}
	text := fmt.Sprintf("repository = %q\nstate = %q\n%s", h.repo, dir+"/state", strings.ReplaceAll(config, "HERE", dir))
	check(t, os.WriteFile(h.config, []byte(text), 0o644))
	return h
}

// part is what kedge run says of one NAME.
type part struct {
	Name   string `json:"name"`
	Exit   int    `json:"exit"`
	Error  string `json:"error"`
	Commit string `json:"commit"`
	Read   int64  `json:"bytes_read"`
	New    int64  `json:"bytes_new"`
	Stored int64  `json:"bytes_stored"`
}

// try runs kedge with the config.
func (h *host) try(t testing.TB, command1 string, args ...string) result {
	t.Helper()
	return command(t, h.env, binary, append([]string{command1, "--config", h.config}, args...)...)
}

// night runs kedge run, and returns the parts by their NAMEs.
func (h *host) night(t testing.TB, code int) map[string]part {
	t.Helper()
	r := h.try(t, "run", "--json")
	if r.code != code {
		t.Fatalf("kedge run: exit %d, want %d\n%s%s", r.code, code, r.out, r.err)
	}
	if strings.Contains(r.out+r.err, dbPassword) {
		t.Errorf("the password is in what kedge says:\n%s%s", r.out, r.err)
	}
	var doc struct {
		Entries []struct {
			Parts []part `json:"parts"`
		} `json:"entries"`
	}
	check(t, json.Unmarshal([]byte(r.out), &doc))
	parts := map[string]part{}
	for _, e := range doc.Entries {
		for _, p := range e.Parts {
			parts[p.Name] = p
		}
	}
	return parts
}

// reverse runs kedge run --restore, which must go well.
func (h *host) reverse(t testing.TB, args ...string) string {
	t.Helper()
	r := h.try(t, "run", append([]string{"--restore"}, args...)...)
	if r.code != 0 {
		t.Fatalf("kedge run --restore %q: exit %d\n%s%s", args, r.code, r.out, r.err)
	}
	if !strings.Contains(r.err, "read it with: ") || strings.Contains(r.out+r.err, dbPassword) {
		t.Errorf("kedge run --restore %q says\n%s%s", args, r.out, r.err)
	}
	return r.err
}

// pipe restores a stream with the command that reads it.
func (h *host) pipe(t testing.TB, stream string, reader *exec.Cmd) {
	t.Helper()
	cmd := exec.Command(binary, "-d", h.repo, "restore-stream", stream)
	out, err := cmd.StdoutPipe()
	check(t, err)
	reader.Stdin = out
	check(t, cmd.Start())
	output(t, reader)
	check(t, cmd.Wait())
}

// A dbCase is a database that is dumped, lost and brought back. All of it is in dump.
type dbCase struct {
	host    *host
	stream  string
	fill    func()
	change  func()
	dump    func() string
	destroy func() // as if it had never been
	make    func() // what restore-stream | client needs
	reader  func() *exec.Cmd
	aside   func() string // a dump of what run --restore --force moved aside; nil: it is a file in the state
}

// prove plays all nights and accidents.
func (c *dbCase) prove(t *testing.T) {
	t.Helper()
	h := c.host
	c.fill()
	first := h.night(t, 0)["db"]
	before := c.dump()
	if second := h.night(t, 0)["db"]; second.New != 0 {
		t.Errorf("a dump of what did not change has %d new bytes of %d", second.New, second.Read)
	}
	old := strings.Split(strings.TrimSpace(kedge(t, h.repo, "ls", "db")), "\n")[0]
	c.change()
	if third := h.night(t, 0)["db"]; third.New == 0 || third.New*5 > first.New {
		t.Errorf("after a small change a dump has %d new bytes; at first %d", third.New, first.New)
	}
	want := c.dump()
	if want == before || !strings.Contains(want, "changed") {
		t.Fatal("change changes nothing")
	}

	// What is there is not replaced unless one says so, and a dry run does nothing at all.
	for _, args := range [][]string{{c.stream}, {c.stream, "--dry-run"}} {
		r := h.try(t, "run", append([]string{"--restore"}, args...)...)
		if r.code != 2 || !strings.Contains(r.err, "not empty") || !strings.Contains(r.err, "--force") {
			t.Errorf("run --restore %q into a database: exit %d\n%s", args, r.code, r.err)
		}
	}
	h.reverse(t, c.stream, "--force", "--dry-run")
	if c.dump() != want {
		t.Fatal("a restore that was refused changed something")
	}
	// With --force the old save comes back, and what was there is kept.
	h.reverse(t, c.stream+"@"+old, "--force")
	if got := c.dump(); got != before {
		t.Fatalf("run --restore @%s --force: %s", old, differ(got, before))
	}
	c.kept(t)
	// It is gone.
	c.destroy()
	c.make()
	h.pipe(t, "db/latest/"+c.stream, c.reader())
	if got := c.dump(); got != want {
		t.Fatalf("restore-stream: %s", differ(got, want))
	}
	c.destroy()
	h.reverse(t, c.stream)
	if got := c.dump(); got != want {
		t.Fatalf("run --restore: %s", differ(got, want))
	}
	gitClean(t, h.repo)
	noSecrets(t, h.dir)
}

// kept looks for what --force replaced.
func (c *dbCase) kept(t testing.TB) {
	t.Helper()
	if c.aside != nil {
		if !strings.Contains(c.aside(), "changed") {
			t.Error("what was moved aside is not what was there")
		}
		return
	}
	files, _ := filepath.Glob(c.host.dir + "/state/before-restore/*")
	if len(files) != 1 {
		t.Fatalf("kept: %q", files)
	}
	text, err := os.ReadFile(files[0])
	check(t, err)
	if !strings.Contains(string(text), "changed") {
		t.Error("what was kept is not what was there")
	}
}

// noSecrets looks for the password in all that kedge wrote.
func noSecrets(t testing.TB, dir string) {
	t.Helper()
	r := command(t, nil, "grep", "-rlaF", "--", dbPassword, dir)
	if r.code != 1 {
		t.Errorf("the password is in %s", r.out)
	}
}

// differ says where two dumps differ first.
func differ(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := 0; i < min(len(g), len(w)); i++ {
		if g[i] != w[i] {
			return fmt.Sprintf("line %d: %.200q, want %.200q", i+1, g[i], w[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d: %q, %q", len(g), len(w), g[len(g)-1], w[len(w)-1])
}

const pgData = `CREATE TABLE t (id int PRIMARY KEY, a text, b text);
INSERT INTO t SELECT i, md5(i::text), md5((i*7)::text) FROM generate_series(1, 30000) i;
CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT 2*$1';
CREATE VIEW v AS SELECT id, twice(id) FROM t;
SELECT lo_from_bytea(0, 'a large object');
`

func TestPostgreSQL(t *testing.T) {
	d := startPostgreSQL(t)
	c := &dbCase{stream: "app", host: newHost(t, fmt.Sprintf(`
[[job]]
name = "db"
[[job.stream]]
name = "app"
preset = "postgresql"
database = "the app's"
host = %q
user = "postgres"
run-as = "postgres"
password-file = %q
`, d.dir, d.secret))}
	const name, quoted = "the app's", `"the app's"`
	c.fill = func() {
		output(t, d.psql("postgres", "CREATE ROLE bob; CREATE DATABASE "+quoted+" OWNER bob"))
		output(t, d.psql(name, pgData))
	}
	c.change = func() { output(t, d.psql(name, "UPDATE t SET a = 'changed' WHERE id % 10000 = 77")) }
	c.dump = func() string {
		cmd := exec.Command("pg_dump", "-h", d.dir, "-U", "postgres", "--restrict-key=x", name)
		cmd.Env = append(os.Environ(), "PGPASSWORD="+dbPassword)
		return output(t, cmd)
	}
	c.destroy = func() { output(t, d.psql("postgres", "DROP DATABASE "+quoted)) }
	c.make = func() { output(t, d.psql("postgres", "CREATE DATABASE "+quoted)) }
	c.reader = func() *exec.Cmd {
		cmd := d.psql(name, "")
		cmd.Args = append(cmd.Args, "--single-transaction", "-o", "/dev/null")
		return cmd
	}
	c.aside = func() string {
		aside := strings.TrimSpace(output(t, d.psql("postgres", "SELECT datname FROM pg_database WHERE datname LIKE '%.before-restore-%'")))
		owner := output(t, d.psql("postgres", "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'the app''s'"))
		if owner != "bob\n" {
			t.Errorf("the new database belongs to %q", owner)
		}
		return output(t, d.psql(aside, "SELECT a FROM t WHERE a = 'changed'"))
	}
	c.prove(t)

	// A dump that is damaged, or is no SQL, leaves nothing behind: it is one transaction.
	c.destroy()
	pack := filepath.Join(t.TempDir(), "broken")
	must(t, "cp", "-r", c.host.repo, pack)
	breakPacks(t, pack)
	check(t, os.Rename(c.host.repo, c.host.repo+".whole"))
	check(t, os.Rename(pack, c.host.repo))
	r := c.host.try(t, "run", "--restore", "app")
	if r.code == 0 || strings.Contains(output(t, d.psql(name, `SELECT count(*) FROM pg_class WHERE relname = 't'`)), "1") {
		t.Errorf("a damaged dump: exit %d\n%s", r.code, r.err)
	}
}

// breakPacks spoils bytes all over the packs of a repository.
func breakPacks(t testing.TB, repo string) {
	t.Helper()
	packs, err := filepath.Glob(repo + "/objects/pack/*.pack")
	check(t, err)
	for _, name := range packs {
		text, err := os.ReadFile(name)
		check(t, err)
		if len(text) < 100_000 {
			continue // trees and commits: the dump has to be found
		}
		for i := len(text) / 2; i < len(text)/2+8192; i++ {
			text[i] ^= 0x55
		}
		check(t, os.Chmod(name, 0o644))
		check(t, os.WriteFile(name, text, 0o644))
	}
}

func TestPostgreSQLCluster(t *testing.T) {
	d := startPostgreSQL(t)
	c := &dbCase{stream: "all", host: newHost(t, fmt.Sprintf(`
[[job]]
name = "db"
[[job.stream]]
name = "all"
preset = "postgresql-all"
path = "/var/backups/all.sql"
host = %q
user = "postgres"
run-as = "postgres"
password-file = %q
`, d.dir, d.secret))}
	c.fill = func() {
		output(t, d.psql("postgres", `CREATE ROLE "some body" LOGIN; CREATE DATABASE one OWNER "some body"; CREATE DATABASE two`))
		output(t, d.psql("one", pgData))
		output(t, d.psql("postgres", "CREATE TABLE here (a text); INSERT INTO here VALUES ('CREATE ROLE postgres;')"))
	}
	c.change = func() { output(t, d.psql("one", "UPDATE t SET a = 'changed' WHERE id % 10000 = 77")) }
	c.dump = func() string {
		cmd := exec.Command("pg_dumpall", "-h", d.dir, "-U", "postgres", "--restrict-key=x")
		cmd.Env = append(os.Environ(), "PGPASSWORD="+dbPassword)
		return withoutAside(output(t, cmd))
	}
	drop := `SELECT format('DROP DATABASE %I', datname) FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres' \gexec
DROP TABLE IF EXISTS here;
DROP ROLE IF EXISTS "some body";
`
	c.destroy = func() { output(t, d.psql("postgres", drop)) }
	c.make = func() {}
	c.reader = func() *exec.Cmd { // the role postgres is there: with pg_dumpall that is an error nobody can avoid
		cmd := d.psql("postgres", "")
		cmd.Args = append(cmd.Args, "-v", "ON_ERROR_STOP=0", "-o", "/dev/null")
		return cmd
	}
	c.aside = func() string {
		aside := strings.TrimSpace(output(t, d.psql("postgres", "SELECT datname FROM pg_database WHERE datname LIKE 'one.before-restore-%'")))
		return output(t, d.psql(aside, "SELECT a FROM t WHERE a = 'changed'"))
	}
	c.prove(t)
}

// withoutAside leaves what was moved aside out of a dump of a cluster.
func withoutAside(dump string) string {
	const end = "\n\n--\n-- PostgreSQL database cluster dump complete\n"
	dump, tail, _ := strings.Cut(dump, end)
	parts := strings.Split(dump, "\n--\n-- Database ")
	kept := parts[:0]
	for _, p := range parts {
		if name, _, _ := strings.Cut(p, "\n"); !strings.Contains(name, ".before-restore-") {
			kept = append(kept, p)
		}
	}
	return strings.TrimRight(strings.Join(kept, "\n--\n-- Database "), "\n") + end + tail
}

const mariaData = `CREATE TABLE t (id int PRIMARY KEY, a text, b blob);
INSERT INTO t SELECT seq, md5(seq), unhex(md5(seq*7)) FROM seq_1_to_30000;
CREATE FUNCTION twice(n int) RETURNS int DETERMINISTIC RETURN 2*n;
CREATE VIEW v AS SELECT id, twice(id) FROM t;
CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW SET NEW.a = concat(NEW.a, '!');
`

func TestMariaDB(t *testing.T) {
	for _, database := range []string{"the app's", ""} {
		t.Run("database="+database, func(t *testing.T) { mariadbCase(t, database) })
	}
}

func mariadbCase(t *testing.T, database string) {
	d := startMariaDB(t)
	c := &dbCase{stream: "app", host: newHost(t, fmt.Sprintf(`
[[job]]
name = "db"
[[job.stream]]
name = "app"
preset = "mysql"
database = %q
host = %q
user = "root"
password-file = %q
`, database, d.dir+"/s.sock", d.secret))}
	const use = "USE `the app's`;"
	c.fill = func() { output(t, d.mariadb("CREATE DATABASE `the app's`;"+use+mariaData)) }
	c.change = func() { output(t, d.mariadb(use+"UPDATE t SET a = 'changed' WHERE id % 10000 = 77")) }
	c.dump = func() string {
		cmd := exec.Command("mariadb-dump", "--no-defaults", "-S", d.dir+"/s.sock", "-u", "root", "--skip-dump-date", "--routines", "--databases", "the app's")
		cmd.Env = append(os.Environ(), "MYSQL_PWD="+dbPassword)
		return output(t, cmd)
	}
	c.destroy = func() { output(t, d.mariadb("DROP DATABASE `the app's`")) }
	c.make = func() {}
	c.reader = func() *exec.Cmd { return d.mariadb("") }
	c.prove(t)
}

func TestSQLite(t *testing.T) {
	needs(t, "sqlite3")
	h := newHost(t, `
[[job]]
name = "db"
[[job.stream]]
name = "app"
preset = "sqlite"
file = "HERE/app's.db"
`)
	file := h.dir + "/app's.db"
	sql := func(text string) string {
		cmd := exec.Command("sqlite3", "-bail", file)
		cmd.Stdin = strings.NewReader(text)
		return output(t, cmd)
	}
	c := &dbCase{stream: "app", host: h}
	c.fill = func() {
		sql(`PRAGMA journal_mode=WAL; PRAGMA user_version=42; PRAGMA application_id=7; CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b BLOB);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 30000) INSERT INTO t SELECT i, hex(i*i*7919), randomblob(20) FROM n;
CREATE VIEW v AS SELECT id FROM t; CREATE INDEX x ON t(a);`)
		check(t, os.Chmod(file, 0o604))
	}
	c.change = func() { sql("UPDATE t SET a = 'changed' WHERE id % 10000 = 77") }
	c.dump = func() string { return sql(".dump\nPRAGMA user_version;\nPRAGMA application_id;") }
	c.destroy = func() { must(t, "sh", "-c", "rm -f \"$0\"*", file) }
	c.make = func() {}
	c.reader = func() *exec.Cmd { return exec.Command("sqlite3", "-bail", file) }
	c.aside = func() string {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o604 {
			t.Errorf("the new file: %v, %v", info.Mode(), err)
		}
		if left, _ := filepath.Glob(file + "-*"); len(left) > 0 {
			t.Errorf("beside the new file is %q", left)
		}
		aside, _ := filepath.Glob(file + ".before-restore-*[0-9]")
		return output(t, exec.Command("sqlite3", "-readonly", aside[0], ".dump"))
	}
	c.prove(t)

	// A database that cannot be read to its end is dumped with exit code 0. It is no dump.
	bytes, err := os.ReadFile(file)
	check(t, err)
	for i := len(bytes) / 2; i < len(bytes)/2+20*4096; i++ {
		bytes[i] = 0xa5
	}
	check(t, os.WriteFile(file, bytes, 0o644))
	was := kedge(t, h.repo, "ls", "db")
	if p := h.night(t, 1)["db"]; p.Commit != "" || kedge(t, h.repo, "ls", "db") != was {
		t.Errorf("a damaged database: %+v", p)
	}
}

func TestRedis(t *testing.T) {
	needs(t, "redis-server")
	d := newDB(t)
	d.startRedis(t)
	h := newHost(t, fmt.Sprintf(`
[[job]]
name = "db"
[[job.stream]]
name = "cache"
preset = "redis"
host = %q
file = %q
password-file = %q
`, d.dir+"/s.sock", d.dir+"/dump.rdb", d.secret))
	dump := func() string {
		return output(t, d.redis("EVAL", `local r = {} for i, k in ipairs(redis.call('KEYS', '*')) do r[i] = k .. '=' .. redis.call('GET', k) end table.sort(r) return table.concat(r, '\n')`, "0"))
	}
	output(t, d.redis("EVAL", `for i = 1, 30000 do redis.call('SET', 'k' .. i, redis.sha1hex(i)) end`, "0"))
	first := h.night(t, 0)["db"]
	output(t, d.redis("SET", "k77", "changed"))
	second := h.night(t, 0)["db"]
	t.Logf("first %d bytes new, second %d", first.New, second.New)
	want := dump()

	r := h.try(t, "run", "--restore", "cache", "--force")
	if r.code != 1 || !strings.Contains(r.err, "stop it first") {
		t.Errorf("with the server running: exit %d\n%s", r.code, r.err)
	}
	d.down(syscall.SIGTERM)
	check(t, os.WriteFile(d.dir+"/dump.rdb", []byte("what was there"), 0o640))
	if r := h.try(t, "run", "--restore", "cache"); r.code != 2 || !strings.Contains(r.err, "not empty") {
		t.Errorf("over a file: exit %d\n%s", r.code, r.err)
	}
	h.reverse(t, "cache", "--force")
	d.startRedis(t)
	if got := dump(); got != want {
		t.Errorf("run --restore: %s", differ(got, want))
	}
	aside, _ := filepath.Glob(d.dir + "/dump.rdb.before-restore-*")
	if text, err := os.ReadFile(aside[0]); err != nil || string(text) != "what was there" {
		t.Errorf("moved aside: %q, %v", text, err)
	}
	d.down(syscall.SIGTERM)
	check(t, os.Remove(d.dir+"/dump.rdb"))
	rdb, err := os.Create(d.dir + "/dump.rdb")
	check(t, err)
	h.pipeTo(t, "db/latest/cache", rdb)
	check(t, rdb.Close())
	d.startRedis(t)
	if got := dump(); got != want {
		t.Errorf("restore-stream: %s", differ(got, want))
	}
	noSecrets(t, h.dir)
}

// pipeTo writes a stream to a file.
func (h *host) pipeTo(t testing.TB, stream string, file *os.File) {
	t.Helper()
	cmd := exec.Command(binary, "-d", h.repo, "restore-stream", stream)
	cmd.Stdout = file
	if msg, err := cmd.StderrPipe(); err == nil {
		defer msg.Close()
	}
	check(t, cmd.Run())
}
