package pack

import (
	"crypto/sha1"
	"encoding/binary"
	"hash"
	"io"
)

// SumWriter writes a file that ends in the checksum of all before it, as idx
// files and multi-pack-indexes do. Errors are kept for Finish.
type SumWriter struct {
	w   io.Writer
	h   hash.Hash
	buf []byte
	n   int64
	err error
}

const sumStep = 64 << 10 // bytes per write

// NewSumWriter returns a writer that begins a file on w.
func NewSumWriter(w io.Writer) *SumWriter {
	return &SumWriter{w: w, h: sha1.New(), buf: make([]byte, 0, sumStep)}
}

// room makes room for n bytes, which are few.
func (s *SumWriter) room(n int) {
	if len(s.buf)+n > cap(s.buf) {
		s.flush()
	}
}

// Uint32 writes v, most significant byte first.
func (s *SumWriter) Uint32(v uint32) {
	s.room(4)
	s.buf = binary.BigEndian.AppendUint32(s.buf, v)
}

// Uint64 writes v, most significant byte first.
func (s *SumWriter) Uint64(v uint64) {
	s.room(8)
	s.buf = binary.BigEndian.AppendUint64(s.buf, v)
}

// ID writes an id in binary form.
func (s *SumWriter) ID(id ID) {
	s.room(idSize)
	s.buf = append(s.buf, id.h[:]...)
}

// Bytes writes b.
func (s *SumWriter) Bytes(b []byte) {
	for len(b) > 0 {
		s.room(1)
		n := copy(s.buf[len(s.buf):cap(s.buf)], b)
		s.buf = s.buf[:len(s.buf)+n]
		b = b[n:]
	}
}

// Finish writes the checksum and returns it, the size of the file, and the
// first error there was.
func (s *SumWriter) Finish() (sum ID, n int64, err error) {
	s.flush()
	s.h.Sum(sum.h[:0])
	s.write(sum.h[:])
	if s.err != nil {
		return ID{}, s.n, s.err
	}
	return sum, s.n, nil
}

func (s *SumWriter) flush() {
	s.h.Write(s.buf)
	s.write(s.buf)
	s.buf = s.buf[:0]
}

func (s *SumWriter) write(b []byte) {
	if s.err != nil || len(b) == 0 {
		return
	}
	n, err := s.w.Write(b)
	s.n += int64(n)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	s.err = err
}
