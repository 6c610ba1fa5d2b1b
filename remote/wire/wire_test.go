package wire

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// unhex reads hexadecimal digits between white space.
func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestExample: the Add that the documentation shows.
func TestExample(t *testing.T) {
	want := unhex(t, `0000002d 08 00 0000 00000007 01 00 ce013625030ba8dba906f756967f9e9ca394464a
		1ea9c370 12 36 7801010600f9ff68656c6c6f0a084b021f`)
	entry := unhex(t, "36 7801010600f9ff68656c6c6f0a084b021f")
	e := pack.Entry{ID: pack.Sum(pack.Blob, []byte("hello\n")), CRC: 0x1ea9c370, Bytes: entry}
	var out bytes.Buffer
	w := NewWriter(&out)
	if err := errors.Join(w.Send(Add, 7, append(AppendAdded(AppendAdd(nil, 1, repo.Data), &e), entry...)), w.Flush()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), want) {
		t.Errorf("%x", out.Bytes())
	}
	kind, tag, body, err := NewReader(bufio.NewReader(&out)).Next(nil)
	if err != nil || kind != Add || tag != 7 {
		t.Fatal(kind, tag, err)
	}
	m, err := ParseAdd(nil, body)
	if err != nil || m.Session != 1 || m.Class != repo.Data || len(m.Entries) != 1 || m.Entries[0].ID != e.ID ||
		m.Entries[0].CRC != crc32.ChecksumIEEE(entry) || !bytes.Equal(m.Entries[0].Bytes, entry) {
		t.Errorf("%+v, %v", m, err)
	}
	if body, typ, n, err := pack.NewDecoder(1<<20).Append(nil, entry); err != nil || typ != pack.Blob || n != len(entry) || string(body) != "hello\n" {
		t.Errorf("the entry is a %v of %q, %d bytes, %v", typ, body, n, err)
	}
}

// again reads a message and writes it again.
type again func(b []byte) ([]byte, error)

// written is what Append gives for what a parser returned.
func written(m interface{ Append([]byte) []byte }, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return m.Append(nil), nil
}

// messages are the parsers of all messages that have one form only, and a message for each with
// something in every field.
func messages() (parse []again, text [][]byte) {
	id := pack.Sum(pack.Blob, []byte("hello\n"))
	add := func(f again, m interface{ Append([]byte) []byte }) {
		parse, text = append(parse, f), append(text, m.Append(nil))
	}
	packs := PackList{{Name: id, Size: 1 << 40, IdxSize: 1072, Closed: true}, {Name: id}}
	refs := RefList{{Name: "refs/heads/etc", ID: id}, {Name: "refs/tags/x", ID: id}}
	add(func(b []byte) ([]byte, error) { m, err := ParseOpen(b); return written(&m, err) },
		&OpenRequest{Create: true, Path: "build", Chunker: "gear:14", Expect: -5})
	add(func(b []byte) ([]byte, error) { m, err := ParseInfo(b); return written(&m, err) }, &Info{
		Path: "build", Rights: MayRead | MayAppend, Principal: "SHA256:x", Created: true, Globs: []string{"web-*", "refs/tags/*"},
		Config: repo.Config{Version: 1, ID: "id", Chunker: "rabin:13", SplitTrees: true, PackSizeLimit: 1 << 30, PackObjects: 7, Compression: -1},
	})
	add(func(b []byte) ([]byte, error) { m, err := ParseNames(b); return written(m, err) }, Names{"", "a", "b"})
	add(func(b []byte) ([]byte, error) { m, err := ParseRefs(b); return written(m, err) }, refs)
	add(func(b []byte) ([]byte, error) { m, err := ParseIDs(nil, b); return written(IDs(m), err) }, IDs{id, id})
	add(func(b []byte) ([]byte, error) { m, err := ParseMissing(b); return written(&m, err) }, &MissingRequest{Session: 3, IDs: IDs{id}})
	add(func(b []byte) ([]byte, error) { m, err := ParseCommits(b); return written(&m, err) }, &CommitsRequest{Tip: id, Skip: 300})
	add(func(b []byte) ([]byte, error) { m, err := ParsePacks(b); return written(m, err) }, packs)
	add(func(b []byte) ([]byte, error) { m, err := ParseSession(b); return written(&m, err) }, &Session{ID: 9, Packs: packs})
	add(func(b []byte) ([]byte, error) { m, err := ParseNumber(b); return written(m, err) }, Number(1<<32-1))
	add(func(b []byte) ([]byte, error) { m, err := ParseRead(b); return written(&m, err) }, &ReadRequest{Name: "config", Off: 1 << 40, N: MaxFrame})
	add(func(b []byte) ([]byte, error) { m, err := ParseCheck(b); return written(&m, err) }, &CheckRequest{Quick: true, Names: Names{"x"}})
	add(func(b []byte) ([]byte, error) { m, err := ParseStateRequest(b); return written(m, err) },
		StateRequest{{Name: "config", Size: 300, Sum: sha256.Sum256(nil)}, {Name: "kedge/receipts"}})
	add(func(b []byte) ([]byte, error) { m, err := ParseStateReply(b); return written(&m, err) },
		&StateReply{Head: "refs/heads/main", Refs: refs, Files: []Part{{Name: "config", Size: 5, From: 2, Bytes: []byte("abc")}}})
	add(func(b []byte) (list []byte, err error) {
		var m FileList
		err = EachFile(b, func(f FileInfo) error { m = append(m, f); return nil })
		return written(m, err)
	}, FileList{{Name: "objects/pack/pack-x.pack", Size: 1 << 40}, {Name: "HEAD", Size: -1}})
	return parse, text
}

// TestMessages: what is written is read, and nothing else is: not cut short, not with more behind.
func TestMessages(t *testing.T) {
	parse, text := messages()
	for i, good := range text {
		if got, err := parse[i](good); err != nil || !bytes.Equal(got, good) {
			t.Errorf("message %d: %x came as %x, %v", i, good, got, err)
		}
		for n := range good {
			if got, err := parse[i](good[:n]); err == nil && !bytes.Equal(got, good[:n]) {
				t.Errorf("message %d, cut to %d bytes: %x", i, n, got)
			} else if err != nil && !errors.Is(err, ErrProtocol) {
				t.Errorf("message %d, cut to %d bytes: %v", i, n, err)
			}
		}
	}
}

// FuzzMessages: no message makes a parser panic or take memory for what did not come, and
// what is accepted has one form only.
func FuzzMessages(f *testing.F) {
	parse, text := messages()
	for i, b := range text {
		f.Add(byte(i), b)
	}
	f.Fuzz(func(t *testing.T, i byte, b []byte) {
		got, err := parse[int(i)%len(parse)](b)
		switch {
		case err != nil && !errors.Is(err, ErrProtocol):
			t.Error(err)
		case err == nil && !bytes.Equal(got, b):
			t.Errorf("%x came as %x", b, got)
		}
	})
}

// FuzzReader: no bytes make the reader of frames panic, or return more than there are.
func FuzzReader(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01\x02\x00\x00\x00\x00\x00\x00\x07x"))
	f.Add([]byte("\x00\x00\x00\x01\x08\x01\x00\x00\x00\x00\x00\x07x\x00\x00\x00\x01\x08\x00\x00\x00\x00\x00\x00\x07y"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(bufio.NewReader(bytes.NewReader(b)))
		for sum := 0; ; {
			kind, _, body, err := r.Next(nil)
			if err != nil {
				if err != io.EOF && err != io.ErrUnexpectedEOF && !errors.Is(err, ErrProtocol) {
					t.Error(err)
				}
				return
			}
			if sum += headSize + len(body); sum > len(b) || len(body) > kind.Limit() {
				t.Fatalf("%d bytes came out of %d", sum, len(b))
			}
		}
	})
}

// TestMatchRef: globs name saves, or refs if they say so.
func TestMatchRef(t *testing.T) {
	for _, test := range []struct {
		globs string
		ref   string
		want  bool
	}{
		{"", "refs/heads/x", true}, {"", "refs/tags/x", true},
		{"web-*", "refs/heads/web-1", true}, {"web-*", "refs/heads/web", false}, {"web-*", "refs/tags/web-1", false},
		{"web-* db", "refs/heads/db", true}, {"w?b", "refs/heads/wab", true}, {"*", "refs/heads/a/b", false},
		{"a/*", "refs/heads/a/b", true}, {"refs/tags/*", "refs/tags/x", true}, {"refs/tags/*", "refs/heads/x", false},
		{"refs/heads/*", "refs/heads/x", true}, {"[", "refs/heads/[", false},
	} {
		if got := MatchRef(strings.Fields(test.globs), test.ref); got != test.want {
			t.Errorf("%q, %s: %v", test.globs, test.ref, got)
		}
	}
}
