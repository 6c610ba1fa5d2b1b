package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/kedgebackup/kedge/pack"
)

// Reading and writing the values of bup's protocol.

func (s *session) putUint32(n uint32) {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	s.out.Write(b[:])
}

// readLines reads lines up to an empty one and returns them without it.
func (s *session) readLines() (lines []string, err error) {
	for size := 0; ; {
		line, err := s.line()
		if err != nil {
			return nil, midway(err)
		}
		if line == "" {
			return lines, nil
		}
		if size += len(line) + 1; size > maxText {
			return nil, fmt.Errorf("a request of more than %d bytes", maxText)
		}
		lines = append(lines, line)
	}
}

// midway makes an end of the stream within a request what it is.
func midway(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readUint reads a number of seven-bit groups.
func (s *session) readUint() (v uint64, err error) {
	for i := 0; ; i++ {
		c, err := s.in.ReadByte()
		if err != nil {
			return 0, midway(err)
		}
		if i == 9 && c > 1 {
			return 0, errors.New("a number that is too large")
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			return v, nil
		}
	}
}

// readBvec reads a length and so many bytes, at most maxField.
func (s *session) readBvec() ([]byte, error) {
	n, err := s.readUint()
	if err != nil {
		return nil, err
	}
	if n > maxField {
		return nil, fmt.Errorf("a field of %d bytes, the limit is %d", n, maxField)
	}
	b := make([]byte, n)
	_, err = io.ReadFull(s.in, b)
	return b, midway(err)
}

// skip passes over n bytes of the request.
func (s *session) skip(n uint64, limit uint64) error {
	if n > limit {
		return fmt.Errorf("a field of %d bytes, the limit is %d", n, limit)
	}
	_, err := s.in.Discard(int(n))
	return midway(err)
}

func appendUint(dst []byte, v uint64) []byte {
	for v >= 0x80 {
		dst = append(dst, byte(v)|0x80)
		v >>= 7
	}
	return append(dst, byte(v))
}

// appendVint appends a number with a sign: bit 6 of the first byte says that it is
// negative, six bits are in that byte.
func appendVint(dst []byte, v int64) []byte {
	n, sign := uint64(v), byte(0)
	if v < 0 {
		n, sign = -n, 0x40
	}
	first := byte(n&0x3f) | sign
	if n >>= 6; n == 0 {
		return append(dst, first)
	}
	return appendUint(append(dst, first|0x80), n)
}

func appendBvec[T ~string | ~[]byte](dst []byte, b T) []byte {
	return append(appendUint(dst, uint64(len(b))), b...)
}

func appendID(dst []byte, id pack.ID) []byte {
	b := id.AppendBytes(nil)
	return appendBvec(dst, b)
}
