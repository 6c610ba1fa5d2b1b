package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// tellsSecret is a tool that dumps only if it was handed the password, and takes its time.
const tellsSecret = `#!/bin/bash
from=${PGPASSFILE:-/proc/self/fd/3}
[ "${0##*/}" != redis-cli ] || from=/dev/stdin
case "$(cat "$from")" in
*'geheim-8d1f'*) ;;
*) echo "no password" >&2; exit 1;;
esac
sleep 0.4
echo dumped
`

// While a night is done no process that there is has the password among its arguments or in its
// environment, where others could read it, and no dump that runs as somebody else has the
// credentials of the store.
func TestSecretsInProc(t *testing.T) {
	const secret = "geheim-8d1f"
	h := newHost(t, `
[job.hooks]
before = ["sleep 0.2"]
resume = ["true"]
[[job.part]]
save = "my"
[[job.part.stream]]
name = "my"
preset = "mysql"
password-file = "HERE/pw"
[[job.part]]
save = "pg"
[[job.part.stream]]
name = "pg"
preset = "postgresql"
database = "app"
password-file = "HERE/pw"
[[job.part]]
save = "mongo"
[[job.part.stream]]
name = "mongo"
preset = "mongodb"
password-file = "HERE/pw"
[[job.part]]
save = "redis"
[[job.part.stream]]
name = "redis"
preset = "redis"
password-file = "HERE/pw"
[[job.part]]
save = "own"
[[job.part.stream]]
name = "own"
command = "cat $KEDGE_PASSWORD_FILE >/dev/null; sleep 0.4; env"
run-as = "nobody"
password-file = "HERE/pw"
`)
	text, err := os.ReadFile(h.config)
	check(t, err)
	config := strings.Replace(string(text), "[job.hooks]", "[[job]]\nname = \"j\"\n[job.hooks]", 1)
	check(t, os.WriteFile(h.config, []byte(config), 0o644))
	write(t, h.dir+"/pw", []byte(secret+"\n"))
	check(t, os.Chmod(h.dir+"/pw", 0o600))
	for _, tool := range []string{"mariadb-dump", "mysqldump", "pg_dump", "mongodump", "redis-cli"} {
		h.script(t, tool, tellsSecret)
	}
	h.env = append(h.env, "AWS_SECRET_ACCESS_KEY=of-the-store")

	var over atomic.Bool
	done := make(chan int)
	go func() {
		looked := 0
		for ; !over.Load(); time.Sleep(10 * time.Millisecond) {
			for _, what := range []string{"cmdline", "environ"} {
				files, _ := filepath.Glob("/proc/[0-9]*/" + what)
				for _, file := range files {
					if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), secret) {
						t.Errorf("%s: %q", file, text)
					}
				}
			}
			looked++
		}
		done <- looked
	}()
	r := h.try(t, "run", "-v", "--json")
	over.Store(true)
	if looked := <-done; looked < 20 {
		t.Errorf("only looked %d times", looked)
	}
	if r.code != 0 || strings.Contains(r.out+r.err, secret) {
		t.Fatalf("exit %d\n%s%s", r.code, r.out, r.err)
	}
	env := kedge(t, h.repo, "cat-file", "own/latest/.streams/own")
	if !strings.Contains(env, "KEDGE_PASSWORD_FILE=") || strings.Contains(env, "of-the-store") || strings.Contains(env, secret) {
		t.Errorf("a dump of nobody has\n%s", env)
	}
}
