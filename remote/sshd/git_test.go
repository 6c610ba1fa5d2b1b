package sshd

import (
	"io"
	"strings"
	"testing"
)

// A client may set GIT_PROTOCOL to the one value that means anything here, before it asks
// for git-upload-pack. It gets the version of the protocol that it asks for.
func TestGitProtocol(t *testing.T) {
	h := newHouse(t, calm)
	const plain = `0000000000000000000000000000000000000000 capabilities^{}`
	for _, x := range []struct {
		value string
		taken bool
		want  string // the first line
	}{
		{"version=1", true, "version 1\n"},
		{"version=2", false, plain},
		{"version=0", false, plain},
		{"version=1:x", false, plain},
		{"", false, plain},
	} {
		c := h.dial(h.b)
		ch, asks, err := c.OpenChannel("session", nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for range asks {
			}
		}()
		if ok, err := ch.SendRequest("env", true, []byte(str("GIT_PROTOCOL")+str(x.value))); ok != x.taken || err != nil {
			t.Errorf("%q: %v, %v", x.value, ok, err)
		}
		if ok, err := ch.SendRequest("env", true, []byte(str("GIT_PROTOCOL")+str("version=1")+str("more"))); ok || err != nil {
			t.Errorf("a request with more in it: %v, %v", ok, err)
		}
		if ok, err := ch.SendRequest("exec", true, []byte(str("git-upload-pack '/b'"))); !ok || err != nil {
			t.Fatalf("exec: %v, %v", ok, err)
		}
		if _, err := io.WriteString(ch, "0000"); err != nil {
			t.Fatal(err)
		}
		out, err := io.ReadAll(ch)
		if err != nil || len(out) < 4 || !strings.HasPrefix(string(out[4:]), x.want) || !strings.HasSuffix(string(out), "0000") {
			t.Errorf("%q: %q, %v", x.value, out, err)
		}
	}
}
