package repo

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/chunk"
	"github.com/kedgebackup/kedge/pack"
)

// streamS returns the first n bytes of the stream of the vectors: the SHA-1
// digests of "0", "1", "2", … one after another.
func streamS(n int) []byte {
	b := make([]byte, 0, n+sha1.Size)
	for i := 0; len(b) < n; i++ {
		sum := sha1.Sum(strconv.AppendInt(nil, int64(i), 10))
		b = append(b, sum[:]...)
	}
	return b[:n]
}

// memObjects is an object store in memory.
type memObjects map[pack.ID]memObject

type memObject struct {
	t    pack.Type
	body []byte
}

func (m memObjects) add(t pack.Type, body []byte) (pack.ID, error) {
	id := pack.Sum(t, body)
	if _, ok := m[id]; !ok {
		m[id] = memObject{t, slices.Clone(body)}
	}
	return id, nil
}

func (m memObjects) addTree(body []byte) (pack.ID, error) { return m.add(pack.Tree, body) }

// tree returns the entries of a stored tree, as "mode name id".
func (m memObjects) tree(t testing.TB, id pack.ID) []string {
	t.Helper()
	var out []string
	err := ParseTree(m[id].body, func(e TreeEntry) error {
		out = append(out, fmt.Sprintf("%06o %s %v", e.Mode, e.Name, e.ID))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// splitInto cuts data and feeds the chunks to a ChunkTree.
func (m memObjects) splitInto(t testing.TB, ct *ChunkTree, chunker string, data []byte) {
	t.Helper()
	s, err := chunk.Parse(chunker)
	if err != nil {
		t.Fatal(err)
	}
	ct.Emit = m.addTree
	ct.Reset()
	start := 0
	for _, c := range s.Split(nil, data, true) {
		id, _ := m.add(pack.Blob, data[start:c.End])
		if err := ct.Add(id, int64(c.End-start), c.Level); err != nil {
			t.Fatal(err)
		}
		start = c.End
	}
}

// splitT is what "split -t" prints, splitN what "split -n" makes of a file.
func (m memObjects) splitT(t testing.TB, chunker string, data []byte) pack.ID {
	t.Helper()
	var ct ChunkTree
	m.splitInto(t, &ct, chunker, data)
	id, err := ct.FinishTree()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (m memObjects) splitN(t testing.TB, chunker string, data []byte) TreeEntry {
	t.Helper()
	var ct ChunkTree
	m.splitInto(t, &ct, chunker, data)
	e, ok, err := ct.Finish()
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		e.Mode = ModeFile
		e.ID, _ = m.add(pack.Blob, nil)
	}
	return e
}

// vectorE is 127 bytes that bup 0.33 and its successors cut apart differently.
func vectorE() []byte {
	mid, err := hex.DecodeString("887a8724a67d708652431decb6427f9b15d9e4fc1b58c1ffa09d8e51b7bc2fdb7cba30b47c21bb9f16b506c53101015bec376ebf2246cd5ee030" +
		"8bf55dbf4d3d4427ca525d729336196f036e06e262c0984cadbec13763ad04d8e462540b86ef772a216e477f7ab80965e6103259d241f8757a1c" +
		"be5653dc7d89b167977934")
	if err != nil {
		panic(err)
	}
	return slices.Concat(make([]byte, 32704), mid, make([]byte, 98304))
}

// TestChunkTreeVectors: the ids that "bup split -t" prints.
func TestChunkTreeVectors(t *testing.T) {
	s := streamS(20000000)
	for _, v := range []struct {
		name, chunker string
		data          []byte
		want          string
	}{
		{"A", "rollsum:13", s[:300000], "529a04bc982d5f809a8706722b4ef8f7c69a7c40"},
		{"B", "rollsum:13", s[:1000000], "8fe3a8e7a7d5c742f6db4c2cd1f81141daccf1f9"},
		{"C", "rollsum:13", s, "f130bc394aafec65b85b23dd24a2b5f74a92222a"},
		{"C 14", "rollsum:14", s, "6f4db5dd7d5f3f1570535b5db217931213cc4d66"},
		{"C 16", "rollsum:16", s, "1e5d48571c1863235d2498b953c28005c1958702"},
		{"C 17", "rollsum:17", s, "e43b63d44491ca1f3600630eb76c9f5272aa3006"},
		{"C 19", "rollsum:19", s, "1412dda9d060f6317f10aae6d9c3123206abc789"},
		{"C 20", "rollsum:20", s, "9cab94d49023d759d79877a7445c3d6b76d0673b"},
		{"C 21", "rollsum:21", s, "6eb1f301739516f940e49ceed871042eaddba89a"},
		{"D zeros", "rollsum:13", make([]byte, 100000), "198e33e995a34ca1701bd035c351ede6c1de4ff0"},
		{"D ones", "rollsum:13", slices.Repeat([]byte{1}, 100000), "6f0929477c1214f009040c9ffa571bf17d36fd8f"},
		{"D 256 entries", "rollsum:13", make([]byte, 600*32768+5), "863fc491e9b75913dad16148dda1ac011289be98"},
		{"D last of level 1", "rollsum:13", s[:112867], "0c620a49cc7f8c02df9ab9cc99c347ae06c3b946"},
		{"D two chunks", "rollsum:13", s[:30472], "28a781861104166af04faeccb323a72c5c154ca9"},
		{"D one byte over", "rollsum:13", s[:5650], "3d312c513a9a92ccf19cdee2b0e756ba764150bd"},
		{"D hello", "rollsum:13", []byte("hello\n"), "c2c6852a36806dc8ffcd0830864e17e4f2d44592"},
		{"empty", "rollsum:13", nil, "4b825dc642cb6eb9a060e54bf8d69288fbee4904"},
		{"E", "rollsum:13", vectorE(), "bb8653617bd793eebc143de510ba095b20df0fde"},
	} {
		if got := (memObjects{}).splitT(t, v.chunker, v.data).String(); got != v.want {
			t.Errorf("%s: %s, want %s", v.name, got, v.want)
		}
	}
}

func TestChunkTreeNames(t *testing.T) {
	m := memObjects{}
	got := m.tree(t, m.splitT(t, "rollsum:13", streamS(300000)))
	want := []string{
		"040000 00000 037a6f42761498ce032fc1be51b6c1aa8896e372",
		"040000 1b8e3 07bedc7fe2728abe54883074462acd03f98395e5",
		"040000 1ccba e3ac51d148ad5f2cd35f202b5dde9dfc225fc509",
		"100644 46fe8 4eab13fdc1b4dadc2559261a655c9e55962d831e",
	}
	if !slices.Equal(got, want) {
		t.Errorf("entries %q\nwant %q", got, want)
	}
}

// TestChunkTreeFinish: what a directory holds is never a tree of one entry.
func TestChunkTreeFinish(t *testing.T) {
	m := memObjects{}
	for _, v := range []struct {
		n    int
		mode uint32
		want string
	}{
		{0, ModeFile, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"},
		{5649, ModeFile, "2aba17f98824f0537224784c18f27869acf8ec3f"},
		{30472, ModeDir, "28a781861104166af04faeccb323a72c5c154ca9"},
		{112867, ModeDir, "037a6f42761498ce032fc1be51b6c1aa8896e372"},
		{300000, ModeDir, "529a04bc982d5f809a8706722b4ef8f7c69a7c40"},
	} {
		e := m.splitN(t, "rollsum:13", streamS(v.n))
		if e.Mode != v.mode || e.ID.String() != v.want {
			t.Errorf("%d bytes: %o %v, want %o %s", v.n, e.Mode, e.ID, v.mode, v.want)
		}
	}
}

// TestChunkTreeMemory: chunks are held in a few lists, with no
// allocation for each.
func TestChunkTreeMemory(t *testing.T) {
	id := someID(1)
	var longest, trees int
	ct := ChunkTree{Emit: func(body []byte) (pack.ID, error) {
		trees++
		longest = max(longest, len(body))
		return id, nil
	}}
	level := func(i int) uint8 { return uint8(min(4, (i&-i)>>4)) }
	for i := 1; i < 300000; i++ {
		ct.Add(id, 1<<16, level(i))
	}
	i := 300000
	if n := testing.AllocsPerRun(100000, func() { ct.Add(id, 1<<16, level(i)); i++ }); n != 0 {
		t.Errorf("Add allocates %v times", n)
	}
	if len(ct.lists) > 16 || longest > maxFan*(len("100644 ")+17+20) {
		t.Errorf("%d lists, tree of %d bytes", len(ct.lists), longest)
	}
	if _, ok, err := ct.Finish(); err != nil || !ok || trees == 0 {
		t.Error(ok, err, trees)
	}
	if ct.Size() != int64(i-1)<<16 {
		t.Errorf("size %d", ct.Size())
	}
}

func TestChunkTreeRefuses(t *testing.T) {
	ct := ChunkTree{Emit: func([]byte) (pack.ID, error) { return someID(2), nil }}
	if ct.Add(someID(1), 0, 0) == nil {
		t.Error("a chunk without bytes was taken")
	}
	if err := ct.Add(someID(1), 1<<62, 0); err != nil {
		t.Error(err)
	}
	if ct.Add(someID(1), 1<<62, 0) == nil {
		t.Error("2^63 bytes were taken")
	}
}

// TestChunkTreeLevels: a level far above the lists in use wraps nothing twice.
func TestChunkTreeLevels(t *testing.T) {
	m := memObjects{}
	ct := ChunkTree{Emit: m.addTree}
	for i := range 3 {
		if err := ct.Add(someID(i), 10, uint8(200-i)); err != nil {
			t.Fatal(err)
		}
	}
	e, ok, err := ct.Finish()
	if err != nil || !ok || len(m) != 2 {
		t.Fatalf("%v %v %v, %d trees", e, ok, err, len(m))
	}
	// Every list that falls into the one above by itself falls as it is.
	top := m.tree(t, e.ID)
	if len(top) != 2 || top[0] != "100644 00 "+someID(0).String() || !strings.HasPrefix(top[1], "040000 0a ") {
		t.Fatalf("top %q", top)
	}
	want := []string{"100644 00 " + someID(1).String(), "100644 0a " + someID(2).String()}
	if got := m.tree(t, mustID(top[1][len("040000 0a "):])); !slices.Equal(got, want) {
		t.Errorf("below %q", got)
	}
}

func BenchmarkChunkTree(b *testing.B) {
	h := pack.NewHasher()
	ct := ChunkTree{Emit: func(body []byte) (pack.ID, error) { return h.Sum(pack.Tree, body) }}
	id := someID(1)
	for i := 0; b.Loop(); i++ {
		ct.Add(id, 10000, uint8(min(4, (i&-i)>>4)))
	}
	b.ReportAllocs()
}
