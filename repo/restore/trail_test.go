package restore

import (
	"path/filepath"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// target makes a file of size bytes to be written.
func trailTarget(t *testing.T, size int64) *fsx.Target {
	t.Helper()
	d, err := fsx.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f, err := d.CreateTemp()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close(); d.Close() })
	return f
}

// sent returns what stands in the trail: where the parts begin and end.
func (l *trail) sent() (list [][2]int64) {
	for _, p := range l.parts {
		list = append(list, [2]int64{p.off, p.off + p.n})
	}
	return list
}

// Every step of a file is sent once, when its end is written, and its rest at the end.
func TestTrail(t *testing.T) {
	const m = 1 << 20
	f := trailTarget(t, 30*m)
	for _, c := range []struct {
		name   string
		writes [][2]int64 // offset and length
		size   int64
		want   [][2]int64
	}{
		{"a file below the least", [][2]int64{{0, m - 1}}, m - 1, nil},
		{"a small file", [][2]int64{{0, m}}, m, [][2]int64{{0, m}}},
		{"one step", [][2]int64{{0, 4 * m}, {4 * m, 4 * m}}, 8 * m, [][2]int64{{0, 8 * m}}},
		{"over the end of a step", [][2]int64{{0, 7 * m}, {7 * m, 3 * m}}, 10 * m, [][2]int64{{0, 8 * m}, {8 * m, 10 * m}}},
		{"several steps at once", [][2]int64{{0, 25 * m}}, 25 * m, [][2]int64{{0, 24 * m}, {24 * m, 25 * m}}},
		{"the end of a step first", [][2]int64{{7 * m, m}, {0, 7 * m}}, 8 * m, [][2]int64{{0, 8 * m}}},
		{"a hole at the end", [][2]int64{{0, 2 * m}}, 2 * m, [][2]int64{{0, 2 * m}}},
	} {
		var l trail
		for _, w := range c.writes {
			if err := l.wrote(f, w[0], w[1]); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.complete(f, c.size); err != nil {
			t.Fatal(err)
		}
		got := l.sent()
		if len(got) != len(c.want) {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s: %d, want %d", c.name, got, c.want)
			}
		}
		l.close()
	}
}

// The trail is bounded in bytes and in files that it holds open, and close lets go of all.
func TestTrailIsBounded(t *testing.T) {
	open := func() int {
		list, err := filepath.Glob("/proc/self/fd/*")
		if err != nil || len(list) == 0 {
			t.Skip("there is no /proc")
		}
		return len(list)
	}
	f := trailTarget(t, 0)
	before := open()
	for _, c := range []struct {
		size           int64
		parts, dropped int
	}{
		{trailStep, trailFar / trailStep, (trailFar - trailNear) / trailStep},
		{trailMin, trailParts, trailParts - trailNear/trailMin},
		{trailFar + 1, 0, 0},
	} {
		var l trail
		for i := range int64(2 * trailFar / trailMin) {
			if err := l.send(f, i*c.size, c.size); err != nil {
				t.Fatal(err)
			}
			if l.near > trailNear || l.far > trailFar || len(l.parts) > trailParts {
				t.Fatalf("%d bytes are near, %d far, of %d parts", l.near, l.far, len(l.parts))
			}
			l.skip, l.pause = 0, 0 // a disk that was slow for a moment does not matter here
		}
		if len(l.parts) != c.parts || l.dropped != c.dropped || open()-before != c.parts {
			t.Errorf("parts of %d: %d, of which %d were dropped, %d files; want %d and %d", c.size, len(l.parts), l.dropped, open()-before, c.parts, c.dropped)
		}
		l.close()
		if open() != before {
			t.Errorf("%d files are open after close, %d before", open(), before)
		}
	}
}

// A slow disk is left alone for longer and longer, until it is slow no more.
func TestTrailPauses(t *testing.T) {
	var l trail
	for _, c := range []struct {
		slow  bool
		pause int64
	}{{false, 0}, {true, trailNear}, {true, 2 * trailNear}, {true, 4 * trailNear}, {false, 0}, {true, trailNear}} {
		l.took(c.slow)
		skipped := int64(0)
		for l.skips(trailStep) {
			skipped += trailStep
		}
		if skipped != c.pause {
			t.Errorf("%d bytes are skipped, want %d", skipped, c.pause)
		}
	}
}
