package pack

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"strings"
	"testing"
	"time"
)

// With -inflations=N as many streams are given to both inflaters by TestInflateSweep.
var inflationsFlag = flag.Int("inflations", 30_000, "streams that the sweep of the inflater compares")

// standard is the standard library's inflater, kept.
type standard struct {
	in  bytes.Reader
	z   io.ReadCloser
	buf []byte
}

// run inflates src up to the size of the buffer. errFull: there may be more.
func (s *standard) run(src []byte) (out []byte, n int, err error) {
	s.in.Reset(src)
	if s.z == nil {
		s.z, err = zlib.NewReader(&s.in)
	} else {
		err = s.z.(zlib.Resetter).Reset(&s.in, nil)
	}
	if err != nil {
		return nil, 0, err
	}
	k := 0
	for err == nil && k < len(s.buf) {
		n, err = s.z.Read(s.buf[k:])
		k += n
	}
	switch err {
	case nil:
		err = errFull
	case io.EOF:
		err = nil
	}
	return s.buf[:k], len(src) - s.in.Len(), err
}

// TestInflateSweep gives streams, most of them wrong, to our inflater and to the
// standard library's. They must agree on which are right, what these hold, and
// where they end. (The library accepts more codes than zlib and we do, but
// nothing that could come to an end with one of them.)
//
// One inflater sees all streams, so that the tables it keeps are those of headers
// that came before, whole or broken off; and now and then a new one takes over.
func TestInflateSweep(t *testing.T) {
	m := newStreamMaker(t, uint64(*inflationsFlag))
	s := sweep{t: t, std: standard{buf: make([]byte, 8<<10)}, own: new(inflater), m: m}
	start, told := time.Now(), time.Now()
	for i := range *inflationsFlag {
		if i%(1<<14) == 1<<14-1 {
			s.own = new(inflater)
		}
		s.one(m.next())
		if i%4096 == 0 && time.Since(told) > time.Minute {
			told = time.Now()
			t.Logf("%d streams in %v: %d right, %d made right, %d wrong, %d long",
				i, told.Sub(start).Round(time.Second), s.right, s.mended, s.wrong, s.long)
		}
	}
	t.Logf("%d streams in %v: %d right, %d made right, %d wrong, %d long; %d headers were known",
		*inflationsFlag, time.Since(start).Round(time.Second), s.right, s.mended, s.wrong, s.long, s.known)
	if s.right == 0 || s.mended == 0 || s.wrong == 0 || s.long == 0 || s.known == 0 {
		t.Error("one outcome never came")
	}
}

// sweep is the state of TestInflateSweep.
type sweep struct {
	t   *testing.T
	m   *streamMaker
	std standard
	own *inflater
	dst [1<<16 + 1]byte

	right, mended, wrong, long, known int
}

func (s *sweep) fail(src []byte, format string, a ...any) {
	s.t.Helper()
	s.t.Errorf("stream %x:", src)
	s.t.Fatalf(format, a...)
}

// one compares what the two make of src.
func (s *sweep) one(src []byte) {
	want, n, err := s.std.run(src)
	switch {
	case err == errFull: // and perhaps never comes to an end
		s.long++
		got, err := s.own.prefix(s.dst[:len(want)], src)
		if err == nil && !bytes.Equal(s.dst[:got], want) || err != nil && !strings.Contains(err.Error(), "without an end") {
			s.fail(src, "first %d of %d bytes: %v", got, len(want), err)
		}
	case err == nil:
		s.right++
		s.accept(src, want, n)
	case errors.Is(err, zlib.ErrChecksum):
		s.refuse(src, len(want))
		s.mended++
		binary.BigEndian.PutUint32(src[n-4:], adler32(want))
		s.accept(src, want, n)
	default:
		s.wrong++
		s.refuse(src, len(want))
		s.refuse(src, s.m.rnd.IntN(len(want)+300))
	}
}

// run is what our inflater makes of src. It notes whether it knew the codes of
// the last block.
func (s *sweep) run(dst, src []byte) (int, error) {
	clock, marks := s.own.recent.clock, s.own.recent.marks
	n, err := s.own.run(dst, src)
	if s.own.recent.clock > clock && s.own.recent.marks == marks {
		s.known++
	}
	return n, err
}

// accept wants the bytes that the other inflater made, and no other number of them.
func (s *sweep) accept(src, want []byte, n int) {
	dst := s.dst[:len(want):len(want)]
	got, err := s.run(dst, src)
	switch {
	case err != nil:
		s.fail(src, "%v, but the standard library accepts it", err)
	case got != n || !bytes.Equal(dst, want):
		s.fail(src, "took %d bytes, not %d, or made others", got, n)
	}
	switch s.m.rnd.IntN(16) {
	case 0:
		s.refuse(src, len(want)+1)
	case 1:
		if len(want) > 0 {
			s.refuse(src, len(want)-1)
		}
	case 2:
		half := s.dst[: len(want)/2 : len(want)/2]
		if got, err := s.own.prefix(half, src); err != nil || !bytes.Equal(half[:got], want[:len(half)]) {
			s.fail(src, "prefix of %d: %d, %v", len(half), got, err)
		}
	}
}

// refuse wants an error of the right kind.
func (s *sweep) refuse(src []byte, size int) {
	size = min(size, len(s.dst))
	_, err := s.run(s.dst[:size:size], src)
	if _, ok := err.(*CorruptError); !ok && err != errShort {
		s.fail(src, "accepted as %d bytes, or with an error of no kind: %v", size, err)
	}
}
