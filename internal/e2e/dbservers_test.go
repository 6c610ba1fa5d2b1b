package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// This file starts real database servers, each in a directory of its own and on a socket, with
// a password.

// dbPassword is every server's, with characters that each of the password files has to quote.
const dbPassword = `p:w #'x%s`

// needs finds a program that a test cannot do without. Where everything has to be installed,
// as in .ci/run, a program that is missing is a failure.
func needs(t testing.TB, program string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/lib/postgresql/*/bin/", "/usr/sbin/"} {
		found, _ := filepath.Glob(dir + program)
		if len(found) > 0 && dir != "" {
			return found[len(found)-1]
		}
		if path, err := exec.LookPath(program); err == nil {
			return path
		}
	}
	if os.Getenv("KEDGE_TEST_PROGRAMS") == "required" {
		t.Fatalf("needs %s (make servers)", program)
	}
	t.Skipf("needs %s (make servers)", program)
	return ""
}

// A dbServer is a running server and how its clients are called.
type dbServer struct {
	dir    string // its socket is in it
	secret string // file with the password
	cmd    *exec.Cmd
}

// newDB makes what all servers need.
func newDB(t testing.TB) *dbServer {
	t.Helper()
	needRoot(t)
	dir, err := os.MkdirTemp("", "kedge-db-") // a socket's path must be short
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	check(t, os.Chmod(dir, 0o755))
	d := &dbServer{dir: dir, secret: filepath.Join(dir, "password")}
	check(t, os.WriteFile(d.secret, []byte(dbPassword+"\n"), 0o600))
	return d
}

// up starts a server and waits until it answers.
func (d *dbServer) up(t testing.TB, cmd *exec.Cmd, answers func() bool) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	check(t, err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	check(t, cmd.Start())
	d.cmd = cmd
	t.Cleanup(func() { d.down(syscall.SIGKILL) })
	for range 600 {
		if answers() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	text, _ := os.ReadFile(filepath.Join(d.dir, "log"))
	t.Fatalf("the server does not answer\n%s", text)
}

// down stops the server.
func (d *dbServer) down(sig syscall.Signal) {
	if d.cmd != nil {
		_ = d.cmd.Process.Signal(sig)
		_ = d.cmd.Wait()
		d.cmd = nil
	}
}

// asPostgres runs a program as the user who may run PostgreSQL.
func asPostgres(program string, args ...string) *exec.Cmd {
	return exec.Command("setpriv", append([]string{"--reuid=postgres", "--regid=postgres", "--clear-groups", program}, args...)...)
}

// startPostgreSQL starts a cluster whose superuser is postgres.
func startPostgreSQL(t testing.TB) *dbServer {
	t.Helper()
	initdb, postgres := needs(t, "initdb"), needs(t, "postgres")
	d := newDB(t)
	must(t, "chown", "postgres", d.dir)
	word := filepath.Join(d.dir, "initial")
	check(t, os.WriteFile(word, []byte(dbPassword+"\n"), 0o644))
	cmd := asPostgres(initdb, "-D", d.dir+"/data", "-A", "scram-sha-256", "--pwfile="+word, "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	d.up(t, asPostgres(postgres, "-D", d.dir+"/data", "-p", "5432", "-k", d.dir, "-c", "listen_addresses=", "-c", "fsync=off"), func() bool {
		return d.psql("postgres", "SELECT 1").Run() == nil
	})
	t.Cleanup(func() { d.down(syscall.SIGINT) })
	return d
}

// psql is a call of psql.
func (d *dbServer) psql(database, sql string) *exec.Cmd {
	cmd := exec.Command("psql", "-XAtq", "-h", d.dir, "-U", "postgres", "-d", database, "-v", "ON_ERROR_STOP=1")
	cmd.Env = append(os.Environ(), "PGPASSWORD="+dbPassword)
	cmd.Stdin = strings.NewReader(sql)
	return cmd
}

// startMariaDB starts a server whose root has the password.
func startMariaDB(t testing.TB) *dbServer {
	t.Helper()
	install, mariadbd := needs(t, "mariadb-install-db"), needs(t, "mariadbd")
	d := newDB(t)
	must(t, install, "--no-defaults", "--user=root", "--datadir="+d.dir+"/data", "--auth-root-authentication-method=normal", "--skip-test-db")
	cmd := exec.Command(mariadbd, "--no-defaults", "--user=root", "--datadir="+d.dir+"/data", "--socket="+d.dir+"/s.sock", "--pid-file="+d.dir+"/pid",
		"--skip-networking", "--innodb-flush-log-at-trx-commit=0")
	d.up(t, cmd, func() bool {
		return exec.Command("mariadb", "--no-defaults", "-S", d.dir+"/s.sock", "-u", "root", "-e", "SELECT 1").Run() == nil
	})
	set := fmt.Sprintf("ALTER USER root@localhost IDENTIFIED BY '%s'", strings.ReplaceAll(dbPassword, "'", "''"))
	must(t, "mariadb", "--no-defaults", "-S", d.dir+"/s.sock", "-u", "root", "-e", set)
	return d
}

// mariadb is a call of mariadb.
func (d *dbServer) mariadb(sql string) *exec.Cmd {
	cmd := exec.Command("mariadb", "--no-defaults", "-N", "-B", "-S", d.dir+"/s.sock", "-u", "root")
	cmd.Env = append(os.Environ(), "MYSQL_PWD="+dbPassword)
	cmd.Stdin = strings.NewReader(sql)
	return cmd
}

// startRedis starts a server that loads dump.rdb of its directory.
func (d *dbServer) startRedis(t testing.TB) {
	t.Helper()
	cmd := exec.Command(needs(t, "redis-server"), "--port", "0", "--unixsocket", d.dir+"/s.sock", "--dir", d.dir, "--save", "", "--appendonly", "no",
		"--requirepass", dbPassword, "--daemonize", "no")
	d.up(t, cmd, func() bool {
		out, err := d.redis("PING").Output()
		return err == nil && string(out) == "PONG\n"
	})
}

// redis is a call of redis-cli.
func (d *dbServer) redis(args ...string) *exec.Cmd {
	cmd := exec.Command("redis-cli", append([]string{"-s", d.dir + "/s.sock"}, args...)...)
	cmd.Env = append(os.Environ(), "REDISCLI_AUTH="+dbPassword)
	return cmd
}

// output runs a command, which must go well.
func output(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	var msg strings.Builder
	cmd.Stderr = &msg
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v\n%s%s", cmd.Args, err, out, msg.String())
	}
	return string(out)
}
