package remote

import (
	"container/heap"

	"github.com/kedgebackup/kedge/pack"
)

// place says where a walk comes to an object: trees before their children, these in their
// order, and all below one child before the next one. It is the way to the object from
// the root of the walk, three bytes for each step, so places compare as text does.
type place string

// child returns the place of child i of what stands at p.
func (p place) child(i int) place { return p + place([]byte{byte(i >> 16), byte(i >> 8), byte(i)}) }

// family is what the children of a tree have in common.
type family struct {
	asked int
	meta  bool // they are a .bupm, or the parts of one
}

// kid is a child of a tree that was seen.
type kid struct {
	of    *family
	at    place
	taken bool // it was asked for; directories that are alike are asked for again
}

// queue holds ids in the order in which a walk comes to them.
type queue []inLine

type inLine struct {
	at place
	id pack.ID
}

// add puts an id into the queue.
func (q *queue) add(at place, id pack.ID) { heap.Push(q, inLine{at, id}) }

// first takes the first id out of the queue.
func (q *queue) first() (id pack.ID, ok bool) {
	if len(*q) == 0 {
		return id, false
	}
	return heap.Pop(q).(inLine).id, true
}

// Len is part of heap.Interface.
func (q queue) Len() int { return len(q) }

// Less is part of heap.Interface.
func (q queue) Less(i, j int) bool { return q[i].at < q[j].at }

// Swap is part of heap.Interface.
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push is part of heap.Interface.
func (q *queue) Push(x any) { *q = append(*q, x.(inLine)) }

// Pop is part of heap.Interface.
func (q *queue) Pop() any {
	last := len(*q) - 1
	x := (*q)[last]
	*q = (*q)[:last]
	return x
}
