package chunk

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"strconv"
	"strings"
	"testing"

	"github.com/restic/chunker"
)

// The splitters as their definitions read, one byte after the other. For rabin
// the reference is the library that defines it.

// streamS returns the first n bytes of the stream S: the raw SHA-1 digests of
// the ASCII strings "0", "1", "2" and so on, one after the other.
func streamS(n int) []byte {
	b := make([]byte, 0, n+sha1.Size)
	for i := 0; len(b) < n; i++ {
		sum := sha1.Sum(strconv.AppendInt(nil, int64(i), 10))
		b = append(b, sum[:]...)
	}
	return b[:n]
}

// reference returns the cuts of a whole input.
func reference(t testing.TB, name string, data []byte) []Cut {
	kind, digits, _ := strings.Cut(name, ":")
	n, err := strconv.Atoi(digits)
	if err != nil {
		t.Fatal(err)
	}
	switch kind {
	case "rabin":
		return mergeZeros(referenceRabin(t, n, data), 8<<n)
	case "gear":
		return mergeZeros(referenceGear(n, data), 8<<n)
	default:
		return referenceRollsum(n, data)
	}
}

// mergeZeros merges, from the left, chunks of zeros that stand side by side.
func mergeZeros(in []Cut, limit int) []Cut {
	var out []Cut
	start, last := 0, 0 // of the chunk looked at, of the last one in out
	for _, c := range in {
		if n := len(out); n > 0 && c.Zero && out[n-1].Zero && c.End-last <= limit {
			out[n-1].End = c.End
		} else {
			out = append(out, c)
			last = start
		}
		start = c.End
	}
	return out
}

func allZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

func referenceRabin(t testing.TB, n int, data []byte) []Cut {
	c := chunker.NewWithBoundaries(bytes.NewReader(data), polynomial, 1<<n/4, 8<<n)
	c.SetAverageBits(n)
	var cuts []Cut
	for {
		ch, err := c.Next(nil)
		if err == io.EOF {
			return cuts
		}
		if err != nil {
			t.Fatal(err)
		}
		cut := Cut{End: int(ch.Start + ch.Length), Zero: allZero(ch.Data)}
		hit := ch.Length >= 1<<n/4 && ch.Cut%(1<<n) == 0
		for v := ch.Cut >> n; hit && !cut.Zero && v != 0 && v%16 == 0 && cut.Level < 4; v /= 16 {
			cut.Level++
		}
		cuts = append(cuts, cut)
	}
}

func referenceGear(n int, data []byte) []Cut {
	var table [256]uint64
	for b := 1; b < 256; b++ {
		sum := sha256.Sum256([]byte(fmt.Sprintf("kedge gear table %02x", b)))
		table[b] = binary.BigEndian.Uint64(sum[:8])
	}
	var cuts []Cut
	start, h := 0, uint64(0)
	for i, b := range data {
		h = h*2 + table[b]
		size, zeros := i+1-start, bits.LeadingZeros64(h)
		hit := size >= 1<<n/4 && zeros >= n+2 || size >= 1<<n && zeros >= n-2
		if !hit && size < 8<<n && i+1 < len(data) {
			continue
		}
		c := Cut{End: i + 1, Zero: allZero(data[start : i+1])}
		for v := h << (n + 2); hit && !c.Zero && h != 0 && v>>60 == 0 && c.Level < 4; v <<= 4 {
			c.Level++
		}
		cuts = append(cuts, c)
		start = i + 1
	}
	return cuts
}

func referenceRollsum(n int, data []byte) []Cut {
	var cuts []Cut
	for start := 0; start < len(data); {
		var win [64]byte
		s1, s2 := uint32(64*31), uint32(64*63*31)
		c := Cut{}
		for i := 0; c.End == 0; i++ {
			in, out := uint32(data[start+i]), uint32(win[i%64])
			win[i%64] = data[start+i]
			s1 += in - out
			s2 += s1 - 64*(out+31)
			digest := s1%65536<<16 | s2%65536
			if digest%(1<<n) == 1<<n-1 {
				c.End = start + i + 1
				ones := 0
				for b := n + 1; b < 32 && digest>>b&1 == 1; b++ {
					ones++
				}
				c.Level = uint8(ones / 4)
			} else if i+1 == 4<<n || start+i+1 == len(data) {
				c.End = start + i + 1
			}
		}
		c.Zero = allZero(data[start:c.End])
		cuts = append(cuts, c)
		start = c.End
	}
	return cuts
}
