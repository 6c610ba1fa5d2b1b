package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Version is the version of the protocol that this package speaks.
const Version = 1

// MaxFrame is the most bytes that a frame carries.
const MaxFrame = 1 << 20

// headSize is the length of a frame's head.
const headSize = 12

// Kind says what a message is.
type Kind uint8

// The kinds of messages. Requests come from the client, replies from the server.
const (
	Open       Kind = 1 + iota // OpenRequest → Info: choose or make the repository
	Repos                      // nothing → Names: repositories that the key may see
	Refs                       // Text, a prefix → RefList
	Missing                    // MissingRequest → MissingReply
	Get                        // IDs → Entries: a beginning of what was asked for
	Commits                    // CommitsRequest → Bodies: a tip and what it reaches
	Begin                      // nothing → Session
	Add                        // AddRequest; no reply if it is well
	Commit                     // Number of a session → PackList: what was published
	End                        // Number of a session → nothing
	SetRef                     // MoveRequest → IDs with one id
	AllowNames                 // Names → nothing
	Index                      // ReadRequest, the name of a pack → Text: bytes of its idx
	Check                      // CheckRequest → Notes, then CheckReply
	List                       // Text, a directory → FileList (role mirror)
	Read                       // ReadRequest, a file → Text: bytes of it (role mirror)
	Ping                       // nothing → nothing
	Receipts                   // Text, a ref → Bodies: its receipts as they stand in the file
	State                      // StateRequest → StateReply: what changes, at one moment (role mirror)

	OK   Kind = 64 // the reply to a request
	Fail Kind = 65 // Failure: why there is none
	Note Kind = 66 // Text: one of many parts of a reply to come
)

// MaxObject is the most that one entry of Add or Get may hold, packed.
const MaxObject = 64<<20 + 64<<10

// Limit returns how many bytes a message of this kind may hold, 0 for a kind that
// does not exist.
func (k Kind) Limit() int {
	switch k {
	case Open, Repos, Refs, Begin, Commit, End, SetRef, Index, Check, List, Read, Ping, Commits, Receipts, State:
		return 64 << 10
	case Missing, Get, AllowNames, Note:
		return MaxFrame
	case Add:
		return MaxFrame + MaxObject
	case OK:
		return MaxFrame + MaxObject
	case Fail:
		return 64 << 10
	}
	return 0
}

// ErrProtocol is what a peer's bytes that make no sense end in.
var ErrProtocol = errors.New("protocol error")

func badFrame(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrProtocol}, args...)...)
}

// Reader reads messages. It is used by one goroutine at a time.
type Reader struct {
	// Spill, if not nil, is asked where to put a message that has more than SpillAfter
	// bytes, of which first came. Next then returns no body: all of it went there.
	Spill      func(kind Kind, first []byte) (io.Writer, error)
	SpillAfter int

	r    *bufio.Reader
	head [headSize]byte
}

// NewReader returns a Reader that goes on where r stands.
func NewReader(r *bufio.Reader) *Reader { return &Reader{r: r} }

// Next reads a message and appends what it holds to buf. At the end of the stream
// between two messages the error is io.EOF, within one io.ErrUnexpectedEOF. Memory is
// taken for bytes that came, at most a frame ahead.
func (r *Reader) Next(buf []byte) (kind Kind, tag uint32, body []byte, err error) {
	start, first, had := len(buf), true, 0
	var aside io.Writer
	for {
		k, more, t, n, err := r.readHead(first)
		if err != nil {
			return 0, 0, buf, err
		}
		if !first && (k != kind || t != tag) {
			return 0, 0, buf, badFrame("a message is interrupted by another")
		}
		kind, tag, first = k, t, false
		if had += n; had > kind.Limit() {
			return kind, tag, buf, badFrame("a message of kind %d has more than %d bytes", kind, kind.Limit())
		}
		if more && n == 0 {
			return kind, tag, buf, badFrame("an empty frame that is not the last")
		}
		if buf, err = readFull(r.r, buf, n); err != nil {
			return kind, tag, buf, err
		}
		if aside == nil && r.Spill != nil && had > r.SpillAfter {
			if aside, err = r.Spill(kind, buf[start:]); err != nil {
				return kind, tag, buf, err
			}
		}
		if aside != nil {
			if _, err := aside.Write(buf[start:]); err != nil {
				return kind, tag, buf, err
			}
			buf = buf[:start]
		}
		if !more {
			return kind, tag, buf, nil
		}
	}
}

// readFull appends n bytes of r to buf.
func readFull(r io.Reader, buf []byte, n int) ([]byte, error) {
	at := len(buf)
	if cap(buf)-at < n {
		bigger := make([]byte, at, max(at+n, min(2*cap(buf), at+n+MaxFrame)))
		copy(bigger, buf)
		buf = bigger
	}
	buf = buf[:at+n]
	_, err := io.ReadFull(r, buf[at:])
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return buf, err
}

func (r *Reader) readHead(first bool) (kind Kind, more bool, tag uint32, n int, err error) {
	_, err = io.ReadFull(r.r, r.head[:])
	if err == io.EOF && !first {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, false, 0, 0, err
	}
	h := r.head[:]
	size := binary.BigEndian.Uint32(h)
	kind, tag = Kind(h[4]), binary.BigEndian.Uint32(h[8:])
	switch {
	case size > MaxFrame:
		err = badFrame("a frame of %d bytes", size)
	case kind.Limit() == 0:
		err = badFrame("unknown kind of message %d", kind)
	case h[5] > 1 || h[6] != 0 || h[7] != 0:
		err = badFrame("the head of a frame is % x", h)
	}
	return kind, h[5] == 1, tag, int(size), err
}

// Writer writes messages. It is used by one goroutine at a time. After an error
// it refuses everything.
type Writer struct {
	w    *bufio.Writer
	head [headSize]byte
}

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: bufio.NewWriterSize(w, 128<<10)} }

// Send writes a message that holds the parts one after the other. It may stay in a
// buffer until Flush.
func (w *Writer) Send(kind Kind, tag uint32, parts ...[]byte) error {
	left := 0
	for _, p := range parts {
		left += len(p)
	}
	if left > kind.Limit() {
		return fmt.Errorf("a message of kind %d cannot hold %d bytes", kind, left)
	}
	var part []byte
	for {
		n := min(left, MaxFrame)
		left -= n
		w.putHead(kind, left > 0, tag, n)
		if _, err := w.w.Write(w.head[:]); err != nil {
			return err
		}
		for n > 0 {
			for len(part) == 0 {
				part, parts = parts[0], parts[1:]
			}
			k := min(n, len(part))
			if _, err := w.w.Write(part[:k]); err != nil {
				return err
			}
			part, n = part[k:], n-k
		}
		if left == 0 {
			return nil
		}
	}
}

// SendFrom writes a message that holds head and then n bytes of r, which need not be in
// memory together. If r has fewer the message cannot be ended, and the connection is lost.
func (w *Writer) SendFrom(kind Kind, tag uint32, head []byte, r io.Reader, n int64) error {
	left := int64(len(head)) + n
	if left > int64(kind.Limit()) {
		return fmt.Errorf("a message of kind %d cannot hold %d bytes", kind, left)
	}
	r = io.MultiReader(bytes.NewReader(head), r)
	for first := true; first || left > 0; first = false {
		n := min(left, MaxFrame)
		left -= n
		w.putHead(kind, left > 0, tag, int(n))
		if _, err := w.w.Write(w.head[:]); err != nil {
			return err
		}
		if _, err := io.CopyN(w.w, r, n); err != nil {
			return err
		}
	}
	return nil
}

// putHead fills in the head of a frame of n bytes.
func (w *Writer) putHead(kind Kind, more bool, tag uint32, n int) {
	binary.BigEndian.PutUint32(w.head[:], uint32(n))
	w.head[4], w.head[5] = byte(kind), 0
	if more {
		w.head[5] = 1
	}
	binary.BigEndian.PutUint32(w.head[8:], tag)
}

// Flush sends what is in the buffer.
func (w *Writer) Flush() error { return w.w.Flush() }
