package s3sync

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

const (
	keySealed = "data/" // and 32 random digits, of what is encrypted
	keyName   = "name.age"
	// spoolMemory is up to which size a ciphertext is kept in memory until it is sent.
	spoolMemory = 1 << 20
)

// sealing opens what an encrypted run needs beside the journal.
func (m *mirror) sealing() error {
	if m.b.Recipients == nil {
		return nil
	}
	if m.p != nil && m.id == "" {
		return &repo.ConfigError{Reason: m.o.Dir + " has no id, by which its encrypted mirror would be known: set bup.repo.id in its config"}
	}
	var err error
	if m.names, err = openNames(m.journal, m.id); err != nil {
		return err
	}
	m.b = m.b.shut()
	m.b.names = m.names
	return nil
}

// sendSealed encrypts a file and sends it under a key that tells nothing. A ciphertext cannot
// be made again, so it is kept in a file that has no name any more until it has been sent:
//
//	encrypt, note key and checksums and sync, PUT
func (m *mirror) sendSealed(ctx context.Context, name string, r io.ReaderAt, size int64) error {
	if err := m.begin(ctx); err != nil {
		return err
	}
	if f, err := m.sentBefore(ctx, name, r, size); f != nil || err != nil {
		if err == nil {
			m.add(*f)
		}
		return err
	}
	c, err := m.encrypt(ctx, r, size)
	if err != nil {
		return err
	}
	defer c.Close()
	for try := 0; ; try++ {
		f := File{Name: name, Size: size, SHA256: c.plain, Key: keySealed + randomHex(), Cipher: Stored{c.size, c.sums.whole}, PartSums: c.sums.partSums()}
		if err := m.names.note(f); err != nil {
			return err
		}
		body := Body{&paced{ctx, c, m.pace}, c.size, c.sums.whole, f.PartSums}
		stored, err := m.put(ctx, m.b.Prefix+f.Key, body, c.sums.parts)
		if err == nil {
			f.Version, f.PartSums = stored.Version, stored.PartSums
			m.add(f)
			return nil
		}
		// Nobody else has this key: it holds what the store made of our bytes.
		if !errors.Is(err, ErrExists) || try == maxConflicts {
			return err
		}
	}
}

// sentBefore returns the object of a file that a run which was cut short had sent; nil if
// there is none. The names tell what it has to be.
func (m *mirror) sentBefore(ctx context.Context, name string, r io.ReaderAt, size int64) (*File, error) {
	var sum Sum
	for _, f := range m.names.of(name) {
		if f.Size != size || m.dropped[f.Key] {
			continue
		}
		if sum.IsZero() {
			var err error
			if sum, err = sumReader(r, size); err != nil {
				return nil, err
			}
		}
		if f.SHA256 != sum {
			continue
		}
		same, o, err := holds(ctx, m.b.Objects, m.b.Prefix+f.Key, "", Body{Size: f.Cipher.Size, SHA256: f.Cipher.SHA256, PartSums: f.PartSums})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil && same {
			f.Version, f.PartSums = o.Version, o.PartSums
			return &f, nil
		}
	}
	return nil, nil
}

// ciphertext is an encrypted file that is about to be sent.
type ciphertext struct {
	io.ReaderAt
	io.Closer
	size  int64
	plain Sum // of what is in it
	sums  sums
}

// encrypt encrypts a file: into memory if it is small, else into a file of the repository's
// that has no name any more.
func (m *mirror) encrypt(ctx context.Context, r io.ReaderAt, size int64) (*ciphertext, error) {
	h := sha256.New()
	from := io.TeeReader(&whole{ctx: ctx, r: io.NewSectionReader(r, 0, size), left: size}, h)
	c := &ciphertext{Closer: io.NopCloser(nil)}
	if size <= spoolMemory || m.scratch == "" {
		var b bytes.Buffer
		if err := m.b.Recipients.seal(&b, from); err != nil {
			return nil, err
		}
		c.ReaderAt, c.size = bytes.NewReader(b.Bytes()), int64(b.Len())
	} else {
		temp := filepath.Join(m.scratch, fsx.TempName())
		f, err := m.o.FS.Create(temp, 0o600)
		if err != nil {
			return nil, err
		}
		c.ReaderAt, c.Closer = f, f
		if err = m.o.FS.Remove(temp); err == nil {
			err = m.b.Recipients.seal(f, from)
		}
		if err == nil {
			c.size, err = f.Size()
		}
		if err != nil {
			_ = f.Close()
			return nil, err
		}
	}
	h.Sum(c.plain[:0])
	partSize := int64(0)
	if _, ok := partedOf(m.b.Objects); ok {
		partSize = partSizeOf(c.size, m.o.PartSize)
	}
	var err error
	if c.sums, err = sumBody(c, c.size, partSize); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// whole is a file of which all has to come, until somebody gives up.
type whole struct {
	ctx  context.Context
	r    io.Reader
	left int64
}

// Read reads what comes next.
func (w *whole) Read(p []byte) (int, error) {
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	n, err := w.r.Read(p)
	if w.left -= int64(n); err == io.EOF && w.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// sendName writes what the repository is called, once, where it stands under an id. Other
// bytes under that key are those of an earlier run.
func (m *mirror) sendName(ctx context.Context) error {
	if m.names == nil || m.o.Name == "" || m.last != nil {
		return nil
	}
	if err := m.begin(ctx); err != nil {
		return err
	}
	var text bytes.Buffer
	if err := m.b.Recipients.seal(&text, bytes.NewReader([]byte(m.o.Name+"\n"))); err != nil {
		return err
	}
	b := Body{ReaderAt: bytes.NewReader(text.Bytes()), Size: int64(text.Len()), SHA256: SumOf(text.Bytes())}
	if _, err := m.b.Objects.Put(ctx, m.b.Prefix+keyName, b); err != nil && !errors.Is(err, ErrExists) {
		return fmt.Errorf("%s: %w", keyName, err)
	}
	return nil
}

// sameKind fails if the last generation is encrypted and this one is not to be, or the other
// way round.
func (m *mirror) sameKind() error {
	if m.last == nil || m.last.Encrypted == (m.names != nil) {
		return nil
	}
	return &MixedError{m.b.Prefix, m.last.Encrypted}
}

// sameRefs reports whether the refs of the last generation are those of this one.
func (m *mirror) sameRefs() bool {
	sum, ok := m.names.refs[m.last.Sum]
	return ok && sum == refsSum(m.state.Head, m.state.Refs)
}

// sealedSegment returns what the names tell of a segment of the last generation: its ids come
// from the idx files here, and nothing of it is read back but its checksum.
func (m *mirror) sealedSegment(ctx context.Context, f File, packs map[pack.ID]int64) (*oldSegment, error) {
	s := m.names.packs[f.Name]
	if s == nil {
		return nil, &pack.CorruptError{File: f.Name, Off: -1, Reason: "nothing is known of it here"}
	}
	if _, err := m.b.verify(ctx, f, false); errors.Is(err, errDamaged) {
		return nil, &pack.CorruptError{File: f.Name, Off: -1, Reason: err.Error()}
	} else if err != nil {
		return nil, err
	}
	o := &oldSegment{file: f, rows: s.rows}
	o.take(s.packs, packs)
	return o, nil
}

// sealSegment sends a segment, and notes what is in it.
func (m *mirror) sealSegment(ctx context.Context, kind string, r io.ReaderAt, size int64, list []*source, rows int64) error {
	sum, err := sumReader(r, size)
	if err != nil {
		return err
	}
	s := &segmentPacks{rows: rows}
	for _, x := range list {
		for _, p := range x.packs {
			s.packs = append(s.packs, p.id)
		}
	}
	m.mu.Lock()
	m.result.Todo++
	m.result.TodoBytes += size
	m.mu.Unlock()
	name := dirSegments + "/" + kind + "-" + sum.String()[:32]
	if err := m.names.noteSegment(name, s); err != nil {
		return err
	}
	return m.sendSealed(ctx, name, r, size)
}
