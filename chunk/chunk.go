package chunk

// Cut is the end of a chunk in a slice.
type Cut struct {
	End   int   // offset of the first byte after the chunk
	Level uint8 // 0, or how many tree levels the chunk closes (see package repo)
	Zero  bool  // every byte of the chunk is zero
}

// Splitter finds the ends of chunks. It holds tables and no state between
// calls: the same bytes give the same cuts. It may be used by several
// goroutines at once.
type Splitter struct{}

// Parse returns the splitter a repository names: "rabin:N", "gear:N" or
// "rollsum:N".
func Parse(name string) (*Splitter, error) { panic("stub") }

// String returns the name that Parse takes.
func (s *Splitter) String() string { panic("stub") }

// Min and Max return the smallest and the largest size of a chunk that is not
// the last of its input.
func (s *Splitter) Min() int { panic("stub") }

// Max returns the largest size of a chunk.
func (s *Splitter) Max() int { panic("stub") }

// Split appends to dst the cuts of buf, which begins where a chunk begins.
// With last, buf ends where the input ends, and all of it is cut. Without,
// bytes stay behind the last cut whose chunk is not yet decided: the caller
// gives them again, in front of more input. They are never more than
// Max()+Min() bytes, so a buffer larger than that always makes progress.
func (s *Splitter) Split(dst []Cut, buf []byte, last bool) []Cut { panic("stub") }
