package s3sync

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
)

// UnsafeStoreError says that a store does not keep what a mirror relies on.
type UnsafeStoreError struct{ Key string }

// Error says what it did.
func (e *UnsafeStoreError) Error() string {
	return fmt.Sprintf("the store ignores preconditions: it overwrote %s in spite of If-None-Match", e.Key)
}

// keyProbe is written by the first run, and by every later one in vain.
const keyProbe = "probe"

// begin makes sure, before anything is sent, that a key can be written once only, and that the
// next run will know that this one sent something.
func (m *mirror) begin(ctx context.Context) error {
	m.probing.Lock()
	defer m.probing.Unlock()
	if m.probed {
		return nil
	}
	if err := m.journal.start(); err != nil {
		return err
	}
	var err error
	if !m.o.Unsafe {
		err = probe(ctx, m.b)
	}
	m.probed = err == nil
	return err
}

// probe makes sure that the store does not overwrite what is there.
func probe(ctx context.Context, b *Bucket) error {
	for range 2 { // the first may be the first ever
		if _, err := b.Objects.Put(ctx, b.Prefix+keyProbe, probeBody()); errors.Is(err, ErrExists) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return &UnsafeStoreError{b.Prefix + keyProbe}
}

// probeBody returns one that no other run has.
func probeBody() Body {
	text := []byte("kedge writes this once " + rand.Text() + "\n")
	return Body{ReaderAt: bytes.NewReader(text), Size: int64(len(text)), SHA256: SumOf(text)}
}

// beginParts makes sure, before anything is sent in parts, that the key is written once only
// in that way, too.
func (m *mirror) beginParts(ctx context.Context, s Parted) error {
	m.probing.Lock()
	defer m.probing.Unlock()
	if m.probedParts || m.o.Unsafe {
		return nil
	}
	var err error
	for range maxRestarts { // a store may forget an upload
		if err = m.probeParts(ctx, s); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	m.probedParts = err == nil
	return err
}

func (m *mirror) probeParts(ctx context.Context, s Parted) error {
	b, key := probeBody(), m.b.Prefix+keyProbe
	id, err := s.Begin(ctx, key)
	if err != nil {
		return err
	}
	u := &openUpload{key: key, size: b.Size, sum: b.SHA256, partSize: b.Size, id: id}
	if err := m.journal.begin(u); err != nil {
		return err
	}
	part, err := s.PutPart(ctx, key, id, 1, b)
	if err != nil {
		return err
	}
	_, err = s.Complete(ctx, key, id, []Part{part})
	if err == nil {
		var same bool
		if same, _, err = holds(ctx, m.b.Objects, key, "", b); same {
			err = &UnsafeStoreError{key}
		}
	} else if errors.Is(err, ErrExists) {
		err = nil
	}
	return errors.Join(err, m.abort(ctx, s, []*openUpload{u}))
}
