package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/adler32"
	"io"

	"github.com/klauspost/compress/flate"
)

// errShort says that a zlib stream goes on where its bytes end. A reader that
// has more of the file tries again with more.
var errShort = errors.New("zlib stream is cut short")

// inflater unpacks zlib streams from slice to slice.
type inflater struct {
	src bytes.Reader
	z   io.ReadCloser
}

// prefix fills dst with the first bytes of the stream at the front of src and
// returns how many there were, and how many bytes of src it took. It does not
// look at what follows.
func (z *inflater) prefix(dst, src []byte) (nd, ns int, err error) {
	if len(src) < 2 {
		return 0, 0, errShort
	}
	switch {
	case binary.BigEndian.Uint16(src)%31 != 0:
		return 0, 0, corrupt(0, "bad zlib header checksum")
	case src[0]&0x0f != 8 || src[0]>>4 > 7:
		return 0, 0, corrupt(0, "unknown zlib method or window")
	case src[1]&0x20 != 0:
		return 0, 0, corrupt(1, "zlib stream wants a dictionary")
	}
	z.src.Reset(src[2:])
	if z.z == nil {
		z.z = flate.NewReader(&z.src)
	} else if err := z.z.(flate.Resetter).Reset(&z.src, nil); err != nil {
		return 0, 0, err
	}
	nd, err = io.ReadFull(z.z, dst)
	ns = len(src) - z.src.Len()
	return nd, ns, z.reason(ns, err)
}

// run unpacks the stream at the front of src, which must hold exactly len(dst)
// bytes and carry their checksum. It returns how many bytes of src it took.
func (z *inflater) run(dst, src []byte) (ns int, err error) {
	nd, ns, err := z.prefix(dst, src)
	if err == io.EOF || err == nil && nd < len(dst) {
		return ns, corrupt(ns, "zlib stream holds less than its declared size")
	}
	if err != nil {
		return ns, err
	}
	var more [1]byte
	n, err := z.z.Read(more[:])
	for n == 0 && err == nil {
		n, err = z.z.Read(more[:])
	}
	ns = len(src) - z.src.Len()
	switch {
	case n > 0:
		return ns, corrupt(ns, "zlib stream holds more than its declared size")
	case err != io.EOF:
		return ns, z.reason(ns, err)
	case len(src) < ns+4:
		return ns, errShort
	case binary.BigEndian.Uint32(src[ns:]) != adler32.Checksum(dst):
		return ns, corrupt(ns, "zlib checksum mismatch")
	}
	return ns + 4, nil
}

// reason turns an error of the library into one of ours.
func (z *inflater) reason(ns int, err error) error {
	switch {
	case err == nil:
		return nil
	case err == io.ErrUnexpectedEOF && z.src.Len() == 0:
		// ReadFull uses the same error for a stream that ended too early and
		// for one whose input ended: only the second has nothing left to read.
		return errShort
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return io.EOF
	}
	return corrupt(ns, "damaged deflate stream")
}
