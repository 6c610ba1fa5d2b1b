package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A host that is not known is refused, is added when that is asked for, and is refused
// whatever is asked for when it shows another key. What to do is in the message.
func TestRemoteHosts(t *testing.T) {
	s := startServe(t)
	other, err := os.ReadFile(s.keygen(t, "other") + ".pub")
	check(t, err)
	shown, err := os.ReadFile(s.keys + "/host.pub")
	check(t, err)
	print := strings.Fields(must(t, "ssh-keygen", "-lf", s.keys+"/host.pub"))[1]
	for _, ssh := range []string{"system", "builtin"} {
		t.Run(ssh, func(t *testing.T) {
			c := s.addClient(t, ssh, "build", "append")
			key, err := filepath.Glob(s.keys + "/build-append-*.pub")
			check(t, err)
			c.env = c.env[1:] // the system's ssh as it is
			file := filepath.Join(t.TempDir(), "known")
			c.args = []string{"--ssh", ssh, "--ssh-key", strings.TrimSuffix(key[len(key)-1], ".pub"), "--known-hosts", file}
			refused := func(want ...string) {
				t.Helper()
				r := c.try(t, "init")
				if r.code != 6 {
					t.Fatalf("exit %d\n%s", r.code, r.err)
				}
				for _, w := range want {
					if !strings.Contains(r.err, w) {
						t.Errorf("it does not say %q:\n%s", w, r.err)
					}
				}
			}
			host := fmt.Sprintf("[127.0.0.1]:%d", s.port)
			how := print
			if ssh == "system" {
				how = fmt.Sprintf("ssh-keyscan -p %d 127.0.0.1 | ssh-keygen -lf -", s.port)
				if got := must(t, "sh", "-c", how+" 2>&1"); !strings.Contains(got, print) {
					t.Errorf("what is said to show the key says %s", got)
				}
			}
			refused("host "+host, file, how, "connect once with --accept-new-host")
			if _, err := os.Stat(file); err == nil {
				t.Error("a host was added that nobody accepted")
			}
			plain := c.args
			c.args = append(plain[:len(plain):len(plain)], "--accept-new-host")
			c.run(t, "init")
			c.args = plain
			c.run(t, "init")
			if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), strings.Fields(string(shown))[1]) {
				t.Errorf("known: %s, %v", text, err)
			}

			write(t, file, []byte(host+" "+string(other)))
			c.args = append(plain[:len(plain):len(plain)], "--accept-new-host")
			forget := "ssh-keygen -f " + file + " -R '" + host + "'"
			refused(print, "somebody may be listening", forget)
			must(t, "sh", "-c", forget+" 2>&1")
			c.run(t, "init")
			write(t, file, []byte("@revoked * "+string(shown)+host+" "+string(shown)))
			refused("revoked")
		})
	}
}

// Keys come from files, and if those are encrypted from an agent; who has none that the
// server knows is told so.
func TestRemoteKeys(t *testing.T) {
	for _, name := range []string{"ssh-agent", "ssh-add"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(err)
		}
	}
	s := startServe(t)
	c := s.addClient(t, "builtin", "build", "append")
	c.run(t, "init")
	names, err := filepath.Glob(s.keys + "/build-append-*.pub")
	check(t, err)
	key := strings.TrimSuffix(names[0], ".pub")
	known := filepath.Join(s.keys, "known_hosts")
	stranger := s.keygen(t, "stranger")
	locked := filepath.Join(s.keys, "locked")
	text, err := os.ReadFile(key)
	check(t, err)
	write(t, locked, text)
	check(t, os.Chmod(locked, 0o600))
	socket := filepath.Join(t.TempDir(), "agent")
	agent := exec.Command("ssh-agent", "-D", "-a", socket)
	check(t, agent.Start())
	t.Cleanup(func() {
		_ = agent.Process.Kill()
		_ = agent.Wait()
	})
	for range 200 {
		if _, err = os.Stat(socket); err == nil {
			break
		}
		must(t, "sleep", "0.02")
	}
	if r := command(t, []string{"SSH_AUTH_SOCK=" + socket}, "ssh-add", "-q", locked); r.code != 0 {
		t.Fatalf("ssh-add: %s", r.err)
	}
	must(t, "ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", locked)

	for _, ssh := range []string{"system", "builtin"} {
		for _, test := range []struct {
			name  string
			agent bool
			file  string
			code  int
			want  string // of the builtin client
		}{
			{"file", false, key, 0, ""},
			{"agent", true, "", 0, ""},
			{"encrypted, agent", true, locked, 0, ""},
			{"public, agent", true, key + ".pub", 0, ""},
			{"encrypted", false, locked, 1, "no agent has it: run ssh-add " + locked},
			{"another", false, stranger, 6, "the login was refused"},
			{"another, agent", true, stranger, 6, "the login was refused"},
		} {
			t.Run(ssh+"/"+test.name, func(t *testing.T) {
				c := c
				c.env = []string{"KEDGE_CACHE_DIR=" + s.keys + "/cache"}
				c.args = []string{"--ssh", ssh, "--known-hosts", known}
				if test.agent {
					c.env = append(c.env, "SSH_AUTH_SOCK="+socket)
				}
				if test.file != "" {
					c.args = append(c.args, "--ssh-key", test.file)
				}
				r := c.try(t, "ls")
				if ssh == "system" && test.code != 0 { // it may ask for a passphrase, and says no more than no
					test.code, test.want = 6, "the login was refused"
				}
				if r.code != test.code || !strings.Contains(r.err, test.want) {
					t.Errorf("exit %d\n%s", r.code, r.err)
				}
			})
		}
	}
}
