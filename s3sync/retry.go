package s3sync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"time"
)

// Patient tries again what failed for a while, and finds out what became of a Put whose
// answer was lost. It is Parted if the store is that it wraps.
type Patient struct {
	Objects
	Tries int           // in all; 0: 8
	Pause time.Duration // before the second; doubles, up to 30 s, and is up to half longer or shorter; 0: 200 ms
	// Timeout is how long one try may take, and Slowest the bytes a second that it must move
	// beside that. 0: a minute, 16 KiB.
	Timeout time.Duration
	Slowest int64
}

// GaveUpError says that a request failed as often as it was allowed to.
type GaveUpError struct {
	Op, Key string
	Tries   int
	Err     error // of the last try
}

// Error says what failed, how often, and why the last time.
func (e *GaveUpError) Error() string {
	return fmt.Sprintf("%s %s: failed %d times: %v", e.Op, e.Key, e.Tries, e.Err)
}

// Unwrap returns the last error.
func (e *GaveUpError) Unwrap() error { return e.Err }

const (
	maxPause       = 30 * time.Second
	defaultTries   = 8
	defaultPause   = 200 * time.Millisecond
	defaultTimeout = time.Minute
	defaultSlowest = 16 << 10
)

// again calls fn, which moves so many bytes, until it succeeds, fails for good, or has failed
// too often.
func (p *Patient) again(ctx context.Context, what, key string, size int64, fn func(ctx context.Context) error) error {
	tries, pause := p.Tries, p.Pause
	if tries == 0 {
		tries = defaultTries
	}
	if pause == 0 {
		pause = defaultPause
	}
	for try := 1; ; try++ {
		err := p.once(ctx, size, fn)
		if err == nil || ctx.Err() != nil || !IsTemporary(err) {
			return err
		}
		if try >= tries {
			return &GaveUpError{what, key, try, err}
		}
		t := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
		pause = min(2*pause, maxPause)
	}
}

// once calls fn with a deadline. A try that did not make it in time may make it the next time.
func (p *Patient) once(ctx context.Context, size int64, fn func(ctx context.Context) error) error {
	timeout, slowest := p.Timeout, p.Slowest
	if timeout == 0 {
		timeout = defaultTimeout
	}
	if slowest == 0 {
		slowest = defaultSlowest
	}
	timeout += time.Duration(float64(size) / float64(slowest) * float64(time.Second))
	inner, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := fn(inner)
	if err != nil && inner.Err() != nil && ctx.Err() == nil {
		return Temporary(fmt.Errorf("no answer within %v", timeout.Round(time.Millisecond)))
	}
	return err
}

// Put creates an object and makes sure that it holds what was sent. If there is one of that
// key with the same bytes it is done: it may have been this call that made it, whose answer
// was lost. With other bytes: ErrExists.
//
// Before it is sent again it is looked whether it is there: a store that refuses a large body
// often cuts the line in the middle of it, and its answer is lost.
func (p *Patient) Put(ctx context.Context, key string, b Body) (version string, err error) {
	failed, hidden := false, false
	err = p.again(ctx, "put", key, b.Size, func(ctx context.Context) error {
		if failed {
			same, o, err := holds(ctx, p.Objects, key, "", b)
			if err == nil && !same {
				err = fmt.Errorf("%s: %w", key, ErrExists)
			}
			if version = o.Version; err == nil || !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		failed = true
		var put error
		version, put = p.Objects.Put(ctx, key, b)
		if put != nil && !errors.Is(put, ErrExists) {
			return put
		}
		same, o, err := holds(ctx, p.Objects, key, version, b)
		switch {
		case errors.Is(err, fs.ErrNotExist) && put != nil && hidden:
			// Some stores count what is behind a delete marker.
			return fmt.Errorf("%s: %w", key, ErrExists)
		case errors.Is(err, fs.ErrNotExist):
			hidden = put != nil
			return Temporary(fmt.Errorf("%s: was stored and is not there", key))
		case err != nil:
			return err
		case same:
			version = o.Version
			return nil
		}
		// It was there before, or the store has garbled it. Either way the key is taken.
		return fmt.Errorf("%s: %w", key, ErrExists)
	})
	return version, err
}

// holds describes an object and reports whether it has the bytes of b; fs.ErrNotExist if there
// is none. What
// the store says of its checksum is believed; if it says nothing that b can be compared
// with, the object is read.
func holds(ctx context.Context, s Objects, key, version string, b Body) (bool, Object, error) {
	o, err := s.Stat(ctx, key, version)
	switch {
	case err != nil:
		return false, o, err
	case o.Size != b.Size:
		return false, o, nil
	case !o.SHA256.IsZero():
		return o.SHA256 == b.SHA256, o, nil
	case !o.PartSums.IsZero() && o.PartSums == b.PartSums:
		return true, o, nil // other sums may be of parts of another size
	}
	sum, err := sumReader(objectReader{ctx, s, key, o.Version}, o.Size)
	return sum == b.SHA256, o, err
}

// objectReader reads an object as it stands.
type objectReader struct {
	ctx          context.Context
	s            Objects
	key, version string
}

// ReadAt reads len(p) bytes at off.
func (r objectReader) ReadAt(p []byte, off int64) (int, error) {
	return r.s.Get(r.ctx, r.key, r.version, p, off)
}

// Get reads len(p) bytes at off.
func (p *Patient) Get(ctx context.Context, key, version string, b []byte, off int64) (n int, err error) {
	err = p.again(ctx, "get", key, int64(len(b)), func(ctx context.Context) error {
		k, err := p.Objects.Get(ctx, key, version, b[n:], off+int64(n))
		n += k // what came need not come again
		return err
	})
	if errors.Is(err, io.EOF) {
		err = io.EOF
	}
	return n, err
}

// Stat describes an object.
func (p *Patient) Stat(ctx context.Context, key, version string) (o Object, err error) {
	err = p.again(ctx, "stat", key, 0, func(ctx context.Context) error {
		o, err = p.Objects.Stat(ctx, key, version)
		return err
	})
	return o, err
}

// listPage is how many bytes a page of a listing may have, which is what has to come before
// the deadline.
const listPage = 1 << 20

// List calls fn for every object once, though the listing may begin anew after the last one
// that came. The deadline is for a page, so what fn does is not in it.
func (p *Patient) List(ctx context.Context, prefix, after string, fn func(Object) error) error {
	for {
		var page []Object
		err := p.again(ctx, "list", prefix, listPage, func(ctx context.Context) error {
			page = page[:0]
			err := p.Objects.List(ctx, prefix, after, func(o Object) error {
				if page = append(page, o); len(page) == pageKeys {
					return errEnough
				}
				return nil
			})
			if errors.Is(err, errEnough) {
				err = nil
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, o := range page {
			after = o.Key
			if err := fn(o); err != nil {
				return err
			}
		}
		if len(page) < pageKeys {
			return nil
		}
	}
}

// pageKeys is how many keys a store tells in one answer.
const pageKeys = 1000

// Delete deletes an object.
func (p *Patient) Delete(ctx context.Context, key, version string) error {
	return p.again(ctx, "delete", key, 0, func(ctx context.Context) error { return p.Objects.Delete(ctx, key, version) })
}

// Retain keeps an object from being deleted until a time.
func (p *Patient) Retain(ctx context.Context, key, version string, until time.Time) error {
	return p.again(ctx, "retain", key, 0, func(ctx context.Context) error { return p.Objects.Retain(ctx, key, version, until) })
}

// parted is the store as Parted. That it is one was asked of partedOf.
func (p *Patient) parted() Parted {
	inner, _ := partedOf(p.Objects)
	return inner
}

// Begin begins an upload. One whose answer was lost stays behind, empty.
func (p *Patient) Begin(ctx context.Context, key string) (id string, err error) {
	err = p.again(ctx, "begin", key, 0, func(ctx context.Context) error {
		id, err = p.parted().Begin(ctx, key)
		return err
	})
	return id, err
}

// PutPart stores a part.
func (p *Patient) PutPart(ctx context.Context, key, upload string, n int, b Body) (part Part, err error) {
	err = p.again(ctx, fmt.Sprint("put part ", n, " of"), key, b.Size, func(ctx context.Context) error {
		part, err = p.parted().PutPart(ctx, key, upload, n, b)
		return err
	})
	return part, err
}

// Parts returns the parts that are there.
func (p *Patient) Parts(ctx context.Context, key, upload string) (parts []Part, err error) {
	err = p.again(ctx, "list parts of", key, listPage, func(ctx context.Context) error {
		parts, err = p.parted().Parts(ctx, key, upload)
		return err
	})
	return parts, err
}

// Complete makes the parts an object. If an answer was lost the next one may be that there
// is no such upload, or that the object exists.
func (p *Patient) Complete(ctx context.Context, key, upload string, parts []Part) (version string, err error) {
	// A store may need long to put much together.
	size := int64(len(parts)) << 20
	err = p.again(ctx, "complete", key, size, func(ctx context.Context) error {
		version, err = p.parted().Complete(ctx, key, upload, parts)
		return err
	})
	return version, err
}

// Abort forgets an upload.
func (p *Patient) Abort(ctx context.Context, key, upload string) error {
	return p.again(ctx, "abort", key, 0, func(ctx context.Context) error { return p.parted().Abort(ctx, key, upload) })
}
