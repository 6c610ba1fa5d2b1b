package access

import (
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestParseForced(t *testing.T) {
	for _, tt := range []struct {
		words string
		want  Grant
		bad   string
	}{
		{words: "", want: Grant{Role: Owner}},
		{words: "--root /srv/", want: Grant{Role: Owner, Root: "/srv"}},
		{words: "--repo build --role append", want: Grant{Role: Append, Repos: []string{"build"}}},
		{words: "--role=append --repo=build --no-read --names=a* --names b --quota 50G --root /srv", want: Grant{Role: Append,
			Repos: []string{"build"}, NoRead: true, Names: []string{"a*", "b"}, Quota: 50 << 30, Root: "/srv"}},
		{words: "--repo web* --repo db --role mirror", want: Grant{Role: Mirror, Repos: []string{"web*", "db"}}},
		{words: "--repo web --role read", want: Grant{Role: Read, Repos: []string{"web"}}},
		{words: "--repo build", bad: "--role is missing"},
		{words: "--role append", bad: "--repo is missing"},
		{words: "--role owner --repo x", bad: "no role"},
		{words: "--role admin", bad: "no role"},
		{words: "--role APPEND --repo x", bad: "no role"},
		{words: "--role none --repo x", bad: "no role"},
		{words: "--repo a --repo b --role append", bad: "one --repo"},
		{words: "--repo * --role append", bad: "no name"},
		{words: "--repo [ --role read", bad: "no glob"},
		{words: "--repo a/b* --role read", bad: "no glob"},
		{words: "--repo .x --role read", bad: "no name"},
		{words: "--repo .. --role append", bad: "no name"},
		{words: "--repo /x --role append", bad: "no name"},
		{words: "--repo= --role append", bad: "no name"},
		{words: "--repo x --role read --no-read", bad: "go with --role append"},
		{words: "--repo x --role mirror --names a", bad: "go with --role append"},
		{words: "--repo x --role read --quota 1", bad: "go with --role append"},
		{words: "--no-read", bad: "go with --role append"},
		{words: "--repo x --role append --role read", bad: "twice"},
		{words: "--repo x --role append --root a", bad: "no absolute path"},
		{words: "--repo x --role append --names [", bad: "no glob"},
		{words: "--repo x --role append --quota 0", bad: "no size"},
		{words: "--repo x --role append --no-read=false", bad: "no option"},
		{words: "--repo x --role append --rep y", bad: "no option"},
		{words: "--repo x --role append --upload-pack=sh", bad: "no option"},
		{words: "--repo x --role append y", bad: "no option"},
		{words: "--repo x --role append -- y", bad: "no option"},
		{words: "--repo x --role", bad: "lacks its value"},
	} {
		g, err := ParseForced(strings.Fields(tt.words))
		switch {
		case tt.bad != "" && (err == nil || !strings.Contains(err.Error(), tt.bad)):
			t.Errorf("%s: %v, want %q", tt.words, err, tt.bad)
		case tt.bad != "" && !reflect.DeepEqual(g, Grant{}):
			t.Errorf("%s: an error, and a grant: %+v", tt.words, g)
		case tt.bad == "" && (err != nil || !reflect.DeepEqual(g, tt.want)):
			t.Errorf("%s: %+v, %v", tt.words, g, err)
		case tt.bad == "":
			back, err := ParseForced(g.Words())
			if err != nil || !reflect.DeepEqual(back, g) {
				t.Errorf("%v: %+v, %v", g.Words(), back, err)
			}
		}
	}
}

func TestQuota(t *testing.T) {
	for s, want := range map[string]int64{
		"1": 1, "1k": 1 << 10, "10K": 10 << 10, "3MB": 3 << 20, "2g": 2 << 30, "5Tb": 5 << 40, "7P": 7 << 50, "8191P": 8191 << 50, "100b": 100,
		"": 0, "0": 0, "0k": 0, "k": 0, "-1": 0, "1.5G": 0, "8192P": 0, "1kk": 0, "1bb": 0, "1 k": 0, "+1": 0, "0x10": 0, "99999999999999999999": 0, "1E": 0,
	} {
		n, err := parseQuota(s)
		if n != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %d, %v, want %d", s, n, err, want)
		}
		if err == nil {
			if back, err := parseQuota(formatQuota(n)); back != n || err != nil {
				t.Errorf("%q: %q: %d, %v", s, formatQuota(n), back, err)
			}
		}
	}
	if got := formatQuota(50 << 30); got != "50G" {
		t.Errorf("50G is written %s", got)
	}
}

// SplitWords cuts as the shell does, or refuses.
func TestSplitWordsAsShell(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no sh to compare with")
	}
	for _, s := range []string{
		"kedge server --repo build --role append", `kedge server --repo 'web*' --role "mirror"`, `a'b c'"d e"f\ g`, `a\'b`, `'a'\''b'`, "a \t b", "  a ", "''", `""`,
		`a''b`, `--names='[ab]?'`, `\*`, `\\`, `"it's"`, `'say "x"'`, `\"`, `a=b`, `--x=~`, `~`, `a~b`, `$HOME`, "`id`", `a;b`, `a&b`, `a|b`, `(a)`, `{a,b}`, `*`, `?`, `[a]`, `#a`, `a#b`, `!a`, `a>b`, `a<b`, "a\nb",
		`"$x"`, `"\$"`, `'`, `"`, `\`, `a\`, "a\\\nb", "'a\nb'", "ä", "'ä'", `\ä`, "a\x00b", "'a\x00b'", `a%b`, `a@b`, `a,b`, `a+b`, `a:b`, `a/b`, `--`, `-`,
	} {
		got, err := SplitWords(s)
		if err != nil {
			continue // refused: it cannot differ
		}
		out, err := exec.Command(sh, "-c", `for w in `+s+`; do printf '%s\n' "$w"; done`).Output()
		if err != nil {
			t.Errorf("%q: sh: %v", s, err)
			continue
		}
		want := strings.Split(string(out), "\n")
		if want = want[:len(want)-1]; !slices.Equal(got, want) {
			t.Errorf("%q: %q, the shell has %q", s, got, want)
		}
	}
	for _, s := range []string{"~", "$HOME", "`id`", "a;b", "*", "a\nb", `"$x"`, "#", "(", "a\x00b", "'", "a&", "x|y", "{a,b}", "\\\n", "!"} {
		if w, err := SplitWords(s); err == nil {
			t.Errorf("%q is taken as %q", s, w)
		}
	}
}

func TestParseCommand(t *testing.T) {
	for s, ok := range map[string]bool{
		"kedge server --repo build --role append":                true,
		"/usr/local/bin/kedge server --repo build --role append": true,
		"bup server --repo build --role append":                  true,
		"kedge server --repo 'we*' --role mirror":                true,
		"kedge server --repo we* --role mirror":                  false,
		"kedge server":                                           false,
		"kedge server --root /srv":                               false,
		"kedge -d x server --repo a --role read":                 false,
		"bin/kedge server --repo a --role read":                  false,
		"sh server --repo a --role read":                         false,
		"kedge serve --repo a --role read":                       false,
		"X=1 kedge server --repo a --role read":                  false,
		"kedge server --repo a --role read; sh":                  false,
		"kedge":                                                  false,
		"":                                                       false,
	} {
		if _, err := ParseCommand(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// Whatever a grant holds, its command is read back as the same grant, by us and by sh.
func FuzzCommand(f *testing.F) {
	f.Add("build", "web*", "/srv/it's", int64(50<<30), true)
	f.Add("x", "", "/", int64(1), false)
	f.Fuzz(func(t *testing.T, name, glob, root string, quota int64, noRead bool) {
		g := Grant{Role: Append, Repos: []string{name}, Root: root, Quota: quota, NoRead: noRead}
		if glob != "" {
			g.Names = []string{glob}
		}
		g, err := ParseForced(g.Words())
		if err != nil {
			return
		}
		back, err := ParseCommand(g.Command())
		if err != nil || !reflect.DeepEqual(back, g) {
			t.Errorf("%q: %+v, %v, want %+v", g.Command(), back, err, g)
		}
	})
}
