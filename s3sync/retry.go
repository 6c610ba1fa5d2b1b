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
// answer was lost.
type Patient struct {
	Objects
	Tries int           // in all; 0: 8
	Pause time.Duration // before the second; doubles, up to 30 s; 0: 200 ms
}

// again calls fn until it succeeds, fails for good, or has failed too often.
func (p *Patient) again(ctx context.Context, what, key string, fn func() error) error {
	tries, pause := p.Tries, p.Pause
	if tries == 0 {
		tries = 8
	}
	if pause == 0 {
		pause = 200 * time.Millisecond
	}
	for try := 1; ; try++ {
		err := fn()
		if err == nil || !IsTemporary(err) || ctx.Err() != nil {
			return err
		}
		if try >= tries {
			return fmt.Errorf("%s %s: failed %d times: %w", what, key, try, err)
		}
		t := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
		pause = min(2*pause, 30*time.Second)
	}
}

// Put creates an object and makes sure that it holds what was sent. If there is one of that
// key with the same bytes it is done: it may have been this call that made it, whose answer
// was lost. With other bytes: ErrExists.
func (p *Patient) Put(ctx context.Context, key string, b Body) (version string, err error) {
	err = p.again(ctx, "put", key, func() (err error) {
		version, err = p.Objects.Put(ctx, key, b)
		if err != nil && !errors.Is(err, ErrExists) {
			return err
		}
		same, v, serr := p.holds(ctx, key, version, b)
		switch {
		case serr != nil:
			return serr
		case same:
			version = v
			return nil
		case err == nil:
			return fmt.Errorf("%s: the store has other bytes than were sent to it", key)
		}
		return err
	})
	return version, err
}

// holds reports whether an object has the bytes of b. What the store says of its checksum
// is believed; if it says nothing, the object is read.
func (p *Patient) holds(ctx context.Context, key, version string, b Body) (bool, string, error) {
	o, err := p.Objects.Stat(ctx, key, version)
	if errors.Is(err, fs.ErrNotExist) {
		return false, "", Temporary(fmt.Errorf("%s: was stored and is not there", key))
	} else if err != nil {
		return false, "", err
	}
	if o.Size != b.Size {
		return false, o.Version, nil
	}
	if !o.SHA256.IsZero() {
		return o.SHA256 == b.SHA256, o.Version, nil
	}
	sum, err := sumReader(objectReader{ctx, p.Objects, key, o.Version}, o.Size)
	return sum == b.SHA256, o.Version, err
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
	err = p.again(ctx, "get", key, func() error {
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
	err = p.again(ctx, "stat", key, func() error {
		o, err = p.Objects.Stat(ctx, key, version)
		return err
	})
	return o, err
}

// List calls fn for every object once, though the listing may begin anew after the last one
// that came.
func (p *Patient) List(ctx context.Context, prefix, after string, fn func(Object) error) error {
	return p.again(ctx, "list", prefix, func() error {
		return p.Objects.List(ctx, prefix, after, func(o Object) error {
			after = o.Key
			return fn(o)
		})
	})
}

// Delete deletes an object.
func (p *Patient) Delete(ctx context.Context, key, version string) error {
	return p.again(ctx, "delete", key, func() error { return p.Objects.Delete(ctx, key, version) })
}

// Retain keeps an object from being deleted until a time.
func (p *Patient) Retain(ctx context.Context, key, version string, until time.Time) error {
	return p.again(ctx, "retain", key, func() error { return p.Objects.Retain(ctx, key, version, until) })
}
