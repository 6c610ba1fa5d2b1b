package chunk

import "sync"

// wideLeast is how many bytes are worth a goroutine: they take it fifty times as
// long as it takes to begin.
const wideLeast = 64 << 10

// Marks are the candidates of a whole buffer, found by several goroutines. The
// zero value is ready; used again and again, it allocates for the largest buffer
// only.
type Marks struct {
	// Bit e-1 stands for the end e, in words of which block k has those from
	// 1 + k·blockSize/64 on. Below window there is nothing to know.
	easy, hard []uint64
}

// SplitWide is Split on up to so many goroutines, for buffers of some hundred
// KiB of one stream. The cuts are the same. Candidates are looked for in all of
// the buffer, also where a chunk would be too short to end, so that it takes up to
// a third more CPU time than Split: it is for a stream that nothing else waits
// for, on processors that have nothing else to do.
func (s *Splitter) SplitWide(goroutines int, m *Marks, dst []Cut, buf []byte, last bool) []Cut {
	parts := min(goroutines, len(buf)/wideLeast)
	if parts < 2 {
		return s.Split(dst, buf, last)
	}
	m.scan(s, buf, parts)
	return s.split(m, dst, buf, last)
}

// scan finds the candidates of buf, in so many parts of about the same size.
func (m *Marks) scan(s *Splitter, buf []byte, parts int) {
	const words = blockSize / 64
	blocks := (max(len(buf)-window, 0) + blockSize - 1) / blockSize
	if n := 1 + blocks*words; cap(m.easy) < n {
		m.easy, m.hard = make([]uint64, n), make([]uint64, n)
	} else {
		m.easy, m.hard = m.easy[:n], m.hard[:n]
	}
	part := func(i int) {
		for k := i * blocks / parts; k < (i+1)*blocks/parts; k++ {
			var c candidates
			s.scan(&c, buf, window+k*blockSize)
			copy(m.easy[1+k*words:], c.easy[:])
			copy(m.hard[1+k*words:], c.hard[:])
		}
	}
	var wg sync.WaitGroup
	for i := 1; i < parts; i++ {
		wg.Go(func() { part(i) })
	}
	part(0)
	wg.Wait()
}

// load makes c the candidates of a block that begins at or before at, which have
// been found.
func (m *Marks) load(c *candidates, buf []byte, at int) {
	at &^= 63
	*c = candidates{at: at, to: min(at+blockSize, len(buf))}
	copy(c.easy[:], m.easy[at>>6:])
	copy(c.hard[:], m.hard[at>>6:])
}
