package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Real databases come back with one command: into empty servers; into one that has something
// of that name, which is moved aside; and on a standby in the place of what was loaded before,
// of which nothing piles up.
func TestRecoverDatabases(t *testing.T) {
	pg, maria := startPostgreSQL(t), startMariaDB(t)
	needs(t, "sqlite3")
	dir, err := filepath.EvalSymlinks(t.TempDir())
	check(t, err)
	h := &instance{dir: dir, config: dir + "/kedge.toml", state: dir + "/state", url: dir + "/repo"}
	lite := dir + "/lite.db"
	write(t, h.config, fmt.Appendf(nil, `repository = %q
state = %q
[[job]]
name = "db"
[[job.stream]]
name = "pg"
preset = "postgresql"
database = "app"
host = %q
user = "postgres"
run-as = "postgres"
password-file = %q
[[job.stream]]
name = "maria"
preset = "mysql"
database = "app"
host = %q
user = "root"
password-file = %q
[[job.stream]]
name = "lite"
preset = "sqlite"
file = %q
`, h.url, h.state, pg.dir, pg.secret, maria.dir+"/s.sock", maria.secret, lite))
	output(t, pg.psql("postgres", "CREATE DATABASE app"))
	output(t, maria.mariadb("CREATE DATABASE app"))
	fill := func(word string) {
		output(t, pg.psql("app", "DROP TABLE IF EXISTS t; CREATE TABLE t (w text); INSERT INTO t VALUES ('"+word+"')"))
		output(t, maria.mariadb("USE app; DROP TABLE IF EXISTS t; CREATE TABLE t (w text); INSERT INTO t VALUES ('"+word+"')"))
		must(t, "sqlite3", lite, "DROP TABLE IF EXISTS t; CREATE TABLE t (w text); INSERT INTO t VALUES ('"+word+"')")
	}
	words := func() string {
		return output(t, pg.psql("app", "SELECT w FROM t")) + output(t, maria.mariadb("SELECT w FROM app.t")) + must(t, "sqlite3", lite, "SELECT w FROM t")
	}
	drop := func() {
		output(t, pg.psql("postgres", "DROP DATABASE app"))
		output(t, maria.mariadb("DROP DATABASE app"))
		check(t, os.Remove(lite))
	}
	// kept counts what was moved aside or dumped before it was replaced.
	kept := func() int {
		n := strings.Count(output(t, pg.psql("postgres", "SELECT datname FROM pg_database")), ".before-restore-")
		files, err := filepath.Glob(dir + "/*/before-restore/*")
		check(t, err)
		aside, err := filepath.Glob(lite + ".before-restore-*")
		check(t, err)
		return n + len(files) + len(aside)
	}
	fill("monday")
	h.night(t)
	monday := strings.TrimSpace(kedge(t, h.url, "ls", "db"))
	monday = strings.Fields(monday)[0]

	drop()
	h.mustRecover(t)
	if got := words(); got != "monday\nmonday\nmonday\n" || kept() != 0 {
		t.Errorf("into empty servers: %q, %d kept", got, kept())
	}

	// The standby follows, and keeps nothing of what it had loaded itself.
	fill("tuesday")
	h.night(t)
	h.mustRecover(t, "db/"+monday) // what is there is its own, as far as it can know
	h.mustRecover(t)
	if got := words(); got != "tuesday\ntuesday\ntuesday\n" || kept() != 0 {
		t.Errorf("a standby: %q, %d kept", got, kept())
	}

	// Another machine, on which something is: it is kept.
	fill("of somebody else")
	h.mustRecover(t, "--state", dir+"/other")
	if got := words(); got != "tuesday\ntuesday\ntuesday\n" || kept() != 3 {
		t.Errorf("over something else: %q, %d kept", got, kept())
	}
	if out := h.mustRecover(t, "--state", dir+"/other"); strings.Count(out, " unchanged\n") != 3 {
		t.Errorf("again:\n%s", out)
	}
}
