package sshd

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fakeLine is a connection that can be closed and nothing else.
type fakeLine struct {
	net.Conn
	closed context.Context
	cut    context.CancelFunc
}

func newFakeLine() *fakeLine {
	f := new(fakeLine)
	f.closed, f.cut = context.WithCancel(context.Background())
	return f
}

// SetDeadline does nothing.
func (f *fakeLine) SetDeadline(time.Time) error { return nil }

// Close notes that it was called.
func (f *fakeLine) Close() error {
	f.cut()
	return nil
}

func newLobby(t *testing.T) *lobby {
	return &lobby{most: 256, share: 128, crowd: maxCrowd, patience: 500 * time.Millisecond, stay: 3 * time.Second,
		log: t.Logf, of: map[netip.Prefix]int{}}
}

// address returns one of many addresses.
func address(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
}

// visitor is somebody at the door of a lobby.
type visitor struct {
	from   netip.Addr
	silent bool          // the server has to wait for it
	after  time.Duration // it leaves so long after it got a place
}

// enter comes and goes; it returns how long it had to wait for a place, and whether it
// could do what it came for.
func (v visitor) enter(l *lobby) (time.Duration, bool) {
	w := newWire(newFakeLine(), usualTimes())
	at := time.Now()
	g, ok := l.enter(w, v.from)
	waited := time.Since(at)
	if !ok {
		return waited, false
	}
	if v.silent {
		w.waits.Store(time.Now().UnixNano())
	}
	select {
	case <-time.After(v.after):
	case <-w.Conn.(*fakeLine).closed.Done():
	}
	return waited, l.leave(g)
}

// Crowds of honest clients wait for each other, and those that only hold places make
// room for who does not.
func TestLobby(t *testing.T) {
	const login = 100 * time.Millisecond
	crowd := func(n, networks int, v visitor) []visitor {
		var list []visitor
		for i := range n {
			v.from = address(i % networks)
			list = append(list, v)
		}
		return list
	}
	for _, tt := range []struct {
		name     string
		crowd    []visitor
		honest   visitor       // comes last
		within   time.Duration // gets a place
		together bool          // and so do all the others
	}{
		{"one", nil, visitor{from: address(1), after: login}, 0, true},
		{"128 of one address", crowd(127, 1, visitor{after: login}), visitor{from: address(0), after: login}, 0, true},
		{"1000 of one address", crowd(999, 1, visitor{after: login}), visitor{from: address(0), after: login}, 2 * time.Second, true},
		{"1000 of 1000 addresses", crowd(999, 1000, visitor{after: login}), visitor{from: address(5000), after: login}, 2 * time.Second, true},
		{"500 stalled of the same address", crowd(500, 1, visitor{silent: true, after: time.Minute}), visitor{from: address(0), after: login}, 2 * time.Second, false},
		{"500 stalled of others", crowd(500, 7, visitor{silent: true, after: time.Minute}), visitor{from: address(99), after: login}, 100 * time.Millisecond, false},
		{"10,000 stalled of one address", crowd(10000, 1, visitor{silent: true, after: time.Minute}), visitor{from: address(99), after: login}, 0, false},
		{"10,000 stalled of 1,000 addresses", crowd(10000, 1000, visitor{silent: true, after: time.Minute}), visitor{from: address(5000), after: login}, 3 * time.Second, false},
		{"2,000 slow ones of 2 addresses", crowd(2000, 2, visitor{after: time.Minute}), visitor{from: address(99), after: login}, 100 * time.Millisecond, false},
		{"2,000 slow ones of 20 addresses", crowd(2000, 20, visitor{after: time.Minute}), visitor{from: address(99), after: login}, 100 * time.Millisecond, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLobby(t)
				var wg sync.WaitGroup
				var sent atomic.Int32
				for _, v := range tt.crowd {
					wg.Go(func() {
						if _, ok := v.enter(l); !ok {
							sent.Add(1)
						}
					})
				}
				synctest.Wait()
				l.mu.Lock()
				if len(l.guests) > l.most || len(l.queue) > l.crowd {
					t.Errorf("%d guests, %d wait", len(l.guests), len(l.queue))
				}
				l.mu.Unlock()
				waited, ok := tt.honest.enter(l)
				if !ok || waited > tt.within {
					t.Errorf("served: %v, after %v", ok, waited)
				}
				if tt.together {
					wg.Wait()
				}
				l.empty()
				wg.Wait()
				if n := sent.Load(); tt.together && n != 0 {
					t.Errorf("%d of %d were sent away", n, len(tt.crowd))
				}
				if len(l.guests)+len(l.queue)+len(l.of) != 0 {
					t.Errorf("%d guests, %d wait, %d networks", len(l.guests), len(l.queue), len(l.of))
				}
			})
		})
	}
}

// Who gets no place in the time of a handshake goes, and a lobby that is closed takes
// nobody.
func TestLobbyDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLobby(t)
		l.stay = time.Hour
		for range l.share {
			if _, ok := l.enter(newWire(newFakeLine(), usualTimes()), address(0)); !ok {
				t.Fatal("no place")
			}
		}
		at := time.Now()
		if _, ok := l.enter(newWire(newFakeLine(), usualTimes()), address(0)); ok || time.Since(at) != usualTimes().handshake {
			t.Errorf("%v after %v", ok, time.Since(at))
		}
		l.empty()
		line := newFakeLine()
		if _, ok := l.enter(newWire(line, usualTimes()), address(1)); ok || line.closed.Err() == nil {
			t.Error("a closed lobby takes a connection")
		}
	})
}

// Of IPv6 a network counts as one.
func TestNetwork(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		same bool
	}{{"192.0.2.1", "192.0.2.1", true}, {"192.0.2.1", "192.0.2.2", false}, {"2001:db8::1", "2001:db8::ffff:1", true},
		{"2001:db8::1", "2001:db8:0:1::1", false}, {"fe80::1%a", "fe80::2%b", true}} {
		if same := network(netip.MustParseAddr(tt.a)) == network(netip.MustParseAddr(tt.b)); same != tt.same {
			t.Errorf("%s and %s: %v", tt.a, tt.b, same)
		}
	}
}

// from dials from one of the addresses of the loopback network.
func (h *house) from(n int) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(n>>8), byte(n))}}
	return d.Dial("tcp", h.addr)
}

// 500 connections that stall, at whatever point, do not keep one out that does not, and
// cost little.
func TestStalledCrowd(t *testing.T) {
	for name, say := range map[string]string{
		"nothing": "", "a greeting": "SSH-2.0-x\r\n", "an init": "SSH-2.0-x\r\n" + frame(usualInit()),
		"a large packet": "SSH-2.0-x\r\n" + num(256<<10) + "\x04\x14" + strings.Repeat("x", 4096),
		"a point":        "SSH-2.0-x\r\n" + frame(usualInit()) + frame("\x1e"+str(strings.Repeat("\x09", 32))),
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, func(s *Server) { s.times.handshake = 10 * time.Second })
			before := memory()
			for range 500 {
				c, err := net.Dial("tcp", h.addr)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if _, err := io.WriteString(c, say); err != nil && !strings.Contains(err.Error(), "reset") && !strings.Contains(err.Error(), "pipe") {
					t.Fatal(err)
				}
			}
			if n := memory() - before; n > 500<<20 {
				t.Errorf("they cost %d bytes", n)
			} else {
				t.Logf("%d KiB for each of 500", n>>10/500)
			}
			h.good()
			h.stop()
		})
	}
}

// memory returns the bytes that this process uses.
func memory() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// Thousands of connections, of one address and of very many, are gone in time, and whoever
// has a key is served meanwhile.
func TestFlood(t *testing.T) {
	most := 2000
	if sweep {
		most = 10000
	}
	for _, networks := range []int{1, 1000} {
		t.Run(fmt.Sprint(networks), func(t *testing.T) {
			h := newHouse(t, func(s *Server) { s.times.handshake = 5 * time.Second })
			open := make(chan net.Conn, most)
			for i := range most {
				c, err := h.from(i % networks)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				open <- c
				if i%(most/4) == most/8 {
					h.good()
				}
			}
			close(open)
			h.good()
			end := time.Now().Add(7 * time.Second)
			for c := range open {
				_ = c.SetReadDeadline(end)
				if _, err := io.Copy(io.Discard, c); err != nil && strings.Contains(err.Error(), "timeout") {
					t.Fatal("a connection without a proof is still there")
				}
			}
			h.good()
		})
	}
}
