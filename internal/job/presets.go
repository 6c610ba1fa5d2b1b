package job

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A preset knows how a kind of database is dumped to standard output, and how that is read
// again. The options are those that make two dumps of the same data equal byte for byte, or
// nearly: no compression, no dates, a stable order. What a night adds is then what changed.
//
// Secrets reach a tool in a file that only its user can read, never as an argument and never
// in what is printed; {secret} in a command stands for that file.
type preset struct {
	name     string
	needs    string // what the stream has to say: "file", "database" or ""
	secret   string // how the file of the secret is written, with %s for the secret; "" if it takes none
	dump     func(s *Stream) []string
	restore  func(s *Stream) []string
	helpText string
}

// server returns the options that name a database server; the user has one of its own in each tool.
func (s *Stream) server(user string) (args []string) {
	for _, o := range []struct{ option, value string }{{"--host=", s.Host}, {"--port=", portText(s.Port)}, {user, s.User}} {
		if o.value != "" {
			args = append(args, o.option+o.value)
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

// restrictKey makes pg_dump write the same key every time, where it writes one at all.
const restrictKey = `$(pg_dump --help | grep -q restrict-key && echo --restrict-key=kedge)`

// mariadb calls the tools by the names that they have on this machine.
func mariadb(tool, old string) string {
	return `$(command -v ` + tool + ` || echo ` + old + `)`
}

var presets = []preset{
	{
		name: "postgresql", needs: "database",
		secret: "*:*:*:*:%s\n",
		dump: func(s *Stream) []string {
			return slices.Concat([]string{"PGPASSFILE={secret}", "pg_dump", restrictKey, "--no-password"}, quoted(s.server("--username=")), quoted(s.Args), quoted([]string{s.Database}))
		},
		restore: func(s *Stream) []string {
			return slices.Concat([]string{"PGPASSFILE={secret}", "psql", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", "--output=/dev/null"}, quoted(s.server("--username=")), quoted([]string{s.Database}))
		},
		helpText: "one PostgreSQL database (pg_dump)",
	},
	{
		name: "postgresql-all", secret: "*:*:*:*:%s\n",
		dump: func(s *Stream) []string {
			return slices.Concat([]string{"PGPASSFILE={secret}", "pg_dumpall", restrictKey, "--no-password"}, quoted(s.server("--username=")), quoted(s.Args))
		},
		restore: func(s *Stream) []string {
			return slices.Concat([]string{"PGPASSFILE={secret}", "psql", "--quiet", "--no-password", "--output=/dev/null", "--dbname=postgres"}, quoted(s.server("--username=")))
		},
		helpText: "a whole PostgreSQL cluster, with roles (pg_dumpall)",
	},
	{
		name: "mysql", secret: "[client]\npassword=\"%s\"\n",
		dump: func(s *Stream) []string {
			what := []string{"--databases", s.Database}
			if s.Database == "" {
				what = []string{"--all-databases"}
			}
			return slices.Concat([]string{mariadb("mariadb-dump", "mysqldump"), "--defaults-extra-file={secret}", "--single-transaction", "--quick",
				"--skip-dump-date", "--order-by-primary", "--routines", "--triggers", "--events", "--hex-blob"},
				quoted(s.server("--user=")), quoted(s.Args), quoted(what))
		},
		restore: func(s *Stream) []string {
			return slices.Concat([]string{mariadb("mariadb", "mysql"), "--defaults-extra-file={secret}"}, quoted(s.server("--user=")))
		},
		helpText: "MySQL or MariaDB, one database or all (mysqldump)",
	},
	{
		name: "sqlite", needs: "file",
		dump: func(s *Stream) []string {
			return slices.Concat([]string{"sqlite3", "-readonly", "-bail"}, quoted(s.Args), quoted([]string{s.File}), []string{"'.dump --preserve-rowids'"})
		},
		restore: func(s *Stream) []string {
			return slices.Concat([]string{"sqlite3", "-bail"}, quoted([]string{s.File}))
		},
		helpText: "a SQLite database, as it is at one moment (.dump in a transaction)",
	},
	{
		name: "mongodb", secret: "password: \"%s\"\n",
		dump: func(s *Stream) []string {
			args := s.server("--username=")
			if s.Database != "" {
				args = append(args, "--db="+s.Database)
			}
			return slices.Concat([]string{"mongodump", "--quiet", "--archive", "--config={secret}"}, quoted(args), quoted(s.Args))
		},
		restore: func(s *Stream) []string {
			return slices.Concat([]string{"mongorestore", "--quiet", "--archive", "--drop", "--config={secret}"}, quoted(s.server("--username=")))
		},
		helpText: "MongoDB, one database or all (mongodump --archive)",
	},
	{
		name: "redis", secret: "%s",
		dump: func(s *Stream) []string {
			return slices.Concat([]string{`REDISCLI_AUTH="$(cat {secret})"`, "redis-cli"}, quoted(redisServer(s)), quoted(s.Args), []string{"--rdb", "-"})
		},
		restore: func(s *Stream) []string {
			return slices.Concat([]string{"cat", ">"}, quoted([]string{orElse(s.File, "/var/lib/redis/dump.rdb")}))
		},
		helpText: "Redis, its RDB file (redis-cli --rdb); read again with the server stopped",
	},
	{
		name: "tar", needs: "file",
		dump: func(s *Stream) []string {
			return slices.Concat([]string{"tar", "--create", "--file=-", "--sort=name", "--numeric-owner", "--xattrs", "--acls", "--sparse"}, quoted(s.Args),
				[]string{"--directory=/"}, quoted([]string{"./" + strings.TrimPrefix(path.Clean(s.File), "/")}))
		},
		restore: func(s *Stream) []string {
			return []string{"tar", "--extract", "--file=-", "--numeric-owner", "--xattrs", "--acls", "--sparse", "--directory=/"}
		},
		helpText: "a directory as one archive (tar)",
	},
	{
		name: "device", needs: "file",
		dump: func(s *Stream) []string {
			return slices.Concat([]string{"dd"}, quoted([]string{"if=" + s.File}), []string{"bs=1M", "iflag=fullblock", "status=none"})
		},
		restore: func(s *Stream) []string {
			return slices.Concat([]string{"dd"}, quoted([]string{"of=" + s.File}), []string{"bs=1M", "iflag=fullblock", "conv=sparse,fsync", "status=none"})
		},
		helpText: "a block device or the image of one; stop what writes to it, or name a snapshot",
	},
}

// redisServer returns where redis-cli connects to: a host, or a socket.
func redisServer(s *Stream) []string {
	if strings.HasPrefix(s.Host, "/") {
		return []string{"-s", s.Host}
	}
	var args []string
	for _, o := range []struct{ option, value string }{{"-h", s.Host}, {"-p", portText(s.Port)}, {"--user", s.User}} {
		if o.value != "" {
			args = append(args, o.option, o.value)
		}
	}
	return args
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// quoted quotes words for the shell; empty ones are left out.
func quoted(words []string) []string {
	var list []string
	for _, w := range words {
		if w != "" {
			list = append(list, quoteWord(w))
		}
	}
	return list
}

// quoteWord quotes one word for the shell.
func quoteWord(w string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_=./,:@%+", r)
	}
	if w != "" && strings.IndexFunc(w, func(r rune) bool { return !plain(r) }) < 0 {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

// findPreset returns a preset by its name.
func findPreset(name string) (*preset, error) {
	for i := range presets {
		if presets[i].name == name {
			return &presets[i], nil
		}
	}
	var known []string
	for i := range presets {
		known = append(known, presets[i].name)
	}
	return nil, fmt.Errorf("there is no preset %q: %s are known", name, strings.Join(known, ", "))
}

// checkPreset says what a stream lacks for its preset.
func (s *Stream) checkPreset() error {
	if s.Preset == "" {
		return nil
	}
	p, err := findPreset(s.Preset)
	switch {
	case err != nil:
		return fmt.Errorf("stream %s: %w", s.Name, err)
	case p.needs == "file" && s.File == "":
		return fmt.Errorf("stream %s: the preset %s needs a file", s.Name, p.name)
	case p.needs == "database" && s.Database == "":
		return fmt.Errorf("stream %s: the preset %s needs a database", s.Name, p.name)
	case p.secret == "" && s.Secret != "":
		return fmt.Errorf("stream %s: the preset %s takes no password", s.Name, p.name)
	}
	return nil
}

// command returns the command that dumps a stream, or reads it again. secret is the file with
// the secret, "" if there is none: then what would name it is left out.
func (s *Stream) command(again bool, secret string) (string, error) {
	switch {
	case again && s.Restore != "":
		return s.Restore, nil
	case again && s.Command != "":
		return "", fmt.Errorf("stream %s: the config does not say which command reads it (restore)", s.Name)
	case s.Command != "":
		return s.Command, nil
	}
	p, err := findPreset(s.Preset)
	if err != nil {
		return "", err
	}
	words := p.dump(s)
	if again {
		words = p.restore(s)
	}
	var out []string
	for _, w := range words {
		if strings.Contains(w, "{secret}") {
			if secret == "" {
				continue
			}
			w = strings.ReplaceAll(w, "{secret}", quoteWord(secret))
		}
		out = append(out, w)
	}
	return strings.Join(out, " "), nil
}

// Tool returns the program that a stream's preset cannot do without, "" if that is not known.
func (s *Stream) Tool() string {
	return map[string]string{"postgresql": "pg_dump", "postgresql-all": "pg_dumpall", "sqlite": "sqlite3", "mongodb": "mongodump",
		"redis": "redis-cli", "tar": "tar", "device": "dd"}[s.Preset]
}
