package job

import (
	"path"
	"strconv"
	"strings"
)

// restrictKey makes pg_dump write the same key every time, where it writes one at all. Grep reads to
// the end: pg_dump would die of the pipe that grep -q closes, and pipefail would see that.
const restrictKey = `$(pg_dump --help | grep restrict-key >/dev/null && echo --restrict-key=kedge)`

// redisFile is where Debian's Redis has its data: the one file that need not be named.
const redisFile = "/var/lib/redis/dump.rdb"

// presets are all there are. That of SQLite writes SQL in one transaction, as its .dump does,
// rather than a copy of the file: both are what the database was at one moment while others
// write to it, but a copy needs a disk, and its pages move. The dump leaves out two numbers
// that programs keep their version in: they are put in front of it. It ends with COMMIT; if
// something could not be read it ends with ROLLBACK, and the exit code is 0 all the same.
var presets = []preset{
	{
		name: "postgresql", tool: "pg_dump", needs: "database", secret: pgSecret, helpText: "one PostgreSQL database (pg_dump)",
		dump: func(s *Stream) []string {
			return words([]string{"PGPASSFILE={secret}", "pg_dump", restrictKey, "--no-password"}, quoted(s.server("--username=")...),
				quoted(s.Args...), quoted("--dbname="+s.Database))
		},
		load: func(s *Stream, _ bool) []string {
			return words(psql(s, s.Database), []string{"--output=/dev/null", "--single-transaction"})
		},
		there: pgThere, ready: pgReady, drop: pgDrop,
	},
	{
		name: "postgresql-all", tool: "pg_dumpall", secret: pgSecret, helpText: "a whole PostgreSQL cluster, with roles (pg_dumpall)",
		dump: func(s *Stream) []string {
			return words([]string{"PGPASSFILE={secret}", "pg_dumpall", restrictKey, "--no-password"}, quoted(s.server("--username=")...), quoted(s.Args...))
		},
		load:  func(s *Stream, _ bool) []string { return words(psql(s, "postgres"), []string{"--output=/dev/null"}) },
		there: pgAllThere, ready: pgAllReady, drop: pgDrop, skip: pgRoles, headEnd: `\connect `,
	},
	{
		name: "mysql", secret: "[client]\npassword=\"%s\"\n", helpText: "MySQL or MariaDB, one database or all (mysqldump)",
		dump: func(s *Stream) []string {
			what := []string{"--databases", s.Database}
			if s.Database == "" {
				what = []string{"--all-databases", "--flush-privileges"}
			}
			return words(mysql(s, "mariadb-dump", "mysqldump"), []string{"--single-transaction", "--quick",
				"--skip-dump-date", "--order-by-primary", "--routines", "--triggers", "--events", "--hex-blob"}, quoted(s.Args...), quoted(what...))
		},
		load:  func(s *Stream, _ bool) []string { return mysql(s, "mariadb", "mysql") },
		there: mysqlThere, ready: mysqlReady, keep: true,
	},
	{
		name: "sqlite", tool: "sqlite3", needs: "file", ends: "COMMIT;\n", into: intoFile, beside: []string{"-wal", "-journal", "-shm"},
		helpText: "a SQLite database, as it is at one moment (.dump in a transaction)",
		dump: func(s *Stream) []string {
			return words([]string{"sqlite3", "-readonly", "-bail"}, quoted(s.Args...), quoted(s.File, "BEGIN",
				"SELECT 'PRAGMA application_id=' || application_id || ';' FROM pragma_application_id",
				"SELECT 'PRAGMA user_version=' || user_version || ';' FROM pragma_user_version",
				".dump --preserve-rowids", "COMMIT"))
		},
		load: func(*Stream, bool) []string { return []string{"sqlite3", "-bail", "{file}"} },
	},
	{
		name: "mongodb", tool: "mongodump", secret: "password: \"%s\"\n", helpText: "MongoDB, one database or all (mongodump --archive)",
		dump: func(s *Stream) []string {
			args := s.server("--username=")
			if s.Database != "" {
				args = append(args, "--db="+s.Database)
			}
			return words([]string{"mongodump", "--quiet", "--archive", "--config={secret}"}, quoted(args...), quoted(s.Args...))
		},
		load: func(s *Stream, over bool) []string {
			drop := ""
			if over {
				drop = "--drop"
			}
			return words([]string{"mongorestore", "--quiet", "--archive", "--stopOnError"}, quoted(drop), []string{"--config={secret}"}, quoted(s.server("--username=")...))
		},
		there: mongoThere, keep: true,
	},
	{
		name: "redis", tool: "redis-cli", secret: "%s", into: intoFile, also: []string{"appendonlydir", "appendonly.aof"},
		helpText: "Redis, its RDB file (redis-cli --rdb); read again with the server stopped",
		dump: func(s *Stream) []string {
			return words(redisCLI(s), quoted(s.Args...), []string{"--rdb", "-"})
		},
		load: func(*Stream, bool) []string { return []string{"cat", ">", "{file}"} },
		up:   func(s *Stream) []string { return words(redisCLI(s), []string{"ping", ">/dev/null", "2>&1"}) },
	},
	{
		name: "tar", tool: "tar", needs: "file", into: intoDir, helpText: "a directory as one archive (tar)",
		dump: func(s *Stream) []string {
			return words([]string{"tar", "--create", "--file=-", "--sort=name", "--numeric-owner", "--xattrs", "--acls", "--sparse"}, quoted(s.Args...),
				[]string{"--directory=/"}, quoted("./"+strings.TrimPrefix(path.Clean(s.File), "/")))
		},
		load: func(*Stream, bool) []string {
			return []string{"tar", "--extract", "--file=-", "--numeric-owner", "--same-permissions", "--xattrs", "--xattrs-include='*'", "--acls", "--sparse", "--directory=/"}
		},
	},
	{
		name: "device", tool: "dd", needs: "file", into: intoFile,
		helpText: "a block device or the image of one; stop what writes to it, or name a snapshot",
		dump: func(s *Stream) []string {
			return words([]string{"dd"}, quoted("if="+s.File), []string{"bs=1M", "iflag=fullblock", "status=none"})
		},
		load: func(*Stream, bool) []string {
			return []string{"dd", "of={file}", "bs=64K", "iflag=fullblock", "conv=sparse,fsync", "status=none"}
		},
	},
}

// server returns the options that name a database server; the user has one of its own in each tool.
func (s *Stream) server(user string) (args []string) {
	return options("--host=", s.Host, "--port=", portText(s.Port), user, s.User)
}

// options joins options to their values, without those that have none.
func options(pairs ...string) (args []string) {
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			args = append(args, pairs[i]+pairs[i+1])
		}
	}
	return args
}

func portText(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// mysql calls a tool by the name that it has on this machine. A host that is a path is a socket.
func mysql(s *Stream, tool, old string) []string {
	args := s.server("--user=")
	if strings.HasPrefix(s.Host, "/") {
		args = options("--socket=", s.Host, "--user=", s.User)
	}
	return words([]string{`$(command -v ` + tool + ` || echo ` + old + `)`, "--defaults-extra-file={secret}"}, quoted(args...))
}

// redisCLI calls redis-cli. It reads the password from its standard input; in the environment,
// the usual way, it would stand for as long as the dump takes. A host that is a path is a socket.
func redisCLI(s *Stream) []string {
	call := []string{"redis-cli", "--askpass <{secret}"}
	if strings.HasPrefix(s.Host, "/") {
		return words(call, []string{"-s", quoteWord(s.Host)})
	}
	for _, o := range []struct{ option, value string }{{"-h", s.Host}, {"-p", portText(s.Port)}, {"--user", s.User}} {
		if o.value != "" {
			call = append(call, o.option, quoteWord(o.value))
		}
	}
	return call
}
