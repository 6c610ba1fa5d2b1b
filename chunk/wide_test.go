package chunk

import (
	"reflect"
	"testing"
)

// splitParts is SplitWide with parts of any size.
func splitParts(s *Splitter, parts int, buf []byte, last bool) []Cut {
	var m Marks
	m.scan(s, buf, parts)
	return s.split(&m, nil, buf, last)
}

// wideInputs are contents of some hundred KiB.
func wideInputs() map[string][]byte {
	mixed := append(randomBytes(3, 100_000), make([]byte, 300_000)...)
	mixed = append(append(mixed, sqlText(100_000)...), 1, 2, 3)
	return map[string][]byte{"random": randomBytes(2, 600_000), "text": sqlText(600_000), "sparse": sparse(600_000), "mixed": mixed}
}

// TestSplitWide wants the cuts of Split, whatever the number of goroutines, with
// marks that have been used before, also in the middle of a stream.
func TestSplitWide(t *testing.T) {
	for _, name := range []string{"rabin:13", "gear:13", "rollsum:13", "rabin:10", "gear:16", "rollsum:16"} {
		s := mustParse(t, name)
		var m Marks
		for what, data := range wideInputs() {
			for _, last := range []bool{true, false} {
				want := s.Split(nil, data, last)
				for _, goroutines := range []int{0, 1, 2, 3, 8} {
					if got := s.SplitWide(goroutines, &m, nil, data, last); !reflect.DeepEqual(got, want) {
						t.Errorf("%s, %s, %d goroutines:\n got %s\nwant %s", name, what, goroutines, list(got), list(want))
					}
				}
			}
		}
	}
}

// TestSplitPartsOfAllSizes covers the ends of blocks and of buffers.
func TestSplitPartsOfAllSizes(t *testing.T) {
	data := sqlText(3*blockSize + 300)
	for _, name := range []string{"rabin:10", "gear:10", "rollsum:13"} {
		s := mustParse(t, name)
		for n := range len(data) {
			want := s.Split(nil, data[:n], true)
			if got := splitParts(s, 1+n%4, data[:n], true); !reflect.DeepEqual(got, want) {
				t.Fatalf("%s, %d bytes: got %s, want %s", name, n, list(got), list(want))
			}
		}
	}
}

// BenchmarkSplitWide splits the buffer of a batch on all processors.
func BenchmarkSplitWide(b *testing.B) {
	for _, name := range []string{"rabin:13", "gear:13", "rollsum:13"} {
		for _, c := range []struct {
			name       string
			goroutines int
		}{{"one", 1}, {"two", 2}, {"four", 4}} {
			b.Run(name+"/"+c.name, func(b *testing.B) {
				s := mustParse(b, name)
				data := randomBytes(1, 256<<10)
				var m Marks
				cuts := s.SplitWide(c.goroutines, &m, nil, data, true)
				b.SetBytes(int64(len(data)))
				for b.Loop() {
					cuts = s.SplitWide(c.goroutines, &m, cuts[:0], data, true)
				}
			})
		}
	}
}
