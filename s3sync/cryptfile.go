package s3sync

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"filippo.io/age"

	"github.com/kedgebackup/kedge/pack"
)

// The payload of an age file is chunks of 64 KiB, each with 16 bytes that authenticate it; the
// last one may be shorter, and empty only if it is the only one.
const (
	chunkSize  = 64 << 10
	chunkExtra = 16
	// openRun is how much is decrypted at a time: what one request brings into the cache.
	openRun = maxRun / chunkSize

	// Opening a file costs a round trip or two before anything of it is read, so one that is
	// not much larger than what they bring is read as a whole: a pack of so many bytes, and
	// whatever is no pack, which is read in more places.
	wholePack, wholeOther = 768 << 10, 1 << 20
	// openFront is what is read of a larger file that is no pack, with its header: the first
	// chunk, too, which has the head of a segment.
	openFront = 5 * pageSize
)

// sealedFile is an age file that is decrypted where it is read. What is kept in memory and on
// the disk is what stands in the store: opening costs the reads of its header and of its last
// chunk, and a read that of the chunks around it, which is one request where the file was not
// encrypted either. It is used by several goroutines.
type sealedFile struct {
	at   *remoteFile // the age file
	size int64       // of what is in it
	id   *Identity

	mu      sync.Mutex
	plain   io.ReaderAt // nil: it has not been opened yet
	err     error       // it never will be
	windows []*window   // of reads that are under way
}

// window is a stretch of the age file in memory.
type window struct {
	off  int64
	data []byte
}

// sourceError is what the age file could not be read for.
type sourceError struct{ error }

// Unwrap returns the error itself.
func (e *sourceError) Unwrap() error { return e.error }

// payload is where the chunks begin.
func (s *sealedFile) payload() int64 {
	chunks := max(1, (s.size+chunkSize-1)/chunkSize)
	return s.at.file.Size - s.size - chunks*chunkExtra
}

// open reads the header and the last chunk, which says how long the file is.
func (s *sealedFile) open() (io.ReaderAt, error) {
	s.mu.Lock()
	plain, err := s.plain, s.err
	s.mu.Unlock()
	if plain != nil || err != nil {
		return plain, err
	}
	if s.id == nil {
		return nil, &LockedError{s.at.key}
	}
	ends, err := s.ends()
	if err != nil {
		return nil, err
	}
	for _, w := range ends {
		s.show(w)
		defer s.hide(w)
	}
	var size int64
	plain, size, err = age.DecryptReaderAt(sealedSource{s}, s.at.file.Size, s.id.keys()...)
	var source *sourceError
	switch {
	case errors.As(err, &source):
		return nil, source.error // it may be had the next time
	case err != nil:
		err = unopened(s.at.key, nil, err)
	case size != s.size:
		err = &pack.CorruptError{File: s.at.key, Off: -1, Reason: fmt.Sprintf("it holds %d bytes, and %d in the manifest", size, s.size)}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err = err; err != nil {
		return nil, err
	}
	if s.plain == nil {
		s.plain = plain
	}
	return s.plain, nil
}

// ends reads what opening takes: the header and the last chunk, both at once, or into the
// cache all of a small file. They are no part of what tells how much to read ahead of a pack, and
// stay in blocks of their own for the next who opens it.
func (s *sealedFile) ends() ([]*window, error) {
	view := *s.at
	view.ahead = nil
	size := s.at.file.Size
	whole, front := int64(wholeOther), int64(openFront)
	if s.at.ahead != nil {
		whole, front = wholePack, pageSize
	}
	if size <= whole {
		_, err := view.ReadAt(make([]byte, size), 0)
		return nil, notEOF(err)
	}
	view.step = pageSize
	last := max(0, size-chunkSize-chunkExtra) // where the last chunk begins, or before
	if n := (s.size - 1) / chunkSize; s.size > 0 {
		last = max(0, min(size, s.payload()+n*(chunkSize+chunkExtra)))
	}
	parts := []*window{{0, make([]byte, min(size, front))}, {last, make([]byte, size-last)}}
	var errs [2]error
	inParallel(len(parts), func(i int) {
		_, err := view.ReadAt(parts[i].data, parts[i].off)
		errs[i] = notEOF(err)
	})
	return parts, errors.Join(errs[:]...)
}

func notEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// ReadAt reads len(p) bytes at off, which are all in the file.
func (s *sealedFile) ReadAt(p []byte, off int64) (n int, err error) {
	plain, err := s.open()
	if err != nil {
		return 0, err
	}
	for n < len(p) && err == nil {
		at := off + int64(n)
		end := min(at/chunkSize*chunkSize+openRun*chunkSize, off+int64(len(p)))
		var k int
		k, err = s.run(plain, p[n:n+int(end-at)], at)
		n += k
	}
	return n, err
}

// run reads what at most openRun chunks have.
func (s *sealedFile) run(plain io.ReaderAt, p []byte, off int64) (int, error) {
	first, last := off/chunkSize, (off+int64(len(p))-1)/chunkSize
	if first < last { // age asks for one chunk after the other
		from := s.payload() + first*(chunkSize+chunkExtra)
		to := min(s.at.file.Size, s.payload()+(last+1)*(chunkSize+chunkExtra))
		w := &window{from, make([]byte, to-from)}
		if _, err := s.at.ReadAt(w.data, from); err != nil && err != io.EOF {
			return 0, err
		}
		s.show(w)
		defer s.hide(w)
	}
	n, err := plain.ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	var source *sourceError
	if errors.As(err, &source) {
		return n, source.error
	}
	return n, unopened(s.at.key, nil, err)
}

// show makes a window one that age is given bytes of, and hide forgets it.
func (s *sealedFile) show(w *window) {
	s.mu.Lock()
	s.windows = append(s.windows, w)
	s.mu.Unlock()
}

func (s *sealedFile) hide(w *window) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, x := range s.windows {
		if x == w {
			last := len(s.windows) - 1
			s.windows[i], s.windows[last] = s.windows[last], nil
			s.windows = s.windows[:last]
			return
		}
	}
}

// sealedSource is the age file as it is given to age.
type sealedSource struct{ *sealedFile }

// ReadAt reads len(p) bytes at off.
func (s sealedSource) ReadAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	for _, w := range s.windows {
		if off >= w.off && off+int64(len(p)) <= w.off+int64(len(w.data)) {
			s.mu.Unlock()
			return copy(p, w.data[off-w.off:]), nil
		}
	}
	s.mu.Unlock()
	n, err := s.at.ReadAt(p, off)
	if err != nil && err != io.EOF {
		err = &sourceError{err}
	}
	return n, err
}
