package sshd

import "sync"

// tables counts sessions. Those for which there is no place are told so; for that there
// are a few places more.
type tables struct {
	most, perKey, mostStuck int

	mu    sync.Mutex
	taken int
	sorry int            // that are only told
	of    map[string]int // by fingerprint
	stuck map[string]int // connections of a key that cannot be ended
}

// broke notes that a connection of a key cannot be ended.
func (t *tables) broke(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stuck[key]++
}

// barred reports whether a key has done so too often.
func (t *tables) barred(key string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stuck[key] >= t.mostStuck
}

// maxSorry is how many connections are told at once that there is no place.
const maxSorry = 32

// take takes a place for a session of a key, to be given back by give. full says why it is
// no place but to be told so; without even that give is nil.
func (t *tables) take(key string) (give func(), full string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.of[key] >= t.perKey:
		full = "too many sessions of this key are open"
	case t.taken >= t.most:
		full = "too many sessions are open"
	default:
		t.taken++
		t.of[key]++
		return func() { t.give(key) }, ""
	}
	if t.sorry >= maxSorry {
		return nil, full
	}
	t.sorry++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.sorry--
	}, full
}

// give gives a place back.
func (t *tables) give(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken--
	if t.of[key]--; t.of[key] == 0 {
		delete(t.of, key)
	}
}
