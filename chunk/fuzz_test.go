package chunk

import (
	"math/rand/v2"
	"reflect"
	"testing"
)

// fuzzed are the splitters of FuzzSplit: small ones, whose cuts are many.
var fuzzed = []string{
	"rabin:10", "rabin:11", "rabin:12", "rabin:13",
	"gear:10", "gear:11", "gear:12", "gear:13",
	"rollsum:13", "rollsum:14", "rollsum:17",
}

// expand turns a short program into an input long enough to have cuts: three
// bytes are an operation, a size and a value.
func expand(program []byte) []byte {
	const limit = 256 << 10
	var out []byte
	for ; len(program) >= 3 && len(out) < limit; program = program[3:] {
		n, v := int(program[1]), program[2]
		switch program[0] % 8 {
		case 0: // incompressible
			out = append(out, randomBytes(uint64(v), n*64)...)
		case 1: // zeros, up to 64 KiB
			out = append(out, make([]byte, n*n)...)
		case 2: // few zeros, to the byte
			out = append(out, make([]byte, n)...)
		case 3: // one value
			for range n * 32 {
				out = append(out, v)
			}
		case 4: // low entropy
			for i := range n * 16 {
				out = append(out, byte(i)&v)
			}
		case 5: // what was there before, once more
			if from := len(out) * int(v) / 256; from < len(out) {
				out = append(out, out[from:min(from+n*64, len(out))]...)
			}
		case 6: // zeros up to a multiple of 256, which min sizes are
			out = append(out, make([]byte, 255-(len(out)+255)%256)...)
		case 7:
			out = append(out, program[1], v)
		}
	}
	return out[:min(len(out), limit)]
}

// FuzzSplit compares Split with the references, at once, in slices, and with
// candidates found in parts.
func FuzzSplit(f *testing.F) {
	for i := range fuzzed {
		f.Add(uint8(i), uint64(i), []byte("\x00\xff\x01\x01\xff\x00\x00\x80\x02\x06\x00\x00\x02\x40\x00\x07\x01\x01\x01\x20\x00"))
		f.Add(uint8(i), uint64(i), []byte("\x03\xff\x01\x05\xff\x10\x04\xff\x03\x04\xff\x00\x00\x07\x02\x02\x3f\x00\x07\x01\x00\x05\xff\x00"))
		f.Add(uint8(i), uint64(i), []byte("\x01\x10\x00\x07\x00\x01\x01\x1b\x00\x07\x00\x01\x01\xb5\x00\x06\x00\x00\x01\x5b\x00"))
	}
	f.Fuzz(func(t *testing.T, which uint8, seed uint64, program []byte) {
		name := fuzzed[int(which)%len(fuzzed)]
		s := mustParse(t, name)
		data := expand(program)
		want := reference(t, name, data)
		if got := s.Split(nil, data, true); !reflect.DeepEqual(got, want) {
			t.Errorf("%s, %d bytes:\n got %s\nwant %s", name, len(data), list(got), list(want))
		}
		if got := splitParts(s, 1+int(seed%7), data, true); !reflect.DeepEqual(got, want) {
			t.Errorf("%s, %d bytes, in %d parts:\n got %s\nwant %s", name, len(data), 1+seed%7, list(got), list(want))
		}
		r := rand.New(rand.NewPCG(seed, 0))
		next := func() int { return r.IntN(2 << (8 + r.IntN(10))) }
		if got := cutInSlices(t, s, data, next); !reflect.DeepEqual(got, want) {
			t.Errorf("%s, %d bytes, in slices:\n got %s\nwant %s", name, len(data), list(got), list(want))
		}
	})
}
