package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// asBup returns a directory in which kedge is called bup.
func asBup(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	check(t, os.Symlink(binary, filepath.Join(dir, "bup")))
	return dir
}

// streamData is partly text, partly noise, with a run of zeros in the middle.
func streamData(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	for i := range b[:n/3] {
		b[i] = "aeiou \n"[b[i]%7]
	}
	clear(b[n/2 : n/2+n/10])
	return b
}

// What the special remote of git-annex runs. The repository is a directory, or on a host
// that has bup or kedge by that name; and so is the program that is called.
const annexScript = `set -e
bup init -r "$R"
bup split -r "$R" -n "$KEY" <"$DATA"
bup split -r "$R" -n "$KEY" <"$DATA"
bup join -r "$R" "$KEY" >"$DATA.out"
cmp "$DATA" "$DATA.out"
`

func TestBupAnnexScript(t *testing.T) {
	debian := debianBup(t)
	data := filepath.Join(t.TempDir(), "data")
	write(t, data, streamData(rand.New(rand.NewPCG(8, 1)), 700_000))
	clients := map[string]string{"bup": filepath.Dir(debian), "kedge": asBup(t)}
	hosts := map[string]*server{"bup": startLogins(t, map[string]string{"bup": debian}), "kedge": startLogins(t, map[string]string{"bup": binary})}
	for client, dir := range clients {
		run := func(t *testing.T, env []string, path, url string) {
			env = append(env, "BUP_DIR="+filepath.Join(t.TempDir(), "local"), "R="+url, "KEY=SHA256E-s7--0a.dat", "DATA="+data)
			if r := command(t, env, "sh", "-c", annexScript); r.code != 0 {
				t.Fatalf("exit %d\n%s%s", r.code, r.out, r.err)
			}
			if n := strings.TrimSpace(must(t, "git", "-C", path, "rev-list", "--count", "SHA256E-s7--0a.dat")); n != "2" {
				t.Errorf("%s commits of 2", n)
			}
			bupClean(t, path)
		}
		t.Run(client+"/directory", func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "r")
			run(t, []string{"PATH=" + dir + ":" + os.Getenv("PATH")}, path, path)
		})
		for host, s := range hosts {
			t.Run(client+"/host with "+host, func(t *testing.T) {
				path := filepath.Join(s.root, "annex-"+client)
				c := s.addLogin(t, "system", path[1:])
				env := append(c.env, strings.Replace(c.env[0], "PATH=", "PATH="+dir+":", 1))
				if client == "bup" { // whose directory holds ssh, too
					env = c.env
				}
				run(t, env, path, "127.0.0.1:"+path)
			})
		}
	}
}

// A command runs on a host with the repository here, whichever program is at either end.
func TestBupOn(t *testing.T) {
	debian := debianBup(t)
	data := filepath.Join(t.TempDir(), "data")
	write(t, data, streamData(rand.New(rand.NewPCG(8, 2)), 300_000))
	want := must(t, "bup", "split", "--noop", "-t", data)
	dirs := map[string]string{"bup": filepath.Dir(debian), "kedge": asBup(t)}
	for host, program := range map[string]string{"bup": debian, "kedge": binary} {
		s := startLogins(t, map[string]string{"bup": program})
		must(t, "bup", "-d", filepath.Join(s.root, "default"), "init") // bup on a host wants one there, too
		for here, dir := range dirs {
			if host == "bup" && here == "bup" {
				continue
			}
			t.Run(here+" on a host with "+host, func(t *testing.T) {
				c := s.addLogin(t, "system", "none")
				path := filepath.Join(t.TempDir(), "here")
				env := append(c.env, "BUP_DIR="+path)
				bup := func(code int, args ...string) string {
					t.Helper()
					r := command(t, env, filepath.Join(dir, "bup"), args...)
					if r.code != code {
						t.Fatalf("bup %q: exit %d, want %d\n%s%s", args, r.code, code, r.out, r.err)
					}
					return r.out
				}
				bup(0, "init")
				bup(0, "on", "127.0.0.1", "split", "-n", "far", data)
				if got := bup(0, "on", "127.0.0.1", "split", "-t", data); got != want {
					t.Errorf("the tree is %swant %s", got, want)
				}
				if got, err := os.ReadFile(data); err != nil || bup(0, "join", "far") != string(got) {
					t.Error("join brings other bytes back", err)
				}
				if here == "kedge" {
					bup(97, "on", "127.0.0.1", "gc", "--unsafe")
					bup(97, "on", "-oProxyCommand=true", "save", "/")
					bup(0, "join", "far")
				}
				bupClean(t, path)
			})
		}
	}
}

// Split makes of the same bytes what bup makes of them, whatever the options; each reads
// what the other stored.
func TestBupSplitEqual(t *testing.T) {
	debianBup(t)
	r := rand.New(rand.NewPCG(8, 3))
	dir, bin := t.TempDir(), asBup(t)
	env := []string{"BUP_DIR=" + filepath.Join(dir, "repo")}
	run := func(program string, args ...string) string {
		t.Helper()
		res := command(t, env, program, args...)
		if res.code != 0 {
			t.Fatalf("%s %q: exit %d\n%s%s", program, args, res.code, res.out, res.err)
		}
		return res.out
	}
	ours := filepath.Join(bin, "bup")
	run("bup", "init")
	for round := range 16 {
		var files []string
		var all []byte
		for i := range 1 + r.IntN(3) {
			name := filepath.Join(dir, fmt.Sprint(i))
			b := streamData(r, r.IntN(1<<r.IntN(20)))
			write(t, name, b)
			files, all = append(files, name), append(all, b...)
		}
		var args []string
		if r.IntN(2) == 0 {
			args = append(args, "--keep-boundaries")
		}
		if r.IntN(2) == 0 {
			args = append(args, fmt.Sprintf("--fanout=%d", []int{0, 2, 4, 9, 16, 64, 300}[r.IntN(7)]))
		}
		for _, mode := range []string{"-b", "-t", "--noop -t", "--noop -b"} {
			line := append(append([]string{"split"}, strings.Fields(mode)...), append(args, files...)...)
			if got, want := run(ours, line...), run("bup", line...); got != want {
				t.Fatalf("round %d: %q: ids differ\n%s\n%s", round, line, got, want)
			}
		}
		line := append(append([]string{"split", "-t", "-n"}, "x"), append(args, files...)...)
		first, second := ours, "bup"
		if round%2 == 0 {
			first, second = second, first
		}
		if got, want := run(first, line...), run(second, line...); got != want {
			t.Fatalf("round %d: %q: trees differ\n%s\n%s", round, line, got, want)
		}
		for _, program := range []string{ours, "bup"} {
			if got := run(program, "join", "x"); !bytes.Equal([]byte(got), all) {
				t.Fatalf("round %d: %s joins %d bytes of %d, or others", round, program, len(got), len(all))
			}
		}
	}
	bupClean(t, filepath.Join(dir, "repo"))
}
