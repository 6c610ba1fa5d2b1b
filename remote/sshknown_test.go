package remote

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// TestKnownNames compares which lines are about a host with what ssh-keygen finds.
func TestKnownNames(t *testing.T) {
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("no ssh-keygen here")
	}
	key := newKey(t).PublicKey()
	line := string(ssh.MarshalAuthorizedKey(key))
	hashed := writeFile(t, "hashed", "one.example "+line+"[two.example]:2222 "+line)
	if out, err := exec.Command(keygen, "-H", "-f", hashed).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(hashed)
	if err != nil || strings.Contains(string(text), "example") {
		t.Fatalf("%v: not hashed: %s", err, text)
	}
	lines := strings.SplitAfter(strings.TrimSpace(string(text))+"\n", "\n")
	patterns := []string{
		"host", "HOST", "host,other", "*.example", "*", "h?st", "ho*t*", "!host,*", "*,!host", "[host]:2222", "[*]:2222", "10.0.0.?",
		"", ",", "**", "!", "|1|AAAA|AAAA", "|1|x", "|2|AAAA|AAAA", "one.*", "[::1]:2222", "::1", "*h*o*s*t*x",
	}
	for _, p := range patterns {
		lines = append(lines, p+" "+line)
	}
	hosts := []string{"host", "other", "one.example", "two.example", "[two.example]:2222", "a.example", "[host]:2222", "10.0.0.1", "[::1]:2222", "::1"}
	for _, l := range lines {
		if l == "" {
			continue
		}
		file := writeFile(t, "known_hosts", l)
		k, err := readKnownHosts(nil, file)
		if err != nil {
			t.Fatal(err)
		}
		for _, host := range hosts {
			out, _ := exec.Command(keygen, "-F", host, "-f", file).Output()
			want := len(out) > 0
			if got := k.check(host, key) == nil; got != want {
				t.Errorf("%q: about %s: %v, ssh-keygen says %v", strings.TrimSuffix(l, line), host, got, want)
			}
		}
	}
}

func TestKnownHostsDamaged(t *testing.T) {
	key := newKey(t).PublicKey()
	line := string(ssh.MarshalAuthorizedKey(key))
	k, err := readKnownHosts(nil, writeFile(t, "k", "\n# x\nhost\nhost ssh-new AAAA\nhost ssh-ed25519 !!!\n@strange host "+line+"host "+line))
	if err != nil || len(k.lines) != 1 || k.check("host", key) != nil {
		t.Errorf("%v: %d lines", err, len(k.lines))
	}
	if _, err := readKnownHosts(nil, writeFile(t, "k", "x\n@revoked * ssh-ed25519 AAAA\n")); err == nil || !strings.Contains(err.Error(), "line 2: the revoked key cannot be read") {
		t.Error(err)
	}
	// What is written elsewhere counts as well, and the first file gets what is new.
	first := writeFile(t, "first", "")
	if k, err = readKnownHosts(nil, first, "/nowhere/k", writeFile(t, "k", "host "+line)); err != nil || k.check("host", key) != nil || k.file != first {
		t.Error(err, k)
	}
}

func TestGlob(t *testing.T) {
	long := strings.Repeat("a", 1<<12)
	tests := []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"*", "", true}, {"?", "", false}, {"a*b*c", "aXbYbZc", true}, {"a*b*c", "aXbYc!", false},
		{"*a", "ba", true}, {"*a", "bab", false}, {"a", "ab", false},
		// A pattern that would take ages, did every star try everything.
		{strings.Repeat("*a", 50) + "b", long, false},
	}
	for _, tt := range tests {
		if got := glob(tt.pattern, tt.s); got != tt.want {
			t.Errorf("glob(%.20q, %.20q) = %v", tt.pattern, tt.s, got)
		}
	}
}

// FuzzKnownHosts: a file of anybody's making is read or refused, and a host is never taken
// for known by a key that is not in it.
func FuzzKnownHosts(f *testing.F) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBmzmCh2ZQMPdPzFXu5TC4SMBmdAPRHOwKuJGPcTh4ni"
	other, _, _, _, err := ssh.ParseAuthorizedKey([]byte("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"))
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{"host %s", "@revoked * %s", "|1|AAAA|AAAA %s", "!host,*,,[x]:1 %s", "@cert-authority host %s", "host %s\r\nhost"} {
		f.Add([]byte(fmt.Sprintf(s, key)))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		k := new(knownHosts)
		if k.parse("k", text) != nil {
			return
		}
		if len(k.algorithms("host")) == 0 {
			t.Error("no algorithm is left")
		}
		for _, l := range k.lines {
			if sameKey(l.key, other) {
				return
			}
		}
		if k.check("host", other) == nil {
			t.Error("a strange key is let through")
		}
	})
}
