package remote

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/kedgebackup/kedge/pack"
)

// The order of places is that of a walk, and the queue keeps it however ids come in.
func TestQueue(t *testing.T) {
	var root place
	want := []place{root, root.child(0), root.child(0).child(70000), root.child(1), root.child(255), root.child(256), root.child(256).child(0), root.child(65536)}
	if !slices.IsSorted(want) {
		t.Errorf("places are not in the order of a walk: %q", want)
	}
	var q queue
	ids := make(map[pack.ID]place)
	for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(len(want)) {
		id := pack.Sum(pack.Blob, []byte(want[i]))
		ids[id] = want[i]
		q.add(want[i], id)
	}
	for _, at := range want {
		if id, ok := q.first(); !ok || ids[id] != at {
			t.Fatalf("%q came instead of %q", ids[id], at)
		}
	}
	if _, ok := q.first(); ok {
		t.Error("there is more than was put in")
	}
}
