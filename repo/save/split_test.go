package save

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // the vectors are made of it
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"testing"
	"testing/iotest"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// digests returns the first n bytes of the digests of "0", "1", "2" and so on.
func digests(n int) []byte {
	b := make([]byte, 0, n+20)
	for i := 0; len(b) < n; i++ {
		sum := sha1.Sum([]byte(strconv.Itoa(i))) //nolint:gosec // see above
		b = append(b, sum[:]...)
	}
	return b[:n]
}

func input(b []byte) Input {
	return Input{Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(iotest.HalfReader(bytes.NewReader(b))), nil
	}}
}

// The trees of streams are those that bup's split -t prints.
func TestSplitVectors(t *testing.T) {
	s := digests(20_000_000)
	odd, err := hex.DecodeString("887a8724a67d708652431decb6427f9b15d9e4fc1b58c1ffa09d8e51b7bc2fdb7cba30b47c21bb9f16b506c53101015bec376ebf2246cd5ee030" +
		"8bf55dbf4d3d4427ca525d729336196f036e06e262c0984cadbec13763ad04d8e462540b86ef772a216e477f7ab80965e6103259d241f8757a1c" +
		"be5653dc7d89b167977934")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		chunker string
		data    []byte
		tree    string
		chunks  int
	}{
		{"rollsum:13", s[:300_000], "529a04bc982d5f809a8706722b4ef8f7c69a7c40", 44},
		{"rollsum:13", s[:1_000_000], "8fe3a8e7a7d5c742f6db4c2cd1f81141daccf1f9", 131},
		{"rollsum:13", s, "f130bc394aafec65b85b23dd24a2b5f74a92222a", 2473},
		{"rollsum:14", s, "6f4db5dd7d5f3f1570535b5db217931213cc4d66", 1242},
		{"rollsum:16", s, "1e5d48571c1863235d2498b953c28005c1958702", 355},
		{"rollsum:17", s, "e43b63d44491ca1f3600630eb76c9f5272aa3006", 169},
		{"rollsum:19", s, "1412dda9d060f6317f10aae6d9c3123206abc789", 44},
		{"rollsum:20", s, "9cab94d49023d759d79877a7445c3d6b76d0673b", 20},
		{"rollsum:21", s, "6eb1f301739516f940e49ceed871042eaddba89a", 9},
		{"rollsum:13", make([]byte, 100_000), "198e33e995a34ca1701bd035c351ede6c1de4ff0", 4},
		{"rollsum:13", bytes.Repeat([]byte{1}, 100_000), "6f0929477c1214f009040c9ffa571bf17d36fd8f", 4},
		{"rollsum:13", make([]byte, 600*32768+5), "863fc491e9b75913dad16148dda1ac011289be98", 601},
		{"rollsum:13", s[:112_867], "0c620a49cc7f8c02df9ab9cc99c347ae06c3b946", -1},
		{"rollsum:13", s[:30_472], "28a781861104166af04faeccb323a72c5c154ca9", 2},
		{"rollsum:13", s[:5650], "3d312c513a9a92ccf19cdee2b0e756ba764150bd", 2},
		{"rollsum:13", []byte("hello\n"), "c2c6852a36806dc8ffcd0830864e17e4f2d44592", 1},
		{"rollsum:13", nil, "4b825dc642cb6eb9a060e54bf8d69288fbee4904", 0},
		{"rollsum:13", append(append(make([]byte, 32704), odd...), make([]byte, 98304)...), "bb8653617bd793eebc143de510ba095b20df0fde", 6},
	} {
		name := fmt.Sprintf("%s of %d bytes", tt.chunker, len(tt.data))
		for _, workers := range []int{1, 4} {
			o := SplitOptions{Chunker: tt.chunker, Inputs: []Input{input(tt.data)}, Level: -1, Workers: workers}
			res, err := Split(t.Context(), o)
			if err != nil || res.Tree.String() != tt.tree || res.BytesRead != int64(len(tt.data)) {
				t.Errorf("%s: tree %v, %d bytes, %v", name, res.Tree, res.BytesRead, err)
			}
			n := 0
			o.Blobs = func(pack.ID) error { n++; return nil }
			if _, err := Split(t.Context(), o); err != nil || n != tt.chunks && tt.chunks >= 0 {
				t.Errorf("%s: %d chunks, want %d, %v", name, n, tt.chunks, err)
			}
		}
	}
}

// Several inputs are one stream, unless they are kept apart.
func TestSplitInputs(t *testing.T) {
	s := digests(300_000)
	split := func(apart bool, parts ...[]byte) (list []pack.ID) {
		o := SplitOptions{Chunker: "rollsum:13", Apart: apart, Level: -1, Blobs: func(id pack.ID) error {
			list = append(list, id)
			return nil
		}}
		for _, p := range parts {
			o.Inputs = append(o.Inputs, input(p))
		}
		if _, err := Split(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		return list
	}
	whole := split(false, s)
	if got := split(false, s[:7], nil, s[7:120_000], s[120_000:]); fmt.Sprint(got) != fmt.Sprint(whole) {
		t.Error("several inputs are cut otherwise than their sum")
	}
	a, b := split(true, s[:120_000]), split(true, s[120_000:])
	if got := split(true, s[:120_000], nil, s[120_000:]); fmt.Sprint(got) != fmt.Sprint(append(a, b...)) {
		t.Error("inputs that are kept apart are cut otherwise than one by one")
	}
}

// What breaks ends the split, and no ref has moved.
func TestSplitFails(t *testing.T) {
	f := newBench(t, "rollsum:13")
	broken := errors.New("broken")
	for name, in := range map[string]Input{
		"open": {Open: func(context.Context) (io.ReadCloser, error) { return nil, broken }},
		"read": {Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(iotest.ErrReader(broken)), nil }},
		"close": {Open: func(context.Context) (io.ReadCloser, error) {
			return failingCloser{bytes.NewReader(digests(100_000)), broken}, nil
		}},
	} {
		_, err := Split(t.Context(), SplitOptions{Repo: f.repo, Name: "x", Author: "a <b@c>", Level: -1, Inputs: []Input{input(digests(300_000)), in}})
		if !errors.Is(err, broken) {
			t.Errorf("%s: %v", name, err)
		}
		if refs, err := f.repo.Refs(t.Context(), "refs/"); err != nil || len(refs) > 0 {
			t.Errorf("%s: refs %v, %v", name, refs, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Split(ctx, SplitOptions{Repo: f.repo, Name: "x", Level: -1, Inputs: []Input{input(digests(10))}}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

type failingCloser struct {
	io.Reader
	err error
}

func (c failingCloser) Close() error { return c.err }

// Join brings back what Split stored, by the tree, the commit and the ref; and says what
// is not there.
func TestSplitJoin(t *testing.T) {
	f := newBench(t, "rollsum:13")
	for _, n := range []int{0, 1, 5000, 3_000_000} {
		data := digests(n)
		copy(data[n/2:], make([]byte, n/3))
		for _, name := range []string{"x", ""} {
			res, err := Split(t.Context(), SplitOptions{Repo: f.repo, Name: name, Commit: true, Author: "a <b@c>", Level: -1, Inputs: []Input{input(data)}})
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range []pack.ID{res.Tree, res.Commit} {
				var out bytes.Buffer
				if k, err := repo.Join(t.Context(), f.repo, id, &out); err != nil || k != int64(n) || !bytes.Equal(out.Bytes(), data) {
					t.Errorf("%d bytes: %d are joined, %v", n, k, err)
				}
			}
			if id, err := repo.Revision(t.Context(), f.repo, "x"); name != "" && (err != nil || id != res.Commit) {
				t.Errorf("x is %v, %v, not %v", id, err, res.Commit)
			}
		}
	}
	var missing *repo.MissingError
	var none *repo.NotFoundError
	if _, err := repo.Join(t.Context(), f.repo, pack.Sum(pack.Blob, []byte("nowhere")), io.Discard); !errors.As(err, &missing) && !errors.As(err, &none) {
		t.Errorf("a blob that is not there: %v", err)
	}
	full := errors.New("full")
	id, err := repo.Revision(t.Context(), f.repo, "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Join(t.Context(), f.repo, id, failingWriter{full}); !errors.Is(err, full) {
		t.Errorf("a writer that fails: %v", err)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }
