package meta

import (
	"bytes"
	"testing"
)

// TestACLText compares with what libacl made of the same kernel form: names
// with separators and backslashes in them, ids without a name.
func TestACLText(t *testing.T) {
	n := &Names{}
	n.users.names = map[uint32]string{65534: "nobody", 4242: `DOM\bob`, 4243: "a b,c=d", 4244: "h\xc3\xa9\x01\x7f#", 4245: "\xff\tq", 5: ""}
	n.groups.names = map[uint32]string{1: "daemon", 777: ""}
	for _, c := range []struct{ kernel, named, numbers string }{
		{"02000000 01000600ffffffff 0200040039300000 02000600feff0000 04000400ffffffff 0800050001000000 0800040009030000 10000700ffffffff 20000400ffffffff",
			"u::rw-,u:12345:r--,u:nobody:rw-,g::r--,g:daemon:r-x,g:777:r--,m::rwx,o::r--",
			"u::rw-,u:12345:r--,u:65534:rw-,g::r--,g:1:r-x,g:777:r--,m::rwx,o::r--"},
		{"02000000 01000600ffffffff 0200040092100000 0200040093100000 0200040094100000 0200040095100000 04000400ffffffff 10000400ffffffff 20000400ffffffff",
			"u::rw-,u:DOM\\\\bob:r--,u:a\\040b\\054c=d:r--,u:h\xc3\xa9\x01\x7f#:r--,u:\xff\\011q:r--,g::r--,m::r--,o::r--",
			"u::rw-,u:4242:r--,u:4243:r--,u:4244:r--,u:4245:r--,g::r--,m::r--,o::r--"},
	} {
		n.users.names[12345] = ""
		kernel := unhex(t, c.kernel)
		list, err := parseACL(string(kernel))
		if err != nil {
			t.Fatal(err)
		}
		if got := aclText(list, n); got != c.named {
			t.Errorf("with names: %q, want %q", got, c.named)
		}
		if got := aclText(list, nil); got != c.numbers {
			t.Errorf("with numbers: %q, want %q", got, c.numbers)
		}
		if got := appendACL(nil, list); !bytes.Equal(got, kernel) {
			t.Errorf("kernel form comes back as %x", got)
		}
		again, err := parseACLText(c.numbers)
		if err != nil || !bytes.Equal(appendACL(nil, again), kernel) {
			t.Errorf("%s reads as %+v, error %v", c.numbers, again, err)
		}
		named, err := parseACLText(c.named)
		if err != nil {
			t.Fatal(err)
		}
		for i := range named {
			if want := n.users.names[list[i].id]; list[i].tag == aclUser && named[i].name != want {
				t.Errorf("name %q, want %q", named[i].name, want)
			}
		}
	}
}

func TestACLTextRefused(t *testing.T) {
	for _, bad := range []string{"", "u::rw", "u::rwxx", "u::wr-", "x::rw-", "u:rw-", "m:root:rw-", "o:1:rw-",
		`u:a\:rw-`, `u:a\08x:rw-`, `u:\777:rw-`, "u::rw-,", ",u::rw-", "u::RW-", "u::rw-\x00"} {
		if list, err := parseACLText(bad); err == nil {
			t.Errorf("%q was taken: %+v", bad, list)
		}
	}
	for _, bad := range []string{"02", "01000000", "0200000001000600ffffff", "0200000003000600ffffffff", "0200000001000800ffffffff"} {
		if list, err := parseACL(string(unhex(t, bad))); err == nil {
			t.Errorf("%s was taken: %+v", bad, list)
		}
	}
}

func TestResolveACL(t *testing.T) {
	n := &Names{}
	n.users.ids = map[string]int64{"alice": 1000, "evil": 0, "gone": -1, "bob": 1001}
	n.groups.ids = map[string]int64{"staff": 50}
	const named, numbers = "u::rw-,u:bob:r--,u:gone:r--,u:evil:r--,u:alice:rwx,g::r--,g:staff:r--,m::rwx,o::---",
		"u::rw-,u:7:r--,u:8:r--,u:9:r--,u:10:rwx,g::r--,g:11:r--,m::rwx,o::---"
	for _, c := range []struct {
		opts           Options
		named, numbers string
		want           string
	}{
		{Options{}, named, numbers, "u::rw-,u:8:r--,u:9:r--,u:1000:rwx,u:1001:r--,g::r--,g:50:r--,m::rwx,o::---"},
		{Options{Numeric: true}, named, numbers, "u::rw-,u:7:r--,u:8:r--,u:9:r--,u:10:rwx,g::r--,g:11:r--,m::rwx,o::---"},
		{Options{MapUser: map[string]string{"alice": "bob", "bob": ""}, MapUID: map[uint32]uint32{7: 77}}, named, numbers,
			"u::rw-,u:8:r--,u:9:r--,u:77:r--,u:1001:rwx,g::r--,g:50:r--,m::rwx,o::---"},
		{Options{}, "u::rw-,u:alice:r--,g::r--,m::r--,o::r--", "", "u::rw-,u:1000:r--,g::r--,m::r--,o::r--"},
		{Options{}, "", numbers, numbers},
		{Options{}, "u::rw-,u:gone:r--,g::r--,m::r--,o::r--", "", ""},
		{Options{}, "u::rw-,u:evil:r--,g::r--,m::r--,o::r--", "", ""},
	} {
		a := &Applier{opts: c.opts, names: n}
		list, err := a.resolveACL(c.named, c.numbers)
		if c.want == "" {
			if err == nil {
				t.Errorf("%q, %q gave %s", c.named, c.numbers, aclText(list, nil))
			}
			continue
		}
		if got := aclText(list, nil); err != nil || got != c.want {
			t.Errorf("%+v: %q, want %q, error %v", c.opts, got, c.want, err)
		}
	}
}

func FuzzACL(f *testing.F) {
	f.Add("u::rw-,u:12345:r--,u:a\\040b:rw-,g::r--,m::rwx,o::r--")
	f.Add("user::rwx\ngroup:x:---")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseACLText(text)
		if err != nil {
			return
		}
		for i := range list {
			if list[i].name != "" { // no such id; a name is what is being tested
				continue
			}
			if list[i].tag != aclUser && list[i].tag != aclGroup {
				list[i].id = aclNoID
			}
		}
		sortACL(list)
		again, err := parseACL(string(appendACL(nil, list)))
		if err != nil || len(again) != len(list) {
			t.Fatalf("%q: %+v became %+v, error %v", text, list, again, err)
		}
	})
}
