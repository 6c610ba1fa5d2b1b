package pack

import (
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
)

// Output is what a pack is written to: a new file that can be read back and
// whose head can be patched.
type Output interface {
	io.Writer
	io.WriterAt
	io.ReaderAt
}

// Starter is what an Output may implement, too: StartSync asks for n bytes at off to
// be written to the disk soon, and does not wait.
type Starter interface {
	StartSync(off, n int64) error
}

const (
	packMagic   = "PACK"
	packVersion = 2
	packHead    = 12 // magic, version, number of objects

	writeStep   = 1 << 20 // bytes per write and per read back
	startStep   = 8 << 20 // bytes that are sent on their way to the disk together
	sampleEvery = 64      // one entry in so many is inflated and hashed by Finish
)

var (
	errFinished = errors.New("pack is finished")
	errNotEntry = errors.New("not the bytes of one entry")
)

// Writer writes one pack. It is used by one goroutine at a time. After an
// error it refuses everything.
//
// What reaches the output is, in this order:
//
//	write 1 MiB            as often as that much has gathered
//	start 8 MiB            after every eighth of those, if out is a Starter
//	write the rest
//	pwrite 4 bytes at 8    the number of objects
//	pread 1 MiB            from 0 to the end: what Finish proves
//	write 20 bytes         the trailer
//
// Writes begin at multiples of 1 MiB. Syncing is the caller's duty; that the disk
// begins early shortens it, and with it the time in which a save that has nothing
// else to do waits for its last pack.
type Writer struct {
	out  Output
	off  int64  // of what has been written
	buf  []byte // what has not been written yet
	size int64  // of everything added, header included
	recs []Record
	err  error
}

// NewWriter begins a pack on out, which is empty.
func NewWriter(out Output) *Writer {
	w := &Writer{out: out, buf: make([]byte, 0, writeStep), size: packHead}
	w.buf = append(w.buf, packMagic...)
	w.buf = binary.BigEndian.AppendUint32(w.buf, packVersion)
	w.buf = binary.BigEndian.AppendUint32(w.buf, 0)
	return w
}

// Add appends entries, which the caller may reuse afterwards. An object must
// be added once only; Finish finds duplicates, which git would refuse.
func (w *Writer) Add(entries []Entry) error {
	for i := range entries {
		if w.err != nil {
			return w.err
		}
		e := &entries[i]
		if len(w.recs) == math.MaxUint32 {
			return w.fail(errors.New("pack is full: 2^32-1 objects"))
		}
		if len(e.Bytes) == 0 {
			return w.fail(fmt.Errorf("object %v: entry of no bytes", e.ID))
		}
		w.recs = append(w.recs, Record{ID: e.ID, CRC: e.CRC, Off: w.size})
		w.size += int64(len(e.Bytes))
		w.write(e.Bytes)
	}
	return w.err
}

// write gathers b and writes whole steps.
func (w *Writer) write(b []byte) {
	for {
		n := copy(w.buf[len(w.buf):cap(w.buf)], b)
		w.buf = w.buf[:len(w.buf)+n]
		b = b[n:]
		if len(w.buf) < cap(w.buf) {
			return
		}
		if w.flush() != nil {
			return
		}
	}
}

// flush writes what has gathered.
func (w *Writer) flush() error {
	n, err := w.out.Write(w.buf)
	if err == nil && n < len(w.buf) {
		err = io.ErrShortWrite
	}
	w.off += int64(n)
	if s, ok := w.out.(Starter); ok && err == nil && w.off%startStep == 0 {
		err = s.StartSync(w.off-startStep, startStep)
	}
	w.buf = w.buf[:0]
	return w.fail(err)
}

// fail makes err, if it is one, the writer's last word.
func (w *Writer) fail(err error) error {
	if w.err == nil {
		w.err = err
	}
	return err
}

// Len returns the number of objects, Size the bytes so far.
func (w *Writer) Len() int { return len(w.recs) }

// Size returns the bytes written so far, header included, trailer not.
func (w *Writer) Size() int64 { return w.size }

// Finish patches the count, reads the pack back once, comparing every entry's
// CRC with what was added and inflating and hashing one entry in 64, and
// appends the trailer. It returns the pack's name (the trailer) and its index,
// which is ready to be written with Index.WriteTo. It does not sync.
//
// Reading back proves that the file holds what the encoders computed: a write
// lost or changed on the way, or an entry changed in memory after its CRC was
// taken, ends the save and not, months later, the restore.
func (w *Writer) Finish() (name ID, idx *Index, err error) {
	if w.err != nil {
		return ID{}, nil, w.err
	}
	if name, err = w.finish(); err != nil {
		return ID{}, nil, w.fail(err)
	}
	w.err = errFinished
	idx, err = newIndex(w.recs, name)
	w.buf, w.recs = nil, nil
	return name, idx, err
}

func (w *Writer) finish() (ID, error) {
	if err := w.flush(); err != nil {
		return ID{}, err
	}
	var count [4]byte
	binary.BigEndian.PutUint32(count[:], uint32(len(w.recs)))
	if n, err := w.out.WriteAt(count[:], 8); err != nil {
		return ID{}, err
	} else if n < len(count) {
		return ID{}, io.ErrShortWrite
	}
	name, err := w.readBack()
	if err != nil {
		return ID{}, err
	}
	w.buf = name.AppendBytes(w.buf)
	return name, w.flush()
}

// readBack reads the file from its beginning and returns its checksum.
func (w *Writer) readBack() (ID, error) {
	var (
		sum    = sha1.New()
		check  = proof{recs: w.recs, size: w.size, hasher: NewHasher(), dec: NewDecoder(math.MaxInt64)}
		buf    = w.buf[:cap(w.buf)]
		header = binary.BigEndian.AppendUint32([]byte(packMagic), packVersion)
	)
	header = binary.BigEndian.AppendUint32(header, uint32(len(w.recs)))
	for off := int64(0); off < w.size; {
		b := buf[:min(int64(len(buf)), w.size-off)]
		if err := readFull("pack just written", w.out, b, off); err != nil {
			return ID{}, err
		}
		sum.Write(b)
		rest := b
		if off == 0 {
			if string(b[:packHead]) != string(header) {
				return ID{}, &CorruptError{File: "pack just written", Off: 0, Reason: "header is not what was written"}
			}
			rest = b[packHead:]
		}
		if err := check.add(rest); err != nil {
			return ID{}, err
		}
		off += int64(len(b))
	}
	return ID{[idSize]byte(sum.Sum(nil))}, nil
}

// proof compares the bytes of a pack, which come in pieces of any size, with
// its records, which stand in the order of the file.
type proof struct {
	recs []Record
	size int64

	i       int    // the entry under way
	crc     uint32 // of what has come of it
	got     int64  // how much has come of it
	sampled []byte // all that has come of it, if it is a sample in pieces

	hasher *Hasher
	dec    *Decoder
	body   []byte
}

// end returns where entry i ends.
func (p *proof) end(i int) int64 {
	if i+1 < len(p.recs) {
		return p.recs[i+1].Off
	}
	return p.size
}

// add takes the next bytes of the pack.
func (p *proof) add(b []byte) error {
	for len(b) > 0 {
		r := &p.recs[p.i] // there is one: the sizes add up
		n := min(int64(len(b)), p.end(p.i)-r.Off-p.got)
		piece := b[:n]
		b = b[n:]
		p.crc = crc32.Update(p.crc, crc32.IEEETable, piece)
		p.got += n
		done := p.got == p.end(p.i)-r.Off
		sample := p.i%sampleEvery == 0
		if sample && !(done && len(p.sampled) == 0) {
			p.sampled = append(p.sampled, piece...)
			piece = p.sampled
		}
		if !done {
			return nil
		}
		if p.crc != r.CRC {
			return r.wrong(errors.New("CRC mismatch when read back"))
		}
		if sample {
			if err := p.inflate(r, piece); err != nil {
				return r.wrong(err)
			}
		}
		p.i, p.crc, p.got, p.sampled = p.i+1, 0, 0, p.sampled[:0]
	}
	return nil
}

// inflate proves that an entry is the object that its id names.
func (p *proof) inflate(r *Record, entry []byte) error {
	body, t, n, err := p.dec.Append(p.body[:0], entry)
	if err != nil {
		return err
	}
	p.body = body
	if n != len(entry) {
		return errNotEntry
	}
	if id, err := p.hasher.Sum(t, body); err != nil || id != r.ID {
		return fmt.Errorf("its bytes are those of %v %v", t, id)
	}
	return nil
}

// wrong says that the object of a record is not in the file as it was added.
func (r *Record) wrong(err error) error {
	return fmt.Errorf("pack just written: object %v at offset %d: %w", r.ID, r.Off, err)
}
