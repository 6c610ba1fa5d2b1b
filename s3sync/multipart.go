package s3sync

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"sync"

	"github.com/kedgebackup/kedge/repo"
)

const (
	// defaultPartSize is what is sent as one part: enough that the time of a request does not
	// count, little enough that a cut does not cost much.
	defaultPartSize = 16 << 20
	// maxParts is how many parts S3 allows. Objects of more have larger parts.
	maxParts = 10_000
	// partsFrom is from how many parts on an object is sent in parts: of fewer, the requests
	// around them cost more than they gain.
	partsFrom = 3
	// maxRestarts is how often an upload is begun anew that the store has forgotten.
	maxRestarts = 3
)

// partSizeOf returns the size of the parts of an object; 0 if it is sent as one.
func partSizeOf(size, partSize int64) int64 {
	if size <= (partsFrom-1)*partSize {
		return 0
	}
	for (size+partSize-1)/partSize > maxParts {
		partSize *= 2
	}
	return partSize
}

// sums are the checksums of a body and of its parts.
type sums struct {
	whole Sum
	parts []Sum // nil if it is sent as one
}

// partSums is what a store tells of an object of these parts.
func (s *sums) partSums() (sum Sum) {
	if s.parts == nil {
		return sum
	}
	h := sha256.New()
	for _, p := range s.parts {
		h.Write(p[:])
	}
	h.Sum(sum[:0])
	return sum
}

// sumBody reads a body once.
func sumBody(r io.ReaderAt, size, partSize int64) (s sums, err error) {
	if partSize == 0 {
		s.whole, err = sumReader(r, size)
		return s, err
	}
	whole, buf := sha256.New(), make([]byte, 256<<10)
	for off := int64(0); off < size; off += partSize {
		part := sha256.New()
		n, err := copyBoth(whole, part, io.NewSectionReader(r, off, min(partSize, size-off)), buf)
		if err == nil && n != min(partSize, size-off) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return s, err
		}
		s.parts = append(s.parts, Sum(part.Sum(nil)))
	}
	s.whole = Sum(whole.Sum(nil))
	return s, nil
}

func copyBoth(a, b hash.Hash, r io.Reader, buf []byte) (int64, error) {
	return io.CopyBuffer(io.MultiWriter(a, b), r, buf)
}

// large is an object that is sent in parts.
type large struct {
	m        *mirror
	s        Parted
	key      string
	body     Body
	partSize int64
	sums     []Sum
}

// put makes the object, of the parts of an upload that was begun before if there is one:
//
//	Begin, journal it and sync, PutPart of several at once, journal each, Complete,
//	compare checksums, journal the end
//
// With other bytes under that key it fails with ErrExists.
func (l *large) put(ctx context.Context) (o Object, err error) {
	for try := 0; ; try++ {
		version, err := l.once(ctx)
		if err != nil && !errors.Is(err, ErrExists) && !errors.Is(err, fs.ErrNotExist) {
			return o, err // the journal keeps the upload for the next run
		}
		same, o, herr := holds(ctx, l.m.b.Objects, l.key, version, l.body)
		switch {
		case herr == nil && same:
			return o, l.forget(ctx)
		case herr == nil:
			return o, errors.Join(fmt.Errorf("%s: %w", l.key, ErrExists), l.forget(ctx))
		case !errors.Is(herr, fs.ErrNotExist):
			return o, herr
		}
		// Neither the object is there nor the upload that it was to be made of.
		if err := l.forget(ctx); err != nil {
			return o, err
		}
		if try == maxRestarts {
			return o, &GaveUpError{"put", l.key, try + 1, orLost(err)}
		}
	}
}

// orLost returns an error, or one that says that the object is gone.
func orLost(err error) error {
	if err == nil {
		return errors.New("it was stored and is not there")
	}
	return err
}

// forget ends what uploads there are of the key.
func (l *large) forget(ctx context.Context) error { return l.m.abort(ctx, l.s, l.m.journal.of(l.key)) }

// once sends the parts that are missing, and puts them together.
func (l *large) once(ctx context.Context) (string, error) {
	u, have, err := l.upload(ctx)
	if err != nil {
		return "", err
	}
	parts := make([]Part, len(l.sums))
	var missing []int
	for i := range l.sums {
		p, ok := have[i+1]
		if parts[i] = p; !ok || p.Size != l.part(i).Size || p.SHA256 != l.sums[i] {
			missing = append(missing, i)
		}
	}
	if err := l.send(ctx, u, missing, parts); err != nil {
		return "", err
	}
	return l.s.Complete(ctx, l.key, u.id, parts)
}

// upload returns an upload of this object and the parts that it has: one of the journal, or
// a new one.
func (l *large) upload(ctx context.Context) (*openUpload, map[int]Part, error) {
	j := l.m.journal
	for _, u := range j.of(l.key) {
		if u.size != l.body.Size || u.sum != l.body.SHA256 || u.partSize != l.partSize {
			if err := l.m.abort(ctx, l.s, []*openUpload{u}); err != nil {
				return nil, nil, err
			}
			continue
		}
		have, err := l.present(ctx, u)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return u, have, err
		}
		if err := j.end(u); err != nil {
			return nil, nil, err
		}
	}
	id, err := l.s.Begin(ctx, l.key)
	if err != nil {
		return nil, nil, err
	}
	u := &openUpload{key: l.key, size: l.body.Size, sum: l.body.SHA256, partSize: l.partSize, id: id}
	return u, nil, j.begin(u)
}

// present returns the parts that the store has of an upload. If it does not tell, the journal
// does. A part whose checksum the store does not tell counts if its tag is that of the journal.
func (l *large) present(ctx context.Context, u *openUpload) (map[int]Part, error) {
	noted := l.m.journal.noted(u)
	listed, err := l.s.Parts(ctx, l.key, u.id)
	switch {
	case errors.Is(err, fs.ErrNotExist) || ctx.Err() != nil:
		return nil, err
	case err != nil:
		return noted, nil //nolint:nilerr // a store that lists no parts, or not to us
	}
	have := make(map[int]Part, len(listed))
	for _, p := range listed {
		if old, ok := noted[p.N]; ok && p.SHA256.IsZero() && old.Tag == p.Tag && old.Size == p.Size {
			p.SHA256 = old.SHA256
		}
		have[p.N] = p
	}
	return have, nil
}

// part returns the body of part i, counted from 0.
func (l *large) part(i int) Body {
	off := int64(i) * l.partSize
	size := min(l.partSize, l.body.Size-off)
	return Body{ReaderAt: io.NewSectionReader(l.body, off, size), Size: size, SHA256: l.sums[i]}
}

// send sends parts, several at once.
func (l *large) send(ctx context.Context, u *openUpload, missing []int, parts []Part) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, i := range missing {
		if err := l.m.acquire(ctx); err != nil {
			break
		}
		wg.Go(func() {
			defer l.m.release()
			b := l.part(i)
			p, err := l.s.PutPart(ctx, l.key, u.id, i+1, b)
			if err == nil {
				parts[i] = p
				l.m.moved(b.Size)
				err = l.m.journal.part(u, p)
			}
			if err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// abort ends uploads. That one goes on costs room and nothing else, so one that cannot be ended
// now stays in the journal for the next run; one that we may not end is left to the store's
// rule for incomplete uploads.
func (m *mirror) abort(ctx context.Context, s Parted, list []*openUpload) error {
	for _, u := range list {
		err := s.Abort(ctx, u.key, u.id)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil && !errors.As(err, new(*repo.RefusedError)) {
			continue
		}
		if err := m.journal.end(u); err != nil {
			return err
		}
	}
	return nil
}
