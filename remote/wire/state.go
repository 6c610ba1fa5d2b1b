package wire

import (
	"crypto/sha256"

	"github.com/kedgebackup/kedge/repo"
)

// StateRequest asks for what changes in a repository: for each file of which the client has
// a beginning text Name, uint Size, 32 bytes SHA-256, without a count.
type StateRequest []Beginning

// Beginning is the beginning of a file that a client has.
type Beginning struct {
	Name string
	Size int64
	Sum  [sha256.Size]byte
}

// Append appends the encoded message.
func (m StateRequest) Append(b []byte) []byte {
	for i := range m {
		b = putUint(putText(b, m[i].Name), uint64(m[i].Size))
		b = append(b, m[i].Sum[:]...)
	}
	return b
}

// ParseStateRequest reads a StateRequest.
func ParseStateRequest(b []byte) (m StateRequest, err error) {
	p := parser{b: b, what: "state"}
	for p.err == nil && len(p.b) > 0 {
		h := Beginning{Name: p.text(), Size: p.size()}
		copy(h.Sum[:], p.take(sha256.Size))
		m = append(m, h)
	}
	return m, p.end()
}

// StateReply is the state of a repository at one moment: text Head, list of refs (text Name,
// id ID), and for each file text Name, uint Size, uint From, bytes Bytes, without a count. A
// file whose beginning the client has comes from there on. What is too much for one message
// is asked for again, with the longer beginnings that the client has then.
type StateReply struct {
	Head  string
	Refs  []repo.Ref
	Files []Part
}

// Part is a part of a file.
type Part struct {
	Name  string
	Size  int64 // of the file
	From  int64 // where Bytes begin in it
	Bytes []byte
}

// Append appends the encoded message.
func (m *StateReply) Append(b []byte) []byte {
	b = RefList(m.Refs).Append(putText(b, m.Head))
	for i := range m.Files {
		f := &m.Files[i]
		b = putUint(putUint(putText(b, f.Name), uint64(f.Size)), uint64(f.From))
		b = AppendBody(b, f.Bytes)
	}
	return b
}

// ParseStateReply reads a StateReply, which keeps b.
func ParseStateReply(b []byte) (m StateReply, err error) {
	p := parser{b: b, what: "state"}
	m.Head = p.text()
	n := p.count(1 + idSize)
	m.Refs = make([]repo.Ref, 0, n)
	for range n {
		m.Refs = append(m.Refs, repo.Ref{Name: p.text(), ID: p.id()})
	}
	for p.err == nil && len(p.b) > 0 {
		f := Part{Name: p.text(), Size: p.size(), From: p.size(), Bytes: p.bytes()}
		if p.err == nil && (f.From > f.Size || int64(len(f.Bytes)) > f.Size-f.From) {
			p.fail("a part of a file is not in it")
		}
		m.Files = append(m.Files, f)
	}
	return m, p.end()
}

// EachFile calls fn for the files of a reply to List, which may be many.
func EachFile(b []byte, fn func(f FileInfo) error) error {
	p := parser{b: b, what: "files"}
	for p.err == nil && len(p.b) > 0 {
		f := FileInfo{p.text(), p.int()}
		if p.err == nil {
			if err := fn(f); err != nil {
				return err
			}
		}
	}
	return p.end()
}
