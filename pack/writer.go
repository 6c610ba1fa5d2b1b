package pack

import "io"

// Output is what a pack is written to: a new file that can be read back and
// whose head can be patched.
type Output interface {
	io.Writer
	io.WriterAt
	io.ReaderAt
}

// Writer writes one pack. It is used by one goroutine at a time. After an
// error it refuses everything.
type Writer struct{}

// NewWriter begins a pack on out, which is empty.
func NewWriter(out Output) *Writer { panic("stub") }

// Add appends entries, which the caller may reuse afterwards.
func (w *Writer) Add(entries []Entry) error { panic("stub") }

// Len returns the number of objects, Size the bytes so far.
func (w *Writer) Len() int { panic("stub") }

// Size returns the bytes written so far, header included, trailer not.
func (w *Writer) Size() int64 { panic("stub") }

// Finish patches the count, reads the pack back once, comparing every entry's
// CRC with what was added and inflating and hashing one entry in 64, and
// appends the trailer. It returns the pack's name (the trailer) and its index,
// which is ready to be written with Index.WriteTo. It does not sync.
func (w *Writer) Finish() (name ID, idx *Index, err error) { panic("stub") }

// Index is the contents of an idx v2 file being made.
type Index struct{}

// WriteTo writes the idx v2 file.
func (x *Index) WriteTo(w io.Writer) (int64, error) { panic("stub") }
