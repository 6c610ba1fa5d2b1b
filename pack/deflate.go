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
	quick *quick // level 1
	lib   *library
	probe probe
}

func newDeflater(level int) deflater {
	switch level {
	case 0:
		return deflater{}
	case 1:
		return deflater{quick: newQuick()}
	}
	return deflater{lib: newLibrary(level)}
}

// append appends the zlib stream of body to dst, which has room for it stored.
func (d *deflater) append(dst, body []byte) []byte {
	// 0x78: deflate with a window of 32 KiB. The second byte says "fastest"
	// and makes the pair a multiple of 31.
	dst = append(dst, 0x78, 0x01)
	dst = d.deflate(dst, body)
	return binary.BigEndian.AppendUint32(dst, adler32(body))
}

// deflate appends the deflate stream of body, stored if there is no gain.
func (d *deflater) deflate(dst, body []byte) []byte {
	// A result that saves less than 1 in 64 is not worth the time that every
	// reader would spend on it, so there is no room for more.
	room := len(body) - len(body)/64
	ok := false
	switch {
	case len(body) == 0 || d.quick == nil && d.lib == nil || d.probe.incompressible(body):
	case d.quick != nil:
		// Stored, body would take five bytes more than it has, and four follow.
		dst, ok = d.quick.append(dst, body, room+storedHead+4-quickSlack)
	default:
		dst, ok = d.lib.append(dst, body, room)
	}
	if ok {
		return dst
	}
	return appendStored(dst, body)
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

// library makes deflate streams with the library, for levels from 2 on, whose
// work is in searching and not in what surrounds it.
type library struct {
	z   *flate.Writer
	out capped
}

func newLibrary(level int) *library {
	l := new(library)
	z, err := flate.NewWriter(&l.out, level)
	if err != nil {
		panic("pack: " + err.Error()) // levels 1 to 9 exist
	}
	l.z = z
	return l
}

// append appends the deflate stream of body to dst, which has room bytes of
// room, and reports whether they sufficed.
func (l *library) append(dst, body []byte, room int) ([]byte, bool) {
	at := len(dst)
	l.out.b = dst[: at : at+room]
	l.z.Reset(&l.out)
	_, err := l.z.Write(body)
	if err == nil {
		err = l.z.Close()
	}
	if err != nil {
		return dst, false
	}
	return dst[:len(l.out.b)], true // they share their memory
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
