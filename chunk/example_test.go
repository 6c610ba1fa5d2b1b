package chunk_test

import (
	"fmt"
	"io"
	"log"
	"strings"

	"github.com/kedgebackup/kedge/chunk"
)

// A stream is cut as it is read: what is not yet decided moves to the front of
// the buffer, and more is read behind it.
func ExampleSplitter_Split() {
	s, err := chunk.Parse("rabin:10")
	if err != nil {
		log.Fatal(err)
	}
	in := strings.NewReader(strings.Repeat("content decides where it is cut\n", 300) + strings.Repeat("\x00", 20000))
	buf := make([]byte, 2*(s.Max()+s.Min()))
	var cuts []chunk.Cut
	for held, last := 0, false; !last; {
		n, err := io.ReadFull(in, buf[held:])
		if last = err == io.EOF || err == io.ErrUnexpectedEOF; err != nil && !last {
			log.Fatal(err)
		}
		held += n
		cuts = s.Split(cuts[:0], buf[:held], last)
		start := 0
		for _, c := range cuts {
			fmt.Printf("%d bytes, level %d, zero %v\n", c.End-start, c.Level, c.Zero)
			start = c.End
		}
		held = copy(buf, buf[start:held])
	}
	// Output:
	// 8192 bytes, level 0, zero false
	// 1472 bytes, level 0, zero false
	// 8192 bytes, level 0, zero true
	// 8192 bytes, level 0, zero true
	// 3552 bytes, level 0, zero true
}
