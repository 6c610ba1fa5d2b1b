package remote

import (
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	tests := []struct {
		in   string
		want Address
		text string // String, "" if it is as in
	}{
		{"ssh://host/srv/build", Address{Host: "host", Path: "/srv/build"}, ""},
		{"ssh://host", Address{Host: "host"}, ""},
		{"ssh://host/", Address{Host: "host", Path: "/"}, ""},
		{"SSH://host:/p", Address{Host: "host", Path: "/p"}, "ssh://host/p"},
		{"ssh://me@host:2222/p q?x#y%41", Address{"me", "host", 2222, "/p q?x#y%41"}, ""},
		{"ssh://a%40b@host/p", Address{User: "a@b", Host: "host", Path: "/p"}, ""},
		{"ssh://a@b@host/p", Address{User: "a@b", Host: "host", Path: "/p"}, "ssh://a%40b@host/p"},
		{"ssh://h%6fst/p", Address{Host: "host", Path: "/p"}, "ssh://host/p"},
		{"ssh://[::1]:22/p", Address{Host: "::1", Port: 22, Path: "/p"}, ""},
		{"ssh://me@[fe80::1%25eth0]/p", Address{User: "me", Host: "fe80::1%eth0", Path: "/p"}, ""},
		{"ssh://host/./p", Address{Host: "host", Path: "p"}, ""},
		{"ssh://host/~/p", Address{Host: "host", Path: "p"}, "ssh://host/./p"},
		{"ssh://host/~", Address{Host: "host", Path: "."}, "ssh://host/./."},
		{"ssh://host/.//etc", Address{Host: "host", Path: "etc"}, "ssh://host/./etc"},
		{"ssh://host/~root/p", Address{Host: "host", Path: "/~root/p"}, ""},
		{"host:build", Address{Host: "host", Path: "build"}, "ssh://host/./build"},
		{"host:", Address{Host: "host"}, "ssh://host"},
		{"host:/srv/b", Address{Host: "host", Path: "/srv/b"}, "ssh://host/srv/b"},
		{"host:~/b", Address{Host: "host", Path: "b"}, "ssh://host/./b"},
		{"host:~/~/b", Address{Host: "host", Path: "~/b"}, "ssh://host/./~/b"},
		{"host:/././/b", Address{Host: "host", Path: "/b"}, "ssh://host/b"},
		{"host:/~/b", Address{Host: "host", Path: "b"}, "ssh://host/./b"},
		{"me@x@host:a:b", Address{User: "me@x", Host: "host", Path: "a:b"}, "ssh://me%40x@host/./a:b"},
		{"[::1]:b", Address{Host: "::1", Path: "b"}, "ssh://[::1]/./b"},
		{"me@[::1]:/b", Address{User: "me", Host: "::1", Path: "/b"}, "ssh://me@[::1]/b"},
		{"-:/srv/b", Address{Path: "/srv/b"}, ""},
		{"-:", Address{}, ""},
		{"-:~/~/b", Address{Path: "~/b"}, ""},
	}
	for _, tt := range tests {
		got, err := ParseAddress(tt.in)
		if err != nil || got != tt.want {
			t.Errorf("ParseAddress(%q) = %+v, %v; want %+v", tt.in, got, err, tt.want)
			continue
		}
		if tt.text == "" {
			tt.text = tt.in
		}
		if s := got.String(); s != tt.text {
			t.Errorf("%q: String() = %q, want %q", tt.in, s, tt.text)
		}
	}
}

func TestParseAddressRefused(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", "no colon"},
		{"/srv/build", "no colon"},
		{":b", "host is empty"},
		{"@host:b", "user is empty"},
		{"ssh://", "host is empty"},
		{"ssh:///p", "host is empty"},
		{"ssh://@host/p", "user is empty"},
		{"ssh://me:geheim@host/p", "password"},
		{"ssh://-oProxyCommand=x/p", "begin with -"},
		{"ssh://%2doProxyCommand/p", "begin with -"},
		{"ssh://-l@host/p", "begin with -"},
		{"-oProxyCommand=touch:b", "begin with -"},
		{"-x@host:b", "begin with -"},
		{"ssh://host:0/p", "no port"},
		{"ssh://host:65536/p", "no port"},
		{"ssh://host:+1/p", "no port"},
		{"ssh://host:22x/p", "no port"},
		{"ssh://::1/p", "brackets"},
		{"ssh://[::1/p", "bracket"},
		{"ssh://[::1]x/p", "bracket"},
		{"ssh://a b/p", "cannot hold ' '"},
		{"ssh://a%0ab/p", `cannot hold '\n'`},
		{"ssh://a%00/p", `cannot hold '\x00'`},
		{"ssh://a`id`/p", "cannot hold '`'"},
		{"ssh://$(id)@host/p", "cannot hold '$'"},
		{"ssh://a%2fb/p", "cannot hold '/'"},
		{"ssh://a%h/p", "two digits"},
		{"ssh://a%/p", "two digits"},
		{"ssh://a%25h/p", "cannot hold '%'"},
		{"ssh://host/a\nb", "line break"},
		{"host:a\rb", "line break"},
		{"host:a\x00b", "line break or a NUL"},
		{"-:a\nb", "line break"},
		{"bup://host/p", "not ssh://"},
		{"s3://bucket/p", "not ssh://"},
	}
	for _, tt := range tests {
		a, err := ParseAddress(tt.in)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("ParseAddress(%q) = %+v, %v; want an error with %q", tt.in, a, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "geheim") {
			t.Errorf("a password is shown: %v", err)
		}
	}
}

// FuzzParseAddress: what is accepted is safe on a command line and reads back as it was.
func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{
		"ssh://me@host:22/p", "ssh://[fe80::1%25e]/./p", "a@b@host:~/~/p", "-:~/x", "host:/~/x", "host:/./~", "ssh://h//./x",
		"[::1]:/.//~/", "-:/./~/x", "ssh://%41/~", "@[:]:", "a@[::1]:", "-:/~x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		for _, v := range []string{a.User, a.Host} {
			if strings.HasPrefix(v, "-") || strings.ContainsAny(v, " \t\r\n\x00'\"`$;&|<>(){}") {
				t.Fatalf("%q: %+v", s, a)
			}
		}
		if strings.ContainsAny(a.Path, "\r\n\x00") {
			t.Fatalf("%q: %+v", s, a)
		}
		if again, err := ParseAddress(a.String()); err != nil || again != a {
			t.Fatalf("%q: %+v is %q, and that is %+v, %v", s, a, a.String(), again, err)
		}
	})
}
