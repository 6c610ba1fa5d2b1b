package pack

import "fmt"

// maxReindex is how many objects Reindex keeps in memory, 40 bytes each. Packs
// of this program have two hundred thousand at most; git's may have more, and
// git index-pack makes their idx.
const maxReindex = 4 << 20

// Reindex reads the whole pack and makes its idx anew: an idx is derived, and
// may be lost or damaged. Every object is inflated and hashed, and the pack is
// compared with its trailer. A delta whose base is given by id can't be resolved
// without an idx; git writes none to disk.
func (p *Pack) Reindex(s *Scratch) (*Index, error) {
	if p.n > maxReindex {
		return nil, fmt.Errorf("%s: %d objects are more than kedge makes an idx for; use git index-pack", p.name, p.n)
	}
	var recs []Record
	hash := NewHasher()
	err := p.Walk(s, nil, nil, func(it *Item) error {
		if it.Err != nil {
			return it.Err
		}
		id, err := hash.Sum(it.Type, it.Body)
		if err != nil {
			return err
		}
		recs = append(recs, Record{ID: id, CRC: it.CRC, Off: it.Off})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return newIndex(recs, p.sum)
}
