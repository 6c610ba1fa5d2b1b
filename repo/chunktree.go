package repo

import (
	"errors"
	"math"
	"math/bits"

	"github.com/kedgebackup/kedge/pack"
)

// maxFan is the largest number of entries of a tree of chunks.
const maxFan = 256

// ChunkTree turns the chunks of one file into trees. It is reused with Reset.
//
// It keeps lists L0, L1, L2, … of entries (mode, id, bytes below). A chunk of
// level n joins L0; then the lists 0 to n-1, and further ones that have come to
// 256 entries, are closed from the bottom up. Closing a list moves its entries
// to the next: a single entry as it is, several as one tree over them. So the
// chunks of a higher level, which the content places, decide where trees end,
// and an insertion changes only the trees above it.
//
// At the end of the file the lists below the highest are closed the same way.
// The entries of the highest are what the file comes to.
//
// Inside a tree an entry is named by its offset relative to that tree, in lower
// case hex of as many digits as the size of the whole tree has. The first
// 300,000 bytes of the stream that the tests use become:
//
//	40000  00000    tree of the chunks up to offset 0x1b8e3, a chunk of level 1
//	40000  1b8e3
//	40000  1ccba
//	100644 46fe8    the last chunk, alone in L0: no tree around it
//
// Memory is at most 256 entries for each level, whatever the size of the file.
type ChunkTree struct {
	// Emit stores a tree and returns its id. Body is valid during the call.
	Emit func(body []byte) (pack.ID, error)

	lists [][]chunkEntry // as many as were in use since Reset, their arrays kept
	depth int            // lists in use
	total int64
	body  []byte
}

// chunkEntry is an entry of a list: a chunk, or a tree of them.
type chunkEntry struct {
	mode uint32
	id   pack.ID
	size int64
}

// Reset forgets everything but Emit.
func (t *ChunkTree) Reset() {
	for i := range t.depth {
		t.lists[i] = t.lists[i][:0]
	}
	t.depth, t.total = 0, 0
}

// Size returns the sum of the sizes of the chunks so far.
func (t *ChunkTree) Size() int64 { return t.total }

// Add appends a chunk.
func (t *ChunkTree) Add(id pack.ID, size int64, level uint8) error {
	if size <= 0 || t.total > math.MaxInt64-size {
		return errors.New("chunk tree: chunk without bytes, or too many bytes")
	}
	t.total += size
	t.push(0, chunkEntry{ModeFile, id, size})
	return t.close(int(level))
}

func (t *ChunkTree) push(i int, e chunkEntry) {
	if i == len(t.lists) {
		t.lists = append(t.lists, make([]chunkEntry, 0, maxFan))
	}
	t.depth = max(t.depth, i+1)
	t.lists[i] = append(t.lists[i], e)
}

// close closes the lists below n, and whatever is full above them.
func (t *ChunkTree) close(n int) error {
	for i := 0; i < n || len(t.lists[i]) >= maxFan; i++ {
		if err := t.seal(i); err != nil {
			return err
		}
	}
	return nil
}

// seal moves the entries of list i to list i+1.
func (t *ChunkTree) seal(i int) error {
	if len(t.lists[i]) == 0 {
		return nil // only at the end of the file: the last chunk closed it
	}
	e := t.lists[i][0]
	if len(t.lists[i]) > 1 {
		var err error
		if e, err = t.emit(t.lists[i]); err != nil {
			return err
		}
	}
	t.lists[i] = t.lists[i][:0]
	t.push(i+1, e)
	return nil
}

// emit stores a tree over a list.
func (t *ChunkTree) emit(list []chunkEntry) (chunkEntry, error) {
	var total int64
	for i := range list {
		total += list[i].size
	}
	width := hexWidth(total)
	var name [16]byte
	var off int64
	t.body = t.body[:0]
	for i := range list {
		hexName(name[:width], off)
		t.body = appendTreeEntry(t.body, list[i].mode, name[:width], list[i].id)
		off += list[i].size
	}
	id, err := t.Emit(t.body)
	return chunkEntry{ModeDir, id, total}, err
}

// hexWidth returns the number of hex digits of n.
func hexWidth(n int64) int { return max(1, (bits.Len64(uint64(n))+3)/4) }

// hexName fills dst with the lowest digits of n.
func hexName(dst []byte, n int64) {
	for i := len(dst) - 1; i >= 0; i-- {
		dst[i] = "0123456789abcdef"[n&15]
		n >>= 4
	}
}

// result closes the lists and returns the highest.
func (t *ChunkTree) result() ([]chunkEntry, error) {
	if t.depth == 0 {
		return nil, nil
	}
	if err := t.close(t.depth - 1); err != nil {
		return nil, err
	}
	return t.lists[t.depth-1], nil
}

// Finish returns what a directory entry holds for the file: a blob for one
// chunk, a tree for more. With no chunk at all ok is false: the entry is the
// empty blob, which the caller stores. The entry has no name.
func (t *ChunkTree) Finish() (e TreeEntry, ok bool, err error) {
	list, err := t.result()
	if err != nil || len(list) == 0 {
		return TreeEntry{}, false, err
	}
	top := list[0]
	if len(list) > 1 {
		if top, err = t.emit(list); err != nil {
			return TreeEntry{}, false, err
		}
	}
	return TreeEntry{Mode: top.mode, ID: top.id}, true, nil
}

// FinishTree is Finish for "split -t": the result is a tree even for one chunk,
// and the empty tree for none.
func (t *ChunkTree) FinishTree() (pack.ID, error) {
	list, err := t.result()
	if err != nil {
		return pack.ID{}, err
	}
	top, err := t.emit(list)
	return top.id, err
}
