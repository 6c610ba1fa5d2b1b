package repotest

import (
	"fmt"
	"time"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// Entry encodes an object.
func Entry(t pack.Type, body []byte) pack.Entry {
	b, crc := pack.NewEncoder(1).Append(nil, t, body)
	return pack.Entry{ID: pack.Sum(t, body), CRC: crc, Bytes: b}
}

// Save is a small save: a commit of a tree of some blobs.
type Save struct {
	Commit, Tree pack.ID
	Blobs        []pack.ID
	Data, Trees  []pack.Entry // what Session.Add takes for each class
}

// NewSave makes a save of n blobs; another seed makes other objects.
func NewSave(seed string, n int, parents ...pack.ID) Save {
	var s Save
	var tree []repo.TreeEntry
	for i := range n {
		e := Entry(pack.Blob, fmt.Appendf(nil, "%s %d", seed, i))
		s.Data = append(s.Data, e)
		s.Blobs = append(s.Blobs, e.ID)
		tree = append(tree, repo.TreeEntry{Mode: repo.ModeFile, Name: fmt.Sprintf("%06d", i), ID: e.ID})
	}
	te := Entry(pack.Tree, repo.AppendTree(nil, tree))
	who := repo.Signature{Who: "A B <a@b>", When: time.Unix(1_700_000_000, 0).UTC()}
	c := repo.Commit{Tree: te.ID, Parents: parents, Author: who, Committer: who, Message: seed + "\n"}
	ce := Entry(pack.Commit, c.Append(nil))
	s.Tree, s.Commit, s.Trees = te.ID, ce.ID, []pack.Entry{te, ce}
	return s
}

// IDs returns the ids of all objects of a save.
func (s *Save) IDs() []pack.ID {
	return append(append([]pack.ID{}, s.Blobs...), s.Tree, s.Commit)
}
