package sshd

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// lobby holds the connections that have not proved a key. Those for which there is a
// place are guests, and the server talks to them; the others wait for a place, which
// costs the server next to nothing.
//
// Whoever logs in needs a place for a moment only, so a crowd of honest clients, a
// hundred instances behind one address whose cron strikes at the same minute, is served
// by waiting. Those who come to hold places do it by silence or by being slow, so while
// somebody waits
//
//   - who has let the server wait for patience is dismissed, and
//   - who has been a guest for stay is dismissed,
//   - from the network with the most guests, that a few cannot keep out the rest.
//
// Dismissing the oldest at once was the first way: then a crowd threw itself out. Turning
// the newest away was another: then those that stall keep out who would not.
type lobby struct {
	most, share, crowd int           // guests; guests of one network; those who wait
	patience, stay     time.Duration // 500 ms: two round trips around the world; 3 s
	log                func(format string, args ...any)

	mu     sync.Mutex
	closed bool
	guests []*guest // the one that came first is the first
	queue  []*guest // the same
	of     map[netip.Prefix]int
	timer  *time.Timer // of turns; nil if nobody waits
	lost   int         // dismissed since told
	told   time.Time
}

// guest is a connection that has not proved a key.
type guest struct {
	line  *wire
	from  netip.Prefix
	since time.Time     // it has a place
	ready chan struct{} // closed when it has a place, or is dismissed
	gone  bool
}

// turn is how often those who wait are looked at, besides when a guest leaves.
const turn = 50 * time.Millisecond

// network returns the addresses that count as one: in IPv6 anybody has 2⁶⁴.
func network(a netip.Addr) netip.Prefix {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.WithZone("").Prefix(bits) // of no address: no prefix, which is one too
	return p
}

// enter waits until a connection has a place. It reports whether it got one; leave must
// follow in any case. The deadline of the handshake ends waiting, too.
func (l *lobby) enter(w *wire, from netip.Addr) (*guest, bool) {
	g := &guest{line: w, from: network(from), ready: make(chan struct{})}
	l.mu.Lock()
	switch {
	case l.closed:
		l.dismiss(g)
	case l.room(g):
		l.seat(g)
	default:
		l.queue = append(l.queue, g)
		if len(l.queue) > l.crowd {
			l.dismiss(l.pushiest())
		}
		if l.timer == nil {
			l.timer = time.AfterFunc(turn, l.turn)
		}
	}
	l.mu.Unlock()
	select {
	case <-g.ready:
	case <-time.After(w.times.handshake):
		l.leave(g)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return g, !g.gone
}

// leave takes a connection out; it reports whether it was still there.
func (l *lobby) leave(g *guest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g.gone {
		return false
	}
	l.remove(g)
	l.fill(nil)
	return true
}

// empty dismisses all, also those who will come.
func (l *lobby) empty() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, list := range [][]*guest{slices.Clone(l.queue), slices.Clone(l.guests)} {
		for _, g := range list {
			l.dismiss(g)
		}
	}
	if l.timer != nil {
		l.timer.Stop()
	}
}

// What follows is called with the lock held.

func (l *lobby) room(g *guest) bool { return len(l.guests) < l.most && l.of[g.from] < l.share }

func (l *lobby) seat(g *guest) {
	g.since = time.Now()
	l.guests = append(l.guests, g)
	l.of[g.from]++
	close(g.ready)
}

func (l *lobby) remove(g *guest) {
	g.gone = true
	if i := slices.Index(l.queue, g); i >= 0 {
		l.queue = slices.Delete(l.queue, i, i+1)
	}
	if i := slices.Index(l.guests, g); i >= 0 {
		l.guests = slices.Delete(l.guests, i, i+1)
		if l.of[g.from]--; l.of[g.from] == 0 {
			delete(l.of, g.from)
		}
	}
}

func (l *lobby) dismiss(g *guest) {
	seated := !g.since.IsZero()
	l.remove(g)
	_ = g.line.Close()
	if !seated {
		close(g.ready)
	}
	if l.closed {
		return
	}
	l.lost++
	if now := time.Now(); now.Sub(l.told) > 10*time.Second {
		l.log("%d connections dismissed that had not proved a key; %d have a place, %d wait", l.lost, len(l.guests), len(l.queue))
		l.lost, l.told = 0, now
	}
}

// turn looks at those who wait, again and again while there are any.
func (l *lobby) turn() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer = nil
	if l.closed {
		return
	}
	now := time.Now()
	l.fill(&now)
	if len(l.queue) > 0 {
		l.timer = time.AfterFunc(turn, l.turn)
	}
}

// fill gives places to those who wait: of the network with the fewest guests first, then
// in the order in which they came. With now, guests may be dismissed for them.
func (l *lobby) fill(now *time.Time) {
	var full []netip.Prefix // networks that get no more; each has a share, so there are few
	for {
		next := -1
		for i, g := range l.queue {
			if !slices.Contains(full, g.from) && (next < 0 || l.of[g.from] < l.of[l.queue[next].from]) {
				next = i
			}
		}
		if next < 0 {
			return
		}
		g := l.queue[next]
		if !l.room(g) && now != nil {
			if bad := l.worst(g, *now); bad != nil {
				l.dismiss(bad)
			}
		}
		switch {
		case l.room(g):
			l.queue = slices.Delete(l.queue, next, next+1)
			l.seat(g)
		case len(l.guests) >= l.most:
			return // nor is there a place for those whose networks have more
		default:
			full = append(full, g.from)
		}
	}
}

// worst returns the guest that is to go for one that waits, or nil: of the same network
// if that has its share, else of the one with the most guests.
func (l *lobby) worst(g *guest, now time.Time) *guest {
	from := g.from
	if l.of[from] < l.share {
		for _, o := range l.guests {
			if l.of[o.from] > l.of[from] {
				from = o.from
			}
		}
	}
	var worst *guest
	var silent time.Duration
	for _, o := range l.guests {
		if o.from != from {
			continue
		}
		s := o.line.silent(now)
		late := s >= l.patience || now.Sub(o.since) >= l.stay || l.of[from] > l.of[g.from]+1
		if late && (worst == nil || s > silent) {
			worst, silent = o, s
		}
	}
	return worst
}

// pushiest returns the one that came last of the network that lets the most wait.
func (l *lobby) pushiest() *guest {
	waiting := map[netip.Prefix]int{}
	var last *guest
	for _, g := range l.queue {
		waiting[g.from]++
	}
	for _, g := range l.queue {
		if last == nil || waiting[g.from] >= waiting[last.from] {
			last = g
		}
	}
	return last
}
