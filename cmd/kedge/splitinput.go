package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/kedgebackup/kedge/chunk"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/save"
)

// listed is the input that --git-ids means: the objects that standard input lists, each
// with its bytes as git cat-file prints them. One after the other is got as its turn comes.
func (s *splitRun) listed(r repository) []save.Input {
	lines := bufio.NewScanner(s.a.Stdin)
	apart := s.o.boundaries
	in := save.Input{Open: func(ctx context.Context) (io.ReadCloser, error) {
		return io.NopCloser(&listedReader{s: s, ctx: ctx, r: r, lines: lines}), nil
	}}
	if !apart {
		return []save.Input{in}
	}
	var list []save.Input // with boundaries each object is an input
	for lines.Scan() {
		line := lines.Text()
		list = append(list, save.Input{Open: func(ctx context.Context) (io.ReadCloser, error) {
			body, err := s.object(ctx, r, line)
			return io.NopCloser(bytes.NewReader(body)), err
		}})
	}
	if err := lines.Err(); err != nil {
		list = append(list, save.Input{Open: func(context.Context) (io.ReadCloser, error) { return nil, err }})
	}
	return list
}

// object returns the bytes of an object. One that is not there is named, and empty.
func (s *splitRun) object(ctx context.Context, r repository, rev string) (b []byte, err error) {
	rev = strings.TrimSpace(rev)
	if rev == "" {
		return nil, nil
	}
	id, err := repo.Revision(ctx, r, rev)
	if err == nil {
		err = r.Get(ctx, []pack.ID{id}, func(_ int, _ pack.Type, body []byte) error {
			b = bytes.Clone(body)
			return nil
		})
	}
	var none *repo.NotFoundError
	var missing *repo.MissingError
	if errors.As(err, &none) || errors.As(err, &missing) {
		s.gone++
		s.a.ui.warn(rev, errors.New("there is no such object"))
		return nil, nil
	}
	return b, err
}

// listedReader reads the objects of a list as one stream.
type listedReader struct {
	s     *splitRun
	ctx   context.Context
	r     repository
	lines *bufio.Scanner
	left  []byte
}

// Read reads from the object whose turn it is.
func (l *listedReader) Read(p []byte) (int, error) {
	for len(l.left) == 0 {
		if !l.lines.Scan() {
			return 0, errors.Join(l.lines.Err(), io.EOF)
		}
		var err error
		if l.left, err = l.s.object(l.ctx, l.r, l.lines.Text()); err != nil {
			return 0, err
		}
	}
	n := copy(p, l.left)
	l.left = l.left[n:]
	return n, nil
}

// only splits and keeps nothing: what the bytes cost that are read and cut, and with
// --copy written.
func (s *splitRun) only(ctx context.Context, o *save.SplitOptions) error {
	split, err := chunk.Parse(o.Chunker)
	if err != nil {
		return err
	}
	var in io.Reader
	c := cutter{s: s, split: split, buf: make([]byte, 0, max(1<<20, 2*(split.Max()+split.Min())))}
	for _, i := range o.Inputs {
		f, err := i.Open(ctx)
		if err != nil {
			return err
		}
		in = f
		err = c.read(ctx, in)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err == nil && o.Apart {
			err = c.cut(true)
		}
		if err != nil {
			return err
		}
	}
	return c.cut(true)
}

// cutter cuts a stream and forgets it.
type cutter struct {
	s     *splitRun
	split *chunk.Splitter
	marks chunk.Marks
	cuts  []chunk.Cut
	buf   []byte
}

func (c *cutter) read(ctx context.Context, in io.Reader) error {
	for {
		if len(c.buf) == cap(c.buf) {
			if err := c.cut(false); err != nil {
				return err
			}
		}
		n, err := in.Read(c.buf[len(c.buf):cap(c.buf)])
		c.buf = c.buf[:len(c.buf)+n]
		c.s.bytes += int64(n)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}

// cut cuts what there is, and writes it with --copy.
func (c *cutter) cut(last bool) error {
	c.cuts = c.split.SplitWide(c.s.a.workers(), &c.marks, c.cuts[:0], c.buf, last)
	end := 0
	for _, k := range c.cuts {
		if c.s.o.copy {
			if err := c.s.a.print(c.buf[end:k.End]); err != nil {
				return err
			}
		}
		end = k.End
	}
	if end == 0 && len(c.buf) == cap(c.buf) {
		return fmt.Errorf("no end of a chunk in %d bytes", len(c.buf))
	}
	c.buf = c.buf[:copy(c.buf, c.buf[end:])]
	return nil
}
