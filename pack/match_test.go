package pack

import (
	"bytes"
	"fmt"
	"testing"
)

// written puts together what a matcher took apart.
func written(m *matcher) (out []byte, err error) {
	for i, s := range m.steps[:m.n] {
		n := int(s.literals())
		if s&stepMatch == 0 {
			n = 4
		}
		at := s.place()
		if at != uint(len(out))+origin {
			return nil, fmt.Errorf("step %d is at %d, not at %d", i, len(out), at-origin)
		}
		out = append(out, m.win[at:][:n]...)
		if s&stepMatch != 0 {
			d := int(s.distance()) + 1
			if d > len(out) || d > distMost {
				return nil, fmt.Errorf("step %d goes back %d from %d", i, d, len(out))
			}
			for range int(s.length()) + matchLeast {
				out = append(out, out[len(out)-d])
			}
		}
	}
	return append(out, m.rest()...), nil
}

func TestFind(t *testing.T) {
	m := new(matcher)
	bodies := shapes()
	for _, n := range []int{segmentMax - 1, segmentMax, segmentMax + 1, 2*segmentMax + 3} {
		bodies[fmt.Sprint("zeros ", n)] = make([]byte, n)
		bodies[fmt.Sprint("text ", n)] = sqlText(n)
		bodies[fmt.Sprint("noise ", n)] = noise(n)
	}
	for name, body := range bodies {
		for segment := 0; ; segment++ {
			rest := m.find(body)
			out, err := written(m)
			if err != nil || !bytes.Equal(out, body[:len(body)-len(rest)]) {
				t.Fatalf("%s, segment %d: %d bytes of %d, %v", name, segment, len(out), len(body)-len(rest), err)
			}
			if body = rest; len(rest) == 0 {
				break
			}
		}
	}
}

// TestFindEdges looks for matches of all lengths, the last of which ends the
// body, and of distances around the longest there is.
func TestFindEdges(t *testing.T) {
	m := new(matcher)
	for _, dist := range []int{1000, distMost - 1, distMost, distMost + 1, 40000} {
		for n := 5; n < 700; n++ {
			if dist != 1000 && n%31 != 0 && n > 12 {
				continue
			}
			block := noise(n)
			for tail := range 2 {
				body := append(bytes.Clone(block), make([]byte, dist-n)...)
				body = append(append(body, block...), make([]byte, tail*20)...)
				m.find(body)
				out, err := written(m)
				if err != nil || !bytes.Equal(out, body) {
					t.Fatalf("distance %d, length %d, tail %d: %v", dist, n, tail, err)
				}
				longest := 0
				for _, s := range m.steps[:m.n] {
					if s&stepMatch != 0 && int(s.distance())+1 == dist {
						longest = max(longest, int(s.length())+matchLeast)
					}
				}
				// Eight bytes before the end none is looked for.
				want := min(n, matchMost)
				if dist > distMost || tail == 0 && n <= 12 {
					want = 0
				}
				if longest < want-4 {
					t.Errorf("distance %d, length %d, tail %d: found %d", dist, n, tail, longest)
				}
			}
		}
	}
}
