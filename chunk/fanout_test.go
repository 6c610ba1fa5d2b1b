package chunk

import (
	"slices"
	"testing"
)

// Another fan-out moves no cut, and a level stands for as many bits as it should: a chunk
// of level k with one bit each has level k/b with b bits.
func TestWithFanout(t *testing.T) {
	data := streamS(2 << 20)
	for _, name := range []string{"rollsum:13", "rabin:10", "gear:10"} {
		s, err := Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		usual := s.Split(nil, data, true)
		fine, err := s.WithFanout(2)
		if err != nil {
			t.Fatal(err)
		}
		ones := fine.Split(nil, data, true)
		deepest := slices.MaxFunc(ones, func(a, b Cut) int { return int(a.Level) - int(b.Level) }).Level
		if deepest < 4 {
			t.Errorf("%s: no chunk of a level above %d", name, deepest)
		}
		for n, per := range map[int]int{3: 1, 4: 2, 16: 4, 31: 4, 128: 7, 1 << 20: 20} {
			other, err := s.WithFanout(n)
			if err != nil {
				t.Fatal(err)
			}
			for i, c := range other.Split(nil, data, true) {
				want := int(ones[i].Level) / per
				if c.End != ones[i].End || int(c.Level) != want && (ones[i].Level < 4 || s.rollsum != nil) {
					t.Fatalf("%s, fan-out %d: chunk %d is %+v, with fan-out 2 %+v", name, n, i, c, ones[i])
				}
			}
			if got := other.Split(nil, data, true); per == usualFan && !slices.Equal(got, usual) {
				t.Errorf("%s: fan-out %d is not the usual one", name, n)
			}
		}
	}
	s, _ := Parse("rollsum:13")
	for _, n := range []int{1, 0, -1} {
		if _, err := s.WithFanout(n); err == nil {
			t.Errorf("a fan-out of %d was taken", n)
		}
	}
}
