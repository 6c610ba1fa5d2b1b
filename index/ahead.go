package index

// This file is where the walk meets its workers.

// chunk returns the descriptions of the chunk that a name is in, and sees to it
// that the next ones are asked for.
func (w *walk) chunk(f *frame, name int) (*chunk, error) {
	n := name / chunkSize
	if c := f.l.chunks[n]; c != nil && c.ready && name%chunkSize != 0 {
		return c, nil
	}
	if n > 0 && name%chunkSize == 0 {
		w.fetch.releaseChunk(f.l.chunks[n-1])
		f.l.chunks[n-1] = nil
	}
	path := ""
	for i := n; i < min(n+ahead, len(f.l.chunks)); i++ {
		if f.l.chunks[i] != nil {
			continue
		}
		if path == "" {
			path = string(pathOf(stringOf(w.path[:f.key])))
		}
		c := w.fetch.newChunk()
		f.l.chunks[i] = c
		w.fetch.jobs <- job{l: f.l, chunk: c, first: i * chunkSize, dir: f.dir, path: path}
	}
	c := f.l.chunks[n]
	c.wait()
	w.lookAhead(f)
	return c, w.ctx.Err()
}

func (c *chunk) wait() {
	if !c.ready {
		<-c.done
		c.ready = true
	}
}

func (l *listing) wait() {
	if !l.ready {
		<-l.done
		l.ready = true
	}
}

// lookAhead asks for the next sub-directories, as far as the chunks tell of them.
func (w *walk) lookAhead(f *frame) {
	if f.dir == nil {
		return
	}
	for ; len(f.pre) < ahead && f.preNext < len(f.l.names.list); f.preNext++ {
		i := f.preNext
		c := f.l.chunks[i/chunkSize]
		if c == nil {
			return
		}
		if !c.ready {
			select {
			case <-c.done:
				c.ready = true
			default:
				return
			}
		}
		if i < f.next || f.l.names.list[i].hide || c.errs != nil && c.errs[i%chunkSize] != nil {
			continue
		}
		if st := &c.st[i%chunkSize]; isDir(st.Mode) && !w.foreign(f, st) && !w.skipIDs[inode{st.Dev, st.Ino}] {
			f.pre = append(f.pre, opened{i, w.ask(f, i)})
		}
	}
}

// ask has a sub-directory opened.
func (w *walk) ask(f *frame, name int) *listing {
	l := w.fetch.newListing()
	base := f.l.names.at(name)
	w.fetch.jobs <- job{
		l: l, dir: f.dir, name: base, dev: f.st.Dev, root: f.above,
		path: string(w.path[:f.key]) + "/" + base,
	}
	return l
}

// opened returns a sub-directory once it is open.
func (w *walk) opened(f *frame, name int) *listing {
	var l *listing
	if len(f.pre) > 0 && f.pre[0].name == name {
		l = f.pre[0].l
		f.pre = append(f.pre[:0], f.pre[1:]...)
	} else {
		l = w.ask(f, name)
	}
	w.lookAhead(f)
	l.wait()
	return l
}

// discard gives up a sub-directory that was opened.
func (w *walk) discard(l *listing) {
	l.wait()
	if l.dir != nil {
		l.dir.Close()
		l.dir = nil
	}
	for _, c := range l.chunks {
		if c != nil {
			c.wait()
		}
	}
	w.fetch.release(l)
}

// shed gives up what was asked for in advance in a directory, after waiting for
// it, and forgets its descriptor. When the walk is back there, it asks again.
func (w *walk) shed(f *frame) {
	for _, o := range f.pre {
		w.discard(o.l)
	}
	f.pre, f.preNext, f.dir = nil, f.next, nil
	for i, c := range f.l.chunks {
		if c != nil {
			c.wait()
			w.fetch.releaseChunk(c)
			f.l.chunks[i] = nil
		}
	}
}
