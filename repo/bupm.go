package repo

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo/meta"
)

// bupm reads the records of a .bupm one after another.
//
// Nothing in a record says whose it is: that is known by counting. Early
// releases of bup left records out, and then everything behind the gap belongs
// to someone else. So the records are counted before the first is believed, which
// means that a large .bupm is read twice; one of up to keepBupm bytes is kept.
type bupm struct {
	ctx   context.Context
	r     Repo
	entry TreeEntry

	walk chunkWalk
	file *File
	in   chunkBatch
	buf  []byte // bytes not yet taken
	all  []byte // the whole, if it was small enough to be kept
	eof  bool
}

// keepBupm is the largest .bupm that is read once: some 40,000 records.
const keepBupm = 4 << 20

// openBupm begins at the first record.
func openBupm(ctx context.Context, r Repo, e TreeEntry) (*bupm, error) {
	if e.Mode != ModeFile && e.Mode != ModeDir {
		return nil, &pack.CorruptError{File: bupmName, Off: -1, Reason: fmt.Sprintf("mode %o", e.Mode)}
	}
	b := &bupm{ctx: ctx, r: r, entry: e}
	return b, b.rewind()
}

// rewind goes back to the first record.
func (b *bupm) rewind() error {
	b.eof, b.buf = false, nil
	if b.all != nil {
		b.buf, b.eof = b.all, true
		return nil
	}
	b.file = OpenFile(b.ctx, b.r, b.entry.ID, b.entry.Mode == ModeDir)
	return b.file.walk(&b.walk, 0)
}

// more reads on. At least as much is read as is waiting already, so that a long
// record in short chunks is not looked at over and over.
func (b *bupm) more() error {
	for want := 2*len(b.buf) + 1; len(b.buf) < want; {
		b.in.fill(b.file, &b.walk, math.MaxInt64)
		if b.in.err != nil {
			return b.in.err
		}
		if len(b.in.chunks) == 0 {
			b.eof = true
			return nil
		}
		for i := range b.in.chunks {
			b.buf = append(b.buf, b.in.bodies[b.in.which[i]]...)
		}
	}
	return nil
}

// next returns the bytes of the next record, valid until the one after, and the
// mode in it; nil at the end. An error is a *pack.CorruptError, a *MissingError or
// one of the Repo.
func (b *bupm) next() (record []byte, mode uint32, err error) {
	for {
		n, mode, err := cutRecord(b.buf)
		if err != nil {
			return nil, 0, b.corrupt(err)
		}
		if n > 0 {
			record, b.buf = b.buf[:n:n], b.buf[n:]
			return record, mode, nil
		}
		if b.eof && len(b.buf) == 0 {
			return nil, 0, nil
		}
		if b.eof || len(b.buf) >= meta.MaxEntry {
			return nil, 0, b.corrupt(errors.New("record without an end"))
		}
		if err := b.more(); err != nil {
			return nil, 0, err
		}
	}
}

func (b *bupm) corrupt(err error) error {
	return &pack.CorruptError{File: bupmName + " " + b.entry.ID.String(), Off: -1, Reason: err.Error()}
}

// keep reads the whole .bupm if it is small.
func (b *bupm) keep() error {
	for !b.eof && len(b.buf) <= keepBupm {
		if err := b.more(); err != nil {
			return err
		}
	}
	if b.eof {
		b.all = b.buf
	}
	return nil
}

// The tags of records that hold a mode, and of the end (package meta).
const (
	tagEnd      = 0
	tagCommonV1 = 2
	tagCommonV2 = 9
	tagCommonV3 = 10
)

// cutRecord returns the length of the record at the front of b and the mode in
// it, 0 for an empty one. Length 0: b ends before the record does. Only the frame
// is looked at; meta.Parse is for the rest.
func cutRecord(b []byte) (n int, mode uint32, err error) {
	for {
		if n < len(b) && b[n] == tagEnd {
			return n + 1, mode, nil
		}
		tag, k, err := cutUint(b[n:])
		if err != nil || k == 0 {
			return 0, 0, err
		}
		size, l, err := cutUint(b[n+k:])
		if err != nil || l == 0 {
			return 0, 0, err
		}
		if size >= meta.MaxEntry {
			return 0, 0, fmt.Errorf("record with a field of %d bytes", size)
		}
		n += k + l
		if len(b)-n < int(size) {
			return 0, 0, nil
		}
		switch field := b[n : n+int(size)]; tag {
		case tagCommonV1, tagCommonV2, tagCommonV3:
			mode = peekMode(field, tag == tagCommonV1)
		}
		if n += int(size); n >= meta.MaxEntry {
			return 0, 0, errors.New("record without an end")
		}
	}
}

// cutUint reads a number of 7-bit groups; n = 0 if b ends before it does.
func cutUint(b []byte) (v uint64, n int, err error) {
	for n < len(b) {
		c := b[n]
		if n == 9 {
			return 0, 0, errors.New("number too large")
		}
		v |= uint64(c&0x7f) << (7 * n)
		n++
		if c < 0x80 {
			return v, n, nil
		}
	}
	return 0, 0, nil
}

// peekMode reads the number at the front of a common record.
func peekMode(field []byte, v1 bool) uint32 {
	v, n, err := cutUint(field)
	if err != nil || n == 0 {
		return 0
	}
	if !v1 { // the sign stands in bit 6 of the first byte
		v = v>>1&^63 | v&63
	}
	return uint32(v)
}
