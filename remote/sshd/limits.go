package sshd

import (
	"net"
	"net/netip"
	"slices"
	"sync"
)

// lobby holds the connections that have not proved a key, the oldest first. When it is
// full the oldest makes room: of the same address if that has its share, else of all.
// Refusing the newest was the other way; then those that stall keep out who would not.
type lobby struct {
	most int

	mu     sync.Mutex
	guests []guest
}

type guest struct {
	conn net.Conn
	from netip.Prefix
}

// network returns the addresses that count as one: in IPv6 anybody has 2⁶⁴.
func network(a netip.Addr) netip.Prefix {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.WithZone("").Prefix(bits) // of no address: no prefix, which is one too
	return p
}

// enter lets a connection in.
func (l *lobby) enter(c net.Conn, from netip.Addr) {
	g := guest{c, network(from)}
	l.mu.Lock()
	defer l.mu.Unlock()
	same := 0
	for i := range l.guests {
		if l.guests[i].from == g.from {
			same++
		}
	}
	switch {
	case same >= perAddress:
		l.dismiss(slices.IndexFunc(l.guests, func(o guest) bool { return o.from == g.from }))
	case len(l.guests) >= l.most:
		l.dismiss(0)
	}
	l.guests = append(l.guests, g)
}

func (l *lobby) dismiss(i int) {
	_ = l.guests[i].conn.Close()
	l.guests = slices.Delete(l.guests, i, i+1)
}

// leave takes a connection out; it reports whether it was still there.
func (l *lobby) leave(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.guests, func(g guest) bool { return g.conn == c })
	if i >= 0 {
		l.guests = slices.Delete(l.guests, i, i+1)
	}
	return i >= 0
}

// empty closes all connections that are waiting.
func (l *lobby) empty() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range l.guests {
		_ = g.conn.Close()
	}
	l.guests = nil
}

// tables counts sessions. Those for which there is no place are told so; for that there
// are a few places more.
type tables struct {
	most, perKey int

	mu    sync.Mutex
	taken int
	sorry int            // that are only told
	of    map[string]int // by fingerprint
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
