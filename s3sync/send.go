package s3sync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// plan returns those of the files that have to be sent, and takes the others from the last
// generation.
func (m *mirror) plan(ctx context.Context, names []string) (todo []string, err error) {
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		f, size, err := m.mirrored(ctx, name)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s: %w", name, err)
		case f != nil:
			m.add(*f)
		default:
			todo = append(todo, name)
			m.result.Todo++
			m.result.TodoBytes += size
		}
	}
	return todo, nil
}

// mirrored returns a file as the last generation has it, if it is still the same. Name, size
// and times prove nothing. But a pack of git's or ours is named by the checksum that it ends
// in, and its index repeats that: 20 bytes of each tell. Packs of bup's are named by the ids
// in them, and can be made anew under the same name; there the index is hashed, and tells the
// checksum of its pack.
func (m *mirror) mirrored(ctx context.Context, name string) (f *File, size int64, err error) {
	blob, err := m.dir.Open(ctx, name)
	if err != nil {
		return nil, 0, err
	}
	defer blob.Close()
	size = blob.Size()
	if m.last == nil || m.doubted() {
		return nil, size, nil
	}
	was, ok := m.last.File(name)
	if !ok || was.Size != size {
		return nil, size, nil
	}
	stem := strings.TrimSuffix(strings.TrimSuffix(name, ".pack"), ".idx")
	idx := blob
	if strings.HasSuffix(name, ".pack") {
		if idx, err = m.dir.Open(ctx, stem+".idx"); err != nil {
			return nil, size, err
		}
		defer idx.Close()
	}
	of, err := idAt(idx, 2) // the pack that the index is of
	if err != nil {
		return nil, size, err
	}
	if blob != idx {
		end, err := idAt(blob, 1)
		if err != nil || end != of {
			return nil, size, err
		}
	}
	if strings.HasSuffix(stem, "pack-"+of.String()) {
		return &was, size, nil
	}
	wasIdx, ok := m.last.File(stem + ".idx")
	if !ok || wasIdx.Size != idx.Size() {
		return nil, size, nil
	}
	if sum, err := sumReader(idx, idx.Size()); err != nil || sum != wasIdx.SHA256 {
		return nil, size, err
	}
	return &was, size, nil
}

// idAt reads the id that begins n ids before the end of a file; none if there is no room.
func idAt(b repo.Blob, n int) (pack.ID, error) {
	var id pack.ID
	buf := id.AppendBytes(nil)
	off := b.Size() - int64(n*len(buf))
	if off < 0 {
		return id, nil
	}
	if _, err := b.ReadAt(buf, off); err != nil {
		return id, err
	}
	id, _, _ = pack.CutID(buf)
	return id, nil
}

// sendAll sends files, several at once.
func (m *mirror) sendAll(ctx context.Context, names []string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(m.o.Workers, len(names)) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(names) {
					return
				}
				if err := m.sendFile(ctx, names[i]); err != nil {
					cancel(fmt.Errorf("%s: %w", names[i], err))
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// sendFile sends a file that is written once.
func (m *mirror) sendFile(ctx context.Context, name string) error {
	blob, err := m.dir.Open(ctx, name)
	if err != nil {
		return err
	}
	defer blob.Close()
	if m.names != nil {
		return m.sendSealed(ctx, name, blob, blob.Size())
	}
	partSize := int64(0)
	if _, ok := partedOf(m.b.Objects); ok {
		partSize = partSizeOf(blob.Size(), m.o.PartSize)
	}
	sums, err := sumBody(blob, blob.Size(), partSize)
	if err != nil {
		return err
	}
	body := Body{&paced{ctx, blob, m.pace}, blob.Size(), sums.whole, sums.partSums()}
	return m.send(ctx, name, name, body, sums.parts)
}

// sendTexts sends a copy of each file that changes.
func (m *mirror) sendTexts(ctx context.Context, files map[string]*[]byte) error {
	for name, at := range files {
		if err := m.sendText(ctx, name, "", *at); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// sendText sends a small file, and keeps it in mind for sendAgain. key is what it is called;
// "": its checksum.
func (m *mirror) sendText(ctx context.Context, name, key string, text []byte) error {
	if len(text) == 0 {
		return nil
	}
	sum := SumOf(text)
	if key == "" {
		key = "state/" + sum.String()
	}
	if m.texts == nil {
		m.texts = make(map[string][]byte)
	}
	m.texts[name] = text
	if m.last != nil && !m.doubted() {
		if f, ok := m.last.File(name); ok && f.SHA256 == sum {
			m.add(f)
			return nil
		}
	}
	m.mu.Lock()
	m.result.Todo++
	m.result.TodoBytes += int64(len(text))
	m.mu.Unlock()
	if m.names != nil && name != nameRestoreText {
		return m.sendSealed(ctx, name, bytes.NewReader(text), int64(len(text)))
	}
	b := Body{ReaderAt: &paced{ctx, bytes.NewReader(text), m.pace}, Size: int64(len(text)), SHA256: sum}
	return m.send(ctx, name, key, b, nil)
}

// sendAgain sends a file that was dropped or deleted while this run was under way. A segment
// is left out: the next run makes another.
func (m *mirror) sendAgain(ctx context.Context, name string) error {
	switch {
	case strings.HasPrefix(name, "objects/"):
		return m.sendFile(ctx, name)
	case strings.HasPrefix(name, dirSegments+"/"):
		return nil
	case name == nameRestoreText:
		return m.sendRestoreText(ctx)
	}
	return m.sendText(ctx, name, "", m.texts[name])
}

// send creates an object for a file. If the key has other bytes another one is taken: those
// of a pack that was made anew with the same objects, say. A key that was dropped is not taken,
// whatever is there.
func (m *mirror) send(ctx context.Context, name, key string, b Body, parts []Sum) error {
	if err := m.begin(ctx); err != nil {
		return err
	}
	at := key
	for try := 0; ; try++ {
		if m.dropped[at] { // and soon deleted, if it is not already
			at = fmt.Sprintf("%s~%d", key, m.next()+uint64(try))
			continue
		}
		f, err := m.put(ctx, m.b.Prefix+at, b, parts)
		if err == nil {
			f.Name, f.Key = name, at
			m.add(f)
			return nil
		}
		if !errors.Is(err, ErrExists) || try >= maxConflicts {
			return err
		}
		at = fmt.Sprintf("%s~%d", key, m.next()+uint64(try))
	}
}

// put makes sure that there is an object of the bytes of b.
func (m *mirror) put(ctx context.Context, key string, b Body, parts []Sum) (File, error) {
	f := File{Size: b.Size, SHA256: b.SHA256}
	if (m.journal.cut || m.doubted()) && m.names == nil { // it may be there, by a run that was cut short
		same, o, err := holds(ctx, m.b.Objects, key, "", b)
		if err == nil && !same {
			return f, fmt.Errorf("%s: %w", key, ErrExists)
		}
		if f.Version, f.PartSums = o.Version, o.PartSums; err == nil || !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
	var err error
	if parts != nil {
		var o Object
		s, _ := partedOf(m.b.Objects)
		if err := m.beginParts(ctx, s); err != nil {
			return f, err
		}
		l := large{m: m, s: s, key: key, body: b, partSize: partSizeOf(b.Size, m.o.PartSize), sums: parts}
		o, err = l.put(ctx)
		f.Version, f.PartSums = o.Version, o.PartSums
	} else if err = m.acquire(ctx); err == nil {
		f.Version, err = m.b.Objects.Put(ctx, key, b)
		m.release()
	}
	if m.shared && errors.Is(err, ErrExists) {
		same, o, herr := holds(ctx, m.b.Objects, key, "", b)
		if herr == nil && same {
			f.Version, f.PartSums = o.Version, o.PartSums
			return f, nil
		}
	}
	if err != nil {
		return f, err
	}
	m.mu.Lock()
	m.result.Sent++
	m.mu.Unlock()
	if parts == nil {
		m.moved(b.Size)
	}
	return f, nil
}

// acquire waits until there is room for a request that sends; release makes room.
func (m *mirror) acquire(ctx context.Context) error {
	select {
	case m.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (m *mirror) release() { <-m.slots }

// moved counts bytes that were sent.
func (m *mirror) moved(n int64) {
	m.mu.Lock()
	m.result.SentBytes += n
	r := m.result
	m.mu.Unlock()
	if m.o.Progress != nil {
		m.o.Progress(r)
	}
}

func (m *mirror) add(f File) {
	m.mu.Lock()
	m.files = append(m.files, f)
	m.mu.Unlock()
}

// abortOthers ends the uploads of runs that were cut short which this one had no use for.
func (m *mirror) abortOthers(ctx context.Context) error {
	left := m.journal.pending()
	s, ok := partedOf(m.b.Objects)
	if len(left) == 0 || !ok {
		return nil
	}
	if err := m.journal.start(); err != nil {
		return err
	}
	return m.abort(ctx, s, left)
}
