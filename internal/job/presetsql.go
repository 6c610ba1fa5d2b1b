package job

import "strings"

// This file is what presets ask servers in SQL, and tell them before a dump is read again.

// pgSecret is PostgreSQL's password file.
const pgSecret = "*:*:*:*:%s\n"

// psql calls psql so that nothing but the answer is printed, and the first error ends it.
func psql(s *Stream, database string) []string {
	return words([]string{"PGPASSFILE={secret}", "psql", "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--no-password", "--set=ON_ERROR_STOP=1"},
		quoted(s.server("--username=")...), quoted("--dbname="+database))
}

// tell gives psql a script, in which \gexec runs what a query made.
func tell(call []string, sql string) []string {
	return words([]string{"printf", "%s"}, quoted(sql), []string{"|"}, call)
}

// literal and identifier quote for SQL.
func literal(s string) string    { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
func identifier(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// pgObjects counts what somebody made in a database: all but what belongs to PostgreSQL or to
// an extension, and but the schema public.
const pgObjects = `SELECT (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
 AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e'))
 + (SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
 AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e'))
 + (SELECT count(*) FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'public'))
 + (SELECT count(*) FROM pg_largeobject_metadata)`

// pgThere asks another database whether there is this one, and counts what is in it.
func pgThere(s *Stream) []string {
	return words([]string{"n=$("}, psql(s, "postgres"), quoted("--command=SELECT count(*) FROM pg_database WHERE datname = "+literal(s.Database)),
		[]string{") || exit 1; if [ $n = 0 ]; then echo absent; else"}, psql(s, s.Database), quoted("--command="+pgObjects), []string{"; fi"})
}

// pgReady makes the database, with the encoding, the locale and the owner of the one that it
// moves aside. Nobody may be connected to that: PostgreSQL refuses otherwise.
func pgReady(s *Stream, absent bool, suffix string) []string {
	if absent {
		return tell(psql(s, "postgres"), "CREATE DATABASE "+identifier(s.Database)+" TEMPLATE template0")
	}
	aside := pgAside(s.Database, suffix)
	return tell(psql(s, "postgres"), "ALTER DATABASE "+identifier(s.Database)+" RENAME TO "+identifier(aside)+";\n"+
		`SELECT format('CREATE DATABASE %I OWNER %I ENCODING %L LC_COLLATE %L LC_CTYPE %L TEMPLATE template0', `+literal(s.Database)+
		", pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datctype)\n FROM pg_database WHERE datname = "+literal(aside)+" \\gexec\n")
}

// pgAside returns the name of a database that is moved aside: 63 bytes is the longest there is,
// and what is longer would be cut at its end, which tells one from another.
func pgAside(database, suffix string) string {
	return database[:min(len(database), 63-len(suffix))] + suffix
}

// pgOwn are the databases of a cluster that somebody uses.
const pgOwn = `FROM pg_database WHERE NOT datistemplate AND datallowconn AND datname !~ '[.]before-restore-[0-9-]+$'`

// pgAllThere counts databases, and what is in the one that every cluster has.
func pgAllThere(s *Stream) []string {
	return words([]string{"n=$("}, psql(s, "template1"), quoted("--command=SELECT count(*) "+pgOwn+" AND datname <> 'postgres'"),
		[]string{") && m=$("}, psql(s, "postgres"), quoted("--command="+pgObjects), []string{") || exit 1; echo $((n + m))"})
}

// pgAllReady moves all databases aside. That named postgres is made again: the dump takes it
// for granted.
func pgAllReady(s *Stream, _ bool, suffix string) []string {
	return tell(psql(s, "template1"), "SELECT format('ALTER DATABASE %I RENAME TO %I', datname, left(datname, "+portText(63-len(suffix))+") || "+literal(suffix)+") "+
		pgOwn+" \\gexec\nCREATE DATABASE postgres TEMPLATE template0;\n")
}

// pgRoles are the lines of the dump that would make roles which are there: at least one is,
// and the first error ends the load. That they are as they were is in the lines behind.
func pgRoles(s *Stream) []string {
	return words(psql(s, "postgres"), quoted("--command=SELECT 'CREATE ROLE ' || quote_ident(rolname) || ';' FROM pg_roles"))
}

// mysqlWhat says which schemas a stream is about, as a condition on a column.
func mysqlWhat(s *Stream, column string) string {
	if s.Database != "" {
		return column + " = " + literal(strings.ReplaceAll(s.Database, `\`, `\\`))
	}
	return column + " NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys')"
}

// mysqlThere counts tables, views and routines.
func mysqlThere(s *Stream) []string {
	return words(mysql(s, "mariadb", "mysql"), []string{"--batch", "--skip-column-names"}, quoted(
		"--execute=SELECT (SELECT count(*) FROM information_schema.tables WHERE "+mysqlWhat(s, "table_schema")+
			") + (SELECT count(*) FROM information_schema.routines WHERE "+mysqlWhat(s, "routine_schema")+")"))
}

// mysqlReady drops the databases, after kedge has dumped them to a file: they cannot be renamed.
func mysqlReady(s *Stream, absent bool, _ string) []string {
	if absent {
		return nil
	}
	client := words(mysql(s, "mariadb", "mysql"), []string{"--batch", "--skip-column-names"})
	return words(client, quoted("--execute=SELECT concat('DROP DATABASE `', replace(schema_name, '`', '``'), '`;') FROM information_schema.schemata WHERE "+
		mysqlWhat(s, "schema_name")), []string{"|"}, client)
}

// mongoThere counts databases, or the collections of one. The shell of MongoDB can be told a
// password in its arguments only: with one, nobody knows what is there.
func mongoThere(s *Stream) []string {
	if s.Secret != "" {
		return nil
	}
	count := `print(db.adminCommand({listDatabases: 1}).databases.filter(d => !["admin", "config", "local"].includes(d.name)).length)`
	if s.Database != "" {
		count = `print(db.getSiblingDB(` + quoteJS(s.Database) + `).getCollectionNames().length)`
	}
	return words([]string{"mongosh", "--quiet", "--norc"}, quoted(s.server("--username=")...), quoted("--eval", count))
}

// quoteJS quotes a string for JavaScript.
func quoteJS(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}
