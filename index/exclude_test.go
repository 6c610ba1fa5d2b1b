package index

import (
	"slices"
	"strings"
	"testing"
)

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern string
		yes, no []string // directories end in '/'
	}{
		{"*.o", []string{"/a.o", "/x/y/.o", "/x/b.o/"}, []string{"/a.oo", "/a.o/x", "/o"}},
		{"core", []string{"/core", "/a/core/"}, []string{"/core/x", "/xcore", "/corex"}},
		{"/core", []string{"/core"}, []string{"/a/core"}},
		{"a/b", []string{"/a/b", "/x/a/b", "/x/y/a/b/"}, []string{"/a/x/b", "/b", "/xa/b"}},
		{"tmp/", []string{"/tmp/", "/x/tmp/"}, []string{"/tmp", "/x/tmp"}},
		{"**/node_modules", []string{"/node_modules/", "/a/b/node_modules/"}, []string{"/node_modules/x"}},
		{"/a/**", []string{"/a/b", "/a/b/c"}, []string{"/a", "/a/", "/b", "/ab"}},
		{"/a/**/z", []string{"/a/z", "/a/b/z", "/a/b/c/z"}, []string{"/z", "/a/b/z/c", "/az"}},
		{"/a/**/b/**/c", []string{"/a/b/c", "/a/x/b/y/c", "/a/b/b/c/c"}, []string{"/a/c/b", "/a/b/c/d"}},
		{"/a/*/c", []string{"/a/b/c", "/a/.b/c"}, []string{"/a/c", "/a/b/b/c"}},
		{"a*b*c", []string{"/abc", "/aXbXbXc", "/abcbc"}, []string{"/abcb", "/ab/c"}},
		{"a**c", []string{"/ac", "/abc"}, []string{"/a/c"}},
		{"?", []string{"/a", "/ü", "/\xff"}, []string{"/ab", "/\xff\xfe"}},
		{"[a-c]x", []string{"/ax", "/cx"}, []string{"/dx", "/x"}},
		{"[!a-c]x", []string{"/dx", "/üx", "/\xffx"}, []string{"/ax"}},
		{"[^a-c]", []string{"/d"}, []string{"/b"}},
		{"[]a]", []string{"/]", "/a"}, []string{"/b"}},
		{"[a-]", []string{"/-", "/a"}, []string{"/b"}},
		{`[\]]`, []string{"/]"}, []string{`/\`}},
		{"[ä-ü]", []string{"/ö"}, []string{"/a"}},
		{`\*`, []string{"/*"}, []string{"/a"}},
		{`a\?`, []string{"/a?"}, []string{"/ab"}},
		{"\xff*", []string{"/\xffx"}, []string{"/\xfex", "/x"}},
		{"./x", []string{"/x", "/a/x"}, []string{"/y"}},
		{"**", []string{"/a", "/a/b"}, []string{"/"}},
		{"/", nil, nil},
		{"a\nb", []string{"/a\nb"}, []string{"/a", "/ab"}},
	} {
		var x Exclude
		err := x.AddGlob(c.pattern)
		if c.yes == nil {
			if err == nil {
				t.Errorf("%q is accepted", c.pattern)
			}
			continue
		}
		if err != nil {
			t.Error(err)
			continue
		}
		match := func(p string) bool {
			dir := p != "/" && strings.HasSuffix(p, "/")
			if dir {
				p = p[:len(p)-1]
			}
			return x.Match(p, dir)
		}
		for _, p := range c.yes {
			if !match(p) {
				t.Errorf("%q does not match %q", c.pattern, p)
			}
		}
		for _, p := range c.no {
			if match(p) {
				t.Errorf("%q matches %q", c.pattern, p)
			}
		}
	}
	for _, bad := range []string{"", "[a", "[", "[]", "a/[b", `a\`, "[z-a]", "../x", "[[:alpha:]]", "[a-"} {
		if err := new(Exclude).AddGlob(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// TestGlobTime: no pattern takes exponential time.
func TestGlobTime(t *testing.T) {
	var x Exclude
	if err := x.AddGlob(strings.Repeat("**/a*", 30) + "/b"); err != nil {
		t.Fatal(err)
	}
	if err := x.AddGlob(strings.Repeat("a*", 60) + "b"); err != nil {
		t.Fatal(err)
	}
	if x.Match(strings.Repeat("/"+strings.Repeat("a", 200), 200), false) {
		t.Error("matches")
	}
}

func TestExcludeRegexp(t *testing.T) {
	var x Exclude
	for _, rx := range []string{`/cache/$`, `\.bak$`, `^/tmp/.`, "\\xff"} {
		if err := x.AddRegexp(rx); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]bool{
		"/a/cache/": true, "/a/cache": false, "/x.bak": true, "/x.bak/": false, "/tmp/": false, "/tmp/a": true, "/": false,
	} {
		dir := len(path) > 1 && strings.HasSuffix(path, "/")
		if got := x.Match(strings.TrimSuffix(path, "/")+map[bool]string{true: "/"}[path == "/"], dir); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
	for rx, want := range map[string]string{
		`(?=a)`: "lookahead", `x(?!a)`: "lookahead", `(?<=a)`: "lookbehind", `(?<!a)b`: "lookbehind",
		`(a)\1`: "backreferences", `(?P<n>a)(?P=n)`: "backreferences", `(?>a)`: "atomic groups",
		`(?(1)a|b)`: "conditional", `(`: "missing", `a\Z`: `\z`, `[`: "missing",
	} {
		err := x.AddRegexp(rx)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", rx, err)
		}
	}
}

func TestExcludePath(t *testing.T) {
	var x Exclude
	if x.AddPath("relative") == nil || x.AddPath("/a\x00") == nil {
		t.Error("accepted")
	}
	if err := x.AddPath("/a/b//c/"); err != nil {
		t.Fatal(err)
	}
	if !x.Match("/a/b/c", false) || x.Match("/a/b/cc", false) || x.Match("/a/b", true) {
		t.Error("wrong path excluded")
	}
	var none *Exclude
	if none.Match("/a", true) || none.filters() || new(Exclude).filters() {
		t.Error("nothing excludes something")
	}
	if x.AddTag("a/b") == nil || x.AddTag("") == nil || x.AddTag(":x") == nil || x.AddTag("..") == nil {
		t.Error("bad tag accepted")
	}
}

func TestPatternLines(t *testing.T) {
	const text = "  /a b \n\n \t\n/c\r\n/d"
	if got := slices.Collect(PatternLines(text, true)); !slices.Equal(got, []string{"/a b", "/c", "/d"}) {
		t.Errorf("%q", got)
	}
	if got := slices.Collect(PatternLines(text, false)); !slices.Equal(got, []string{"  /a b ", "/c\r", "/d"}) {
		t.Errorf("%q", got)
	}
}
