package sshd

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
)

// seal encrypts a packet, for those who want to send several in one piece.
func (r *raw) seal(payload string) string {
	pad := 16 - (len(payload)+1)%16
	if pad < 4 {
		pad += 16
	}
	head := num(uint32(len(payload) + 1 + pad))
	body := string([]byte{byte(pad)}) + payload + strings.Repeat("\x00", pad)
	return string(r.out.Seal([]byte(head), r.out.next(), []byte(body), []byte(head)))
}

// What passes a gate are whole packets, however they arrive, and no more of them than may.
func TestGate(t *testing.T) {
	hello := "SSH-2.0-x\r\n"
	packet := func(n int) string { return num(uint32(n)) + strings.Repeat("s", n+gcmTag) }
	keys := frame("\x15")
	for _, tt := range []struct {
		name string
		in   string
		pass int // bytes
		err  error
	}{
		{"nothing", "", 0, io.EOF},
		{"half a greeting", "SSH-2.0", 0, io.EOF},
		{"a greeting", hello, len(hello), io.EOF},
		{"a greeting that is none", "GET / HTTP/1.1\r\n", 0, errGate},
		{"a line before the greeting", "hello\r\n" + hello, 0, errGate},
		{"the longest greeting", "SSH-" + strings.Repeat("x", 250) + "\n", 255, io.EOF},
		{"a greeting that is too long", "SSH-" + strings.Repeat("x", 300), 0, errGate},
		{"zeros", strings.Repeat("\x00", 1000), 0, errGate},
		{"packets in the clear", hello + strings.Repeat(frame("\x02"), 100), len(hello) + 1600, io.EOF},
		{"half a packet", hello + num(100) + "\x04\x14" + "x", len(hello) + 7, io.EOF},
		{"an empty packet", hello + num(0), len(hello), io.EOF},
		{"a packet without a type", hello + num(1) + "\x00\x00", len(hello), errGate},
		{"the largest packet", hello + num(maxUnproved) + "\x04\x14" + strings.Repeat("x", maxUnproved-2), len(hello) + 4 + maxUnproved, io.EOF},
		{"a packet that is too large", hello + num(maxUnproved+1) + "\x04\x14", len(hello), errGate},
		{"a packet of 4 GiB", hello + num(1<<32-1) + "\x04\x14", len(hello), errGate},
		{"sealed packets", hello + keys + strings.Repeat(packet(32), credits), len(hello) + 16 + credits*52, io.EOF},
		{"too many sealed packets", hello + keys + strings.Repeat(packet(32), credits+1), len(hello) + 16 + credits*52, os.ErrDeadlineExceeded},
		{"a sealed packet that is too large", hello + keys + packet(maxUnproved+1), len(hello) + 16, errGate},
		{"a sealed packet of nothing", hello + keys + num(0), len(hello) + 16, errGate},
		{"a sealed packet that looks clear", hello + keys + packet(32) + keys + packet(32), len(hello) + 16 + 52 + 32, errGate},
	} {
		for name, r := range map[string]io.Reader{
			"": strings.NewReader(tt.in), "bytewise ": iotest.OneByteReader(strings.NewReader(tt.in)), "halved ": iotest.HalfReader(strings.NewReader(tt.in)),
		} {
			synctest.Test(t, func(t *testing.T) {
				g := newGate(time.Now().Add(10 * time.Second))
				out, err := io.ReadAll(readerFunc(func(p []byte) (int, error) { return g.read(r, p) }))
				if tt.err != io.EOF && !errors.Is(err, tt.err) || tt.err == io.EOF && err != nil {
					t.Errorf("%s%s: %v, want %v", name, tt.name, err, tt.err)
				}
				if string(out) != tt.in[:tt.pass] {
					t.Errorf("%s%s: %d bytes pass, not %d", name, tt.name, len(out), tt.pass)
				}
			})
		}
	}
}

type readerFunc func([]byte) (int, error)

// Read calls f.
func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// An answer lets the next packet through, a proof lets everything through, and the end of
// a connection ends waiting.
func TestGateOpens(t *testing.T) {
	in := "SSH-2.0-x\n" + frame("\x15")
	for range credits + 3 {
		in += num(16) + strings.Repeat("s", 16+gcmTag)
	}
	passes := func(g *gate, r io.Reader) int {
		n := make(chan int, 1)
		go func() {
			var out bytes.Buffer
			_, _ = io.Copy(&out, readerFunc(func(p []byte) (int, error) { return g.read(r, p) }))
			n <- out.Len()
		}()
		return <-n
	}
	head := 10 + 16
	for name, tt := range map[string]struct {
		do   func(g *gate)
		want int
	}{
		"nothing":      {func(*gate) {}, head + 36*credits},
		"an answer":    {func(g *gate) { g.answered() }, head + 36*(credits+1)},
		"two answers":  {func(g *gate) { g.answered(); time.Sleep(time.Second); g.answered() }, head + 36*(credits+2)},
		"a proof":      {func(g *gate) { close(g.opened) }, len(in)},
		"an early end": {func(g *gate) { close(g.gone) }, head + 36*credits},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(time.Now().Add(10 * time.Second))
			go func() {
				time.Sleep(time.Second)
				tt.do(g)
			}()
			if n := passes(g, strings.NewReader(in)); n != tt.want {
				t.Errorf("%s: %d bytes pass, not %d", name, n, tt.want)
			}
		})
	}
}

// A handshake that fails with packets behind it leaves nothing: the house looks for
// goroutines when it closes.
func TestPacketsBehindTheEnd(t *testing.T) {
	h := newHouse(t, nil)
	for name, first := range map[string]func(r *raw) string{
		"keys that fail": func(r *raw) string {
			s := r.seal("\x05" + str("ssh-userauth"))
			for range maxTries {
				s += r.seal(r.proof("a", h.unknown.PublicKey(), h.unknown, r.session))
			}
			return s
		},
		"another service":      func(r *raw) string { return r.seal("\x05" + str("ssh-connection")) },
		"no service":           func(r *raw) string { return r.seal(authRequest("a", "none")) },
		"a broken request":     func(r *raw) string { return r.seal("\x05"+str("ssh-userauth")) + r.seal("\x32") },
		"another request":      func(r *raw) string { return r.seal("\x05"+str("ssh-userauth")) + r.seal("\x5a") },
		"a broken seal":        func(r *raw) string { return num(32) + strings.Repeat("x", 48) },
		"things to be ignored": func(r *raw) string { return strings.Repeat(r.seal("\x02"+str("x")), 1) },
	} {
		for range 3 {
			r, err := rawDial(h.addr)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.exchange(); err != nil {
				t.Fatal(err)
			}
			all := first(r)
			for range 300 {
				all += r.seal(authRequest("x", "none"))
			}
			_ = r.write(all)
			if err := r.gone(5 * time.Second); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			r.conn.Close()
		}
	}
	h.good()
}

// A key that breaks the protocol so that the ssh package cannot end the connection may do
// so three times, and harms nobody else.
func TestBrokenProtocol(t *testing.T) {
	h := newHouse(t, nil)
	breaks := func() error {
		r, err := rawDial(h.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer r.conn.Close()
		if err := r.login(h.a); err != nil {
			return err
		}
		all := r.seal("\x5e" + num(99) + str("x")) // for a channel that is none
		for range 300 {
			all += r.seal("\x5e" + num(99) + str("x"))
		}
		_ = r.write(all)
		return r.gone(5 * time.Second)
	}
	barred := func() bool { return h.s.tables.barred(ssh.FingerprintSHA256(h.a.PublicKey())) }
	for end := time.Now().Add(time.Minute); !barred(); {
		if time.Now().After(end) {
			t.Fatal("the key may go on for ever")
		}
		if err := breaks(); err != nil && !barred() {
			t.Fatal(err)
		}
		time.Sleep(h.s.times.bury + 200*time.Millisecond)
	}
	if err := breaks(); err == nil {
		t.Error("the key is let in again")
	}
	if !h.logged("refused until the server is started again") || !h.logged("connections that cannot be ended") {
		t.Errorf("the log says %q", h.log)
	}
	h.good()
}

// FuzzGate: what passes is the beginning of what came, and reading it ends with a reason.
func FuzzGate(f *testing.F) {
	hello := "SSH-2.0-x\r\n"
	for _, s := range []string{"", hello, hello + usualInit(), hello + frame(usualInit()) + frame("\x15") + num(32) + strings.Repeat("s", 48), "SSH-" + strings.Repeat("x", 300), "SSH-" + strings.Repeat("x", 253) + "\n", hello + num(1<<32-1)} {
		f.Add([]byte(s), uint8(1))
	}
	f.Fuzz(func(t *testing.T, in []byte, size uint8) {
		g := newGate(time.Time{}) // nobody waits for an answer
		r := bytes.NewReader(in)
		var out []byte
		var err error
		for p := make([]byte, int(size)+1); err == nil; {
			var n int
			n, err = g.read(r, p)
			out = append(out, p[:n]...)
		}
		if !bytes.HasPrefix(in, out) {
			t.Fatal("something else passes")
		}
		if i := bytes.IndexByte(out, '\n'); len(out) > 0 && (i < 0 || i > maxGreeting) {
			t.Fatalf("a greeting of %d bytes passes", len(out))
		}
		if !errors.Is(err, io.EOF) && !errors.Is(err, errGate) && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	})
}
