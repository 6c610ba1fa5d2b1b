package index

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// compareSlow is the order as the package doc tells it: component by component,
// and a directory after what is below it.
func compareSlow(a, b string) int {
	split := func(p string) []string {
		if p == "/" {
			return nil
		}
		return strings.Split(p[1:], "/")
	}
	x, y := split(a), split(b)
	for i := range min(len(x), len(y)) {
		if c := strings.Compare(x[i], y[i]); c != 0 {
			return c
		}
	}
	return len(y) - len(x)
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

func randomPath(r *rand.Rand) string {
	names := []string{"a", "b", "ab", "a-", "a-c", "a!", "a0", "\x01", "\xff", "a\n", "0", "longer than a word"}
	p := ""
	for range r.IntN(5) {
		p += "/" + names[r.IntN(len(names))]
	}
	if p == "" {
		return "/"
	}
	return p
}

func TestCompare(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		a, b := randomPath(r), randomPath(r)
		if got, want := sign(Compare(a, b)), sign(compareSlow(a, b)); got != want {
			t.Fatalf("Compare(%q, %q) = %d, want %d", a, b, got, want)
		}
		want := b == "/" || a == b || strings.HasPrefix(a, b+"/")
		if got := Within(a, b); got != want {
			t.Fatalf("Within(%q, %q) = %v", a, b, got)
		}
	}
}

func TestOrderOfPaths(t *testing.T) {
	want := []string{"/a/b/c", "/a/b", "/a/b-", "/a", "/a\x01", "/a!/x", "/a!", "/a-c", "/a0", "/b/a", "/b", "/\xff", "/"}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, Compare)
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	// What checkOrder says of neighbours is what Compare says.
	for _, a := range want {
		for _, b := range want {
			a, b := keyOf(a), keyOf(b)
			n := commonPrefix(a, b)
			if ok := checkOrder(a, n, b[n:]) == ""; ok != (compareKeys(a, b) < 0) {
				t.Errorf("checkOrder(%q, %q) is wrong", a, b)
			}
		}
	}
}

func TestCheckClean(t *testing.T) {
	for key, clean := range map[string]bool{
		"": true, "/a": true, "/a/b": true, "/...": true, "/.a/..b": true, "/a./b..": true,
		"a": false, "/": false, "/a/": false, "//a": false, "/a//b": false, "/.": false, "/..": false,
		"/a/.": false, "/a/..": false, "/./a": false, "/../a": false, "/a/../b": false, "/a\x00": false,
	} {
		for from := 0; from <= len(key); from++ {
			// What stands before from counts as checked, so only whole keys are sure.
			if got := checkClean(key, from) == ""; from == 0 && got != clean || clean && !got {
				t.Errorf("checkClean(%q, %d): %v", key, from, got)
			}
		}
	}
}

func TestGuard(t *testing.T) {
	blocks := []block{{last: "/a/b/c"}, {last: "/a/c/z"}, {last: "/a"}, {last: "/q/r"}, {last: "/z"}}
	var g guard
	if g.mayBeIn(blocks, 0) {
		t.Error("an idle guard stops")
	}
	g.watch("/a/b/b") // /a/b and / are above it, and /a
	for i, want := range []bool{false, true, true, false, false} {
		if got := g.mayBeIn(blocks, i); got != want {
			t.Errorf("block %d: %v", i, got)
		}
	}
	g.watch("/q/r/s") // /q/r is in block 3, /q in block 4
	if !g.mayBeIn(blocks, 3) || !g.mayBeIn(blocks, 4) {
		t.Error("a directory is missed")
	}
}
