package chunk

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

func mustParse(t testing.TB, name string) *Splitter {
	t.Helper()
	s, err := Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// list writes cuts as the package's documentation does.
func list(cuts []Cut) string {
	var b strings.Builder
	start := 0
	for _, c := range cuts {
		if start > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprint(&b, c.End-start)
		if c.Level > 0 {
			fmt.Fprintf(&b, "*%d", c.Level)
		}
		if c.Zero {
			b.WriteByte('z')
		}
		start = c.End
	}
	return b.String()
}

// input makes the bytes that a vector names.
func input(t *testing.T, spec string) []byte {
	var data []byte
	for _, part := range strings.Split(spec, "+") {
		what, size, _ := strings.Cut(part, ":")
		n, err := strconv.Atoi(size)
		if err != nil {
			t.Fatalf("vector input %q: %v", spec, err)
		}
		if what == "S" {
			data = append(data, streamS(n)...)
			continue
		}
		v, err := hex.DecodeString(what)
		if err != nil || len(v) != 1 {
			t.Fatalf("vector input %q: no byte value", spec)
		}
		data = append(data, bytes.Repeat(v, n)...)
	}
	return data
}

// TestDocumentedVectors holds the code, and the references of the tests, to the
// vectors in the package's documentation, which is the only copy of them.
func TestDocumentedVectors(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	vectors := regexp.MustCompile(`(?m)^//\t([a-z]+:\d+) (\S+) = (.*)$`).FindAllStringSubmatch(string(doc), -1)
	if len(vectors) != 19 {
		t.Fatalf("%d vectors found in doc.go", len(vectors))
	}
	for _, v := range vectors {
		name, spec, want := v[1], v[2], v[3]
		data := input(t, spec)
		for who, cuts := range map[string][]Cut{
			"Split":     mustParse(t, name).Split(nil, data, true),
			"reference": reference(t, name, data),
		} {
			got := list(cuts)
			if strings.HasPrefix(want, "count") {
				got = fmt.Sprintf("count %d %x", len(cuts), sha1.Sum([]byte(got)))
			}
			if got != want {
				t.Errorf("%s of %s by %s:\n got %s\nwant %s", name, spec, who, got, want)
			}
		}
	}
}

// TestDocumentedHashes does the same for tables and hashes.
func TestDocumentedHashes(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var low, high [window]byte
	for i := range window {
		low[i], high[i] = byte(i), byte(256-window+i)
	}
	r, g := newRabin(13), newGear(13)
	for _, line := range []string{
		fmt.Sprintf("rabin digest %x     %x", r.digest(&low)>>rabinShift, r.digest(&high)>>rabinShift),
		fmt.Sprintf("gear hash    %016x  %016x", g.hash(&low), g.hash(&high)),
		fmt.Sprintf("G[0x01] = %016x ", g.table[1]),
		fmt.Sprintf("G[0x02] = %016x\n", g.table[2]),
		fmt.Sprintf("G[0xff] = %016x\n", g.table[255]),
	} {
		if !bytes.Contains(doc, []byte("//\t"+line)) {
			t.Errorf("not in doc.go: %q", line)
		}
	}
	if g.table[0] != 0 {
		t.Errorf("G[0] = %x", g.table[0])
	}
}

// The vectors that follow were printed by bup 0.33.7 and, where the two differ
// or only the newer one knows the parameter, by a build of its development
// branch: they are facts about other programs.

func TestRollsumVectorA(t *testing.T) {
	const want = "5649 24823 5080 409 1617 8233 359 609 32768 3085 1958 499 8229 5087 " +
		"4414 1697 8351*1 550 1555 2974*1 2168 4709 2790 4455 3956 23193 4787 13737 2299 3304 1723 6877 15180 4234 16261 16937 " +
		"5555 15008 13063 164 6767 3294 2385*1 9208"
	if got := list(mustParse(t, "rollsum:13").Split(nil, streamS(300000), true)); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestRollsumVectorB(t *testing.T) {
	cuts := mustParse(t, "rollsum:13").Split(nil, streamS(1000000), true)
	if len(cuts) != 131 {
		t.Errorf("%d chunks", len(cuts))
	}
	levels := map[int]uint8{16: 1, 19: 1, 42: 1, 52: 1, 74: 1, 79: 1, 89: 1, 104: 1, 125: 1, 127: 1}
	if got := higher(cuts, 1); !reflect.DeepEqual(got, levels) {
		t.Errorf("levels by number of chunk: %v", got)
	}
}

// higher returns the levels of the chunks, by number, that are at least lo.
func higher(cuts []Cut, lo uint8) map[int]uint8 {
	m := map[int]uint8{}
	for i, c := range cuts {
		if c.Level >= lo {
			m[i] = c.Level
		}
	}
	return m
}

func TestRollsumVectorC(t *testing.T) {
	data := streamS(20000000)
	cuts := mustParse(t, "rollsum:13").Split(nil, data, true)
	var levels [5]int
	for _, c := range cuts {
		levels[c.Level]++
	}
	if want := [5]int{2306, 160, 6, 1, 0}; levels != want {
		t.Errorf("chunks by level: %v", levels)
	}
	want := map[int]uint8{279: 2, 281: 2, 763: 3, 775: 2, 1287: 2, 1759: 2, 1760: 2}
	if got := higher(cuts, 2); !reflect.DeepEqual(got, want) {
		t.Errorf("levels by number of chunk: %v", got)
	}
	for bits, want := range map[int]int{14: 1242, 16: 355, 17: 169, 19: 44, 20: 20, 21: 9} {
		cuts := mustParse(t, fmt.Sprintf("rollsum:%d", bits)).Split(nil, data, true)
		if len(cuts) != want {
			t.Errorf("rollsum:%d: %d chunks, want %d", bits, len(cuts), want)
		}
		const of21 = "2123796 21624 3806711*1 2656232 1654660 48211 798779 4637236 4252751"
		if got := list(cuts); bits == 21 && got != of21 {
			t.Errorf("rollsum:21: got %s\nwant %s", got, of21)
		}
	}
}

func TestRollsumVectorD(t *testing.T) {
	s := mustParse(t, "rollsum:13")
	for _, v := range []struct {
		data []byte
		want string
	}{
		{make([]byte, 100000), "32768z 32768z 32768z 1696z"},
		{bytes.Repeat([]byte{1}, 100000), "32768 32768 32768 1696"},
		{streamS(5650), "5649 1"},
		{[]byte("hello\n"), "6"},
	} {
		if got := list(s.Split(nil, v.data, true)); got != v.want {
			t.Errorf("got %s\nwant %s", got, v.want)
		}
	}
	if n := len(s.Split(nil, streamS(30472), true)); n != 2 {
		t.Errorf("30472 bytes of S: %d chunks", n)
	}
	if n := len(s.Split(nil, make([]byte, 600*32768+5), true)); n != 601 {
		t.Errorf("zeros: %d chunks", n)
	}
	cuts := s.Split(nil, streamS(112867), true)
	if c := cuts[len(cuts)-1]; c.Level != 1 {
		t.Errorf("last chunk of 112867 bytes of S: %+v", c)
	}
}

// vectorE has a hit that only the window which begins anew after a cut by size
// makes. bup 0.33 misses it, its successor does not.
func vectorE(t *testing.T) []byte {
	middle, err := hex.DecodeString("887a8724a67d708652431decb6427f9b15d9e4fc1b58c1ffa09d8e51b7bc2fdb7cba30b47c21bb9f16b506c53101015bec376ebf2246cd5ee030" +
		"8bf55dbf4d3d4427ca525d729336196f036e06e262c0984cadbec13763ad04d8e462540b86ef772a216e477f7ab80965e6103259d241f8757a1c" +
		"be5653dc7d89b167977934")
	if err != nil || len(middle) != 127 {
		t.Fatal(len(middle), err)
	}
	data := append(make([]byte, 32704), middle...)
	return append(data, make([]byte, 98304)...)
}

func TestRollsumVectorE(t *testing.T) {
	const want = "32768 27 32768 32768z 32768z 36z"
	if got := list(mustParse(t, "rollsum:13").Split(nil, vectorE(t), true)); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// TestAgainstBup compares with the program itself, where it is installed.
func TestAgainstBup(t *testing.T) {
	if _, err := exec.LookPath("bup"); err != nil {
		t.Skip("no bup here")
	}
	env := append(os.Environ(), "BUP_DIR="+t.TempDir())
	run := func(in []byte, args ...string) string {
		c := exec.Command("bup", args...)
		c.Env, c.Stdin = env, bytes.NewReader(in)
		out, err := c.Output()
		if err != nil {
			t.Fatalf("bup %s: %v", strings.Join(args, " "), err)
		}
		return string(out)
	}
	run(nil, "init")
	for what, data := range map[string][]byte{"text": sqlText(3 << 20), "random": randomBytes(9, 3<<20)} {
		var ids strings.Builder
		start := 0
		for _, c := range mustParse(t, "rollsum:13").Split(nil, data, true) {
			blob := fmt.Appendf(nil, "blob %d\x00%s", c.End-start, data[start:c.End])
			fmt.Fprintf(&ids, "%x\n", sha1.Sum(blob))
			start = c.End
		}
		if run(data, "split", "--noop", "-b") != ids.String() {
			t.Errorf("%s: bup has other blobs", what)
		}
	}
}
