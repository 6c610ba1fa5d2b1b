package pack

import (
	"encoding/binary"
	"errors"

	"github.com/klauspost/compress/flate"
)

// A stored deflate block is five bytes (last-block bit and type, length,
// complement of the length) and at most 65535 bytes as they are.
const (
	storedHead = 5
	storedMax  = 65535
)

// storedBlocks returns how many stored blocks hold n bytes: at least one,
// because a deflate stream has a last block.
func storedBlocks(n int) int { return max(1, (n+storedMax-1)/storedMax) }

// deflater makes zlib streams from slice to slice.
type deflater struct {
	level int
	z     *flate.Writer // nil at level 0
	out   *capped
}

func newDeflater(level int) deflater {
	d := deflater{level: level}
	if level > 0 {
		d.out = new(capped)
		z, err := flate.NewWriter(d.out, level)
		if err != nil {
			panic("pack: " + err.Error()) // levels 1 to 9 exist
		}
		d.z = z
	}
	return d
}

// append appends the zlib stream of body to dst, which has room for it stored.
func (d *deflater) append(dst, body []byte) []byte {
	// 0x78: deflate with a window of 32 KiB. The second byte says "fastest"
	// and makes the pair a multiple of 31.
	dst = append(dst, 0x78, 0x01)
	at := len(dst)
	if d.level > 0 && len(body) > 0 && !incompressible(body) {
		// A result that saves less than 1 in 64 is not worth the time that
		// every reader would spend on it, so there is no room for more.
		d.out.b = dst[: at : at+len(body)-len(body)/64]
		d.z.Reset(d.out)
		_, err := d.z.Write(body)
		if err == nil {
			err = d.z.Close()
		}
		if err == nil {
			dst = dst[:len(d.out.b)] // they share their memory
			return binary.BigEndian.AppendUint32(dst, adler32(body))
		}
	}
	dst = appendStored(dst[:at], body)
	return binary.BigEndian.AppendUint32(dst, adler32(body))
}

// appendStored appends body as stored blocks, the last one marked.
func appendStored(dst, body []byte) []byte {
	for {
		n := min(len(body), storedMax)
		last := byte(0)
		if n == len(body) {
			last = 1
		}
		dst = append(dst, last, byte(n), byte(n>>8), ^byte(n), ^byte(n>>8))
		dst = append(dst, body[:n]...)
		if body = body[n:]; len(body) == 0 {
			return dst
		}
	}
}

// errNoGain stops a compressor whose output is no smaller than its input.
var errNoGain = errors.New("deflate output is full")

// capped is a writer into a slice of fixed capacity.
type capped struct{ b []byte }

// Write appends p, if it fits.
func (c *capped) Write(p []byte) (int, error) {
	if len(p) > cap(c.b)-len(c.b) {
		return 0, errNoGain
	}
	c.b = append(c.b, p...)
	return len(p), nil
}
