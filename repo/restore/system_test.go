package restore

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/repo/meta"
)

// rights are things that give rights away.
func rights() []entry {
	return []entry{
		{name: "su", body: "x", mode: meta.TypeFile | 0o6755},
		{name: "cap", body: "x", edit: func(m *meta.Meta) {
			m.Extras.Xattrs = []meta.Xattr{{Name: "user.a", Value: "1"},
				{Name: "security.capability", Value: "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}}
		}},
		{name: "trusted", body: "x", edit: func(m *meta.Meta) { m.Extras.Xattrs = []meta.Xattr{{Name: "trusted.a", Value: "1"}} }},
		{name: "null", mode: meta.TypeChar | 0o666, edit: func(m *meta.Meta) { m.Rdev = 1<<8 | 3 }},
		{name: "loop", mode: meta.TypeBlock | 0o660, edit: func(m *meta.Meta) { m.Rdev = 7 << 8 }},
		{name: "fifo", mode: meta.TypeFIFO | 0o644},
		{name: "sock", mode: meta.TypeSocket | 0o755},
		{name: "d", mode: meta.TypeDir | 0o2775, kids: []entry{}},
	}
}

// TestSystem: rights are restored where nobody else has been before, and only if
// it is asked for where somebody has.
func TestSystem(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	r := saved(t, rights()...)
	for _, c := range []struct {
		name   string
		before func(out string)
		system bool
		all    bool
	}{
		{"absent", func(out string) { os.Remove(out) }, false, true},
		{"empty and root's", func(string) {}, false, true},
		{"empty and somebody's", func(out string) { os.Chown(out, 1000, 1000) }, false, false},
		{"empty and writable", func(out string) { os.Chmod(out, 0o777) }, false, false},
		{"not empty", func(out string) { write(t, filepath.Join(out, "x"), "") }, false, false},
		{"not empty, system", func(out string) { write(t, filepath.Join(out, "x"), "") }, true, true},
	} {
		out := filepath.Join(scratch(t), "out")
		if err := os.Mkdir(out, 0o755); err != nil {
			t.Fatal(err)
		}
		c.before(out)
		o := Options{Repo: r, Out: out, Paths: []string{"s/latest/"}, System: c.system}
		for range 2 { // the second time nothing is written, and as much is missing
			res, e := restored(t, o)
			if c.all {
				if res.Withheld != 0 || res.Errors != 0 {
					t.Errorf("%s: %+v %q", c.name, res, e.warn)
				}
				o.System = true // the target is not fresh any more
				continue
			}
			slices.Sort(e.warn)
			want := []string{"/cap: left off: security.capability", "/loop: left off: device", "/null: left off: device",
				"/su: left off: setgid", "/su: left off: setuid", "/trusted: left off: trusted.a"}
			if res.Withheld != 6 || res.Errors != 0 || !slices.Equal(e.warn, want) {
				t.Errorf("%s: %+v %q", c.name, res, e.warn)
			}
		}
		snap := snapshot(t, out)
		if got := strings.HasPrefix(snap["su"], "mode=106755 "); got != c.all {
			t.Errorf("%s: su: %s", c.name, snap["su"])
		}
		if got := strings.Contains(snap["cap"], "security.capability"); got != c.all || !strings.Contains(snap["cap"], "user.a=31") {
			t.Errorf("%s: cap: %s", c.name, snap["cap"])
		}
		if got := strings.Contains(snap["null"], "mode=20666 ") && strings.Contains(snap["loop"], "rdev=0x700"); got != c.all {
			t.Errorf("%s: null: %s, loop: %s", c.name, snap["null"], snap["loop"])
		}
		if !strings.HasPrefix(snap["fifo"], "mode=10644 ") || !strings.HasPrefix(snap["sock"], "mode=140755 ") || !strings.HasPrefix(snap["d"], "mode=42775 ") {
			t.Errorf("%s: %s, %s, %s", c.name, snap["fifo"], snap["sock"], snap["d"])
		}
	}
}

func TestOwnerMaps(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	own := func(uid, gid int64, user, group string) func(*meta.Meta) {
		return func(m *meta.Meta) { m.UID, m.GID, m.User, m.Group = uid, gid, user, group }
	}
	r := saved(t,
		entry{name: "a", edit: own(4000, 4001, "daemon", "daemon")},
		entry{name: "b", edit: own(4000, 4001, "no-such-user", "")},
		entry{name: "c", edit: own(0, 0, "root", "root")},
		entry{name: "d", kids: []entry{}, edit: own(4000, 4001, "nobody", "nogroup")},
		entry{name: "e", mode: meta.TypeSymlink | 0o777, target: "x", edit: own(4000, 4001, "", "")})
	for _, c := range []struct {
		o    Options
		want map[string]string
	}{
		{Options{}, map[string]string{"a": "1:1", "b": "4000:4001", "c": "0:0", "d": "65534:65534"}},
		{Options{Numeric: true}, map[string]string{"a": "4000:4001", "b": "4000:4001", "c": "0:0", "d": "4000:4001"}},
		{Options{MapUser: map[string]string{"daemon": "nobody", "root": "daemon"}, MapGID: map[uint32]uint32{4001: 77}},
			map[string]string{"a": "65534:1", "b": "4000:77", "c": "1:0", "e": ""}},
	} {
		out := scratch(t)
		c.o.Repo, c.o.Out, c.o.Paths = r, out, []string{"s/latest/"}
		res, e := restored(t, c.o)
		clean(t, res, e)
		snap := snapshot(t, out)
		for name, want := range c.want {
			if want != "" && !strings.Contains(snap[name], "owner="+want+" ") {
				t.Errorf("%s: %s, want %s", name, snap[name], want)
			}
		}
		if res, e := restored(t, c.o); res.Files+res.Dirs != 0 {
			t.Errorf("again: %+v %q", res, e.seen)
		}
	}
}

// TestMetadataErrors: a part that cannot be applied is named, and the file is
// there with the rest.
func TestMetadataErrors(t *testing.T) {
	r := saved(t, entry{name: "f", body: "x", edit: func(m *meta.Meta) {
		m.Extras.Xattrs = []meta.Xattr{{Name: "nospace.a", Value: "1"}, {Name: "user.b", Value: "2"}}
	}})
	out := scratch(t)
	res, e := restored(t, Options{Repo: r, Out: out, Paths: []string{"s/latest/"}})
	if res.Errors != 1 || res.Files != 1 || len(e.warn) != 1 || !strings.Contains(e.warn[0], "nospace.a") {
		t.Errorf("%+v %q", res, e.warn)
	}
	if s := snapshot(t, out)["f"]; !strings.Contains(s, "user.b=32") {
		t.Error(s)
	}
}
