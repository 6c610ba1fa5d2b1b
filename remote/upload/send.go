package upload

import (
	"context"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// band writes the pack in lines of its own, among which progress and an error can stand.
// The Muxer of package sideband would allocate each of them.
type band struct {
	out  *pktline.Encoder
	data []byte // a line: its band, and what of the pack there is for it
}

func newBand(out *pktline.Encoder) *band {
	return &band{out, append(make([]byte, 0, pktline.MaxPayloadSize), byte(sideband.PackData))}
}

// Write writes bytes of the pack.
func (b *band) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := copy(b.data[len(b.data):cap(b.data)], p)
		b.data, p = b.data[:len(b.data)+k], p[k:]
		if len(b.data) == cap(b.data) {
			if err := b.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

// flush ends a line.
func (b *band) flush() error {
	if len(b.data) == 1 {
		return nil
	}
	err := b.out.Encode(b.data)
	b.data = b.data[:1]
	return err
}

// message writes a line on another band.
func (b *band) message(on sideband.Channel, text string) error {
	if err := b.flush(); err != nil {
		return err
	}
	return b.out.Encode(on.WithPayload([]byte(text)))
}

// packWriter is a pack being written. Its errors come from the line below it, at once and
// not when the pack ends.
type packWriter struct {
	sum *pack.SumWriter
	to  io.Writer
	err error
}

func newPackWriter(to io.Writer) *packWriter {
	p := &packWriter{to: to}
	p.sum = pack.NewSumWriter(lower{p})
	return p
}

// Write writes bytes of entries.
func (p *packWriter) Write(b []byte) (int, error) {
	p.sum.Bytes(b)
	return len(b), p.err
}

// lower is what a packWriter's checksum writes to.
type lower struct{ p *packWriter }

// Write passes bytes on.
func (l lower) Write(b []byte) (int, error) {
	n, err := l.p.to.Write(b)
	if l.p.err == nil {
		l.p.err = err
	}
	return n, err
}

const (
	progressEach = time.Second
	aliveEach    = 5 * time.Second // without progress: a line with nothing in it
)

// sendPack finds out what to send, and sends it.
func (s *session) sendPack(ctx context.Context, wants, common []pack.ID) error {
	s.packing = true
	var to io.Writer = s.w
	if s.features.sideBand {
		s.band = newBand(s.out)
		to = s.band
		s.walk.tick = s.counting(time.Now())
	}
	if err := s.choose(ctx, wants, common); err != nil {
		return err
	}
	n := s.count()
	if err := s.progress(fmt.Sprintf("Counting objects: %d, done.\n", n)); err != nil {
		return err
	}
	if n > math.MaxUint32 {
		return refused("%d objects are more than one pack can hold", n)
	}
	p := newPackWriter(to)
	if err := s.writePack(ctx, p, n); err != nil {
		return err
	}
	if s.band != nil {
		if err := s.band.flush(); err != nil {
			return err
		}
		if err := s.out.Flush(); err != nil {
			return err
		}
	}
	return s.w.Flush()
}

// choose puts what is to be sent into groups.
func (s *session) choose(ctx context.Context, wants, common []pack.ID) error {
	w := s.walk
	if err := w.history(ctx, groupHistory, wants); err != nil {
		return err
	}
	if s.features.tags {
		tags, err := s.tagsOf(ctx)
		if err != nil {
			return err
		}
		if err := w.history(ctx, groupHistory, tags); err != nil {
			return err
		}
	}
	if err := w.contents(ctx, append(common, w.edges...), groupHad, groupHad); err != nil {
		return err
	}
	return s.sel.Each(ctx, groupHistory, func(ids []pack.ID) error {
		return w.contents(ctx, ids, groupTree, groupBlob)
	})
}

// count returns how many objects there are to send.
func (s *session) count() int64 {
	return s.sel.Count(groupHistory) + s.sel.Count(groupTree) + s.sel.Count(groupBlob)
}

// writePack writes a pack of n objects.
func (s *session) writePack(ctx context.Context, p *packWriter, n int64) error {
	p.sum.Bytes([]byte("PACK"))
	p.sum.Uint32(2)
	p.sum.Uint32(uint32(n))
	wrote := int64(0)
	for _, g := range []repo.Group{groupHistory, groupTree, groupBlob} {
		k, err := s.sel.WriteEntries(ctx, p, g)
		if err != nil {
			return err
		}
		wrote += k
	}
	if wrote != n {
		return &repo.BusyError{What: "repository", Hint: "its packs were rewritten meanwhile"}
	}
	_, _, err := p.sum.Finish()
	return err
}

// progress sends a line of progress.
func (s *session) progress(text string) error {
	if s.band == nil || s.features.quiet {
		return nil
	}
	if err := s.band.message(sideband.ProgressMessage, text); err != nil {
		return err
	}
	return s.w.Flush()
}

// counting returns what keeps the client from thinking that nothing happens, and finds out
// whether it is still there.
func (s *session) counting(last time.Time) func() error {
	return func() error {
		now := time.Now()
		switch {
		case !s.features.quiet && now.Sub(last) >= progressEach:
			last = now
			return s.progress(fmt.Sprintf("Counting objects: %d\r", s.count()))
		case s.features.quiet && now.Sub(last) >= aliveEach:
			last = now
			if err := s.out.Encode(s.band.data[:1]); err != nil {
				return err
			}
			return s.w.Flush()
		}
		return nil
	}
}
