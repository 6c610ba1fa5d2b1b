package repo

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
)

// A check of some packs reads these and no others, and finds what is damaged in them.
func TestCheckShare(t *testing.T) {
	dir, m, dataPack, treePack := checkedRepo(t)
	name := func(stem string) pack.ID {
		id, err := pack.ParseID(strings.TrimPrefix(filepath.Base(stem), "pack-"))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	share := func(names ...pack.ID) CheckResult {
		o := CheckOptions{Packs: make(map[pack.ID]bool)}
		for _, id := range names {
			o.Packs[id] = true
		}
		res, _ := check(t, dir, o)
		return res
	}
	all := share(name(dataPack), name(treePack))
	if all.Packs != 2 || all.Objects != int64(len(m.memObjects)) || all.Damage > 0 {
		t.Errorf("both packs: %+v", all)
	}
	one := share(name(treePack))
	if one.Packs != 1 || one.Objects == 0 || one.Objects >= all.Objects {
		t.Errorf("one of two packs: %+v", one)
	}
	if none := share(); none.Packs != 0 || none.Damage > 0 {
		t.Errorf("no pack: %+v", none)
	}
	for id, o := range m.memObjects {
		if o.t == pack.Blob {
			flipObject(t, dataPack, id)
			break
		}
	}
	if res := share(name(treePack)); res.Damage > 0 {
		t.Errorf("damage in another pack was found: %+v", res)
	}
	if res := share(name(dataPack)); res.Damage == 0 {
		t.Errorf("damage in the pack that was read was not found")
	}
}
