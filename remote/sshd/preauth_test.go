package sshd

import (
	"crypto/ed25519"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Whoever has proved no key is gone in time, and a client that behaves does not notice.
func TestAttacksBeforeLogin(t *testing.T) {
	h := newHouse(t, nil)
	together(attacksBeforeLogin(), 20, func(tt attack) {
		r, err := rawDial(h.addr)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			return
		}
		defer r.conn.Close()
		at := time.Now()
		tt.do(h, r) // that it cannot write any more is as good as that it can
		if err := r.gone(3 * time.Second); err != nil {
			t.Errorf("%s: %v after %v", tt.name, err, time.Since(at))
		}
	})
	h.good()
}

// together calls do for each element of a list, n at a time: most of an attack is waiting.
func together[T any](list []T, n int, do func(T)) {
	var all sync.WaitGroup
	places := make(chan struct{}, n)
	for _, x := range list {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			do(x)
		})
	}
	all.Wait()
}

type attack struct {
	name string
	do   func(h *house, r *raw)
}

func attacksBeforeLogin() []attack {
	say := func(s string) func(*house, *raw) { return func(_ *house, r *raw) { _ = r.write(s) } }
	hello := "SSH-2.0-raw\r\n"
	list := []attack{
		{"silence", say("")},
		{"half a greeting", say("SSH-2.0-ra")},
		{"greeting of 255 bytes without an end", say("SSH-2.0-" + strings.Repeat("x", 247))},
		{"greeting of 1 MiB", say(strings.Repeat("x", 1<<20))},
		{"endless lines", say(strings.Repeat("hello\r\n", 100000))},
		{"zeros", say(strings.Repeat("\x00", 1<<20))},
		{"protocol 1", say("SSH-1.5-old\r\n")},
		{"a browser", say("GET / HTTP/1.1\r\nHost: x\r\n\r\n")},
		{"TLS", say("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")},
		{"greeting and silence", say(hello)},
		{"greeting with escapes", say("SSH-2.0-\x1b[2J\x07\r\n")},
		{"a byte now and then", func(_ *house, r *raw) {
			for i := 0; i < 40 && r.write("S") == nil; i++ {
				time.Sleep(50 * time.Millisecond)
			}
		}},
		{"an init now and then", func(_ *house, r *raw) {
			s := hello + frame(usualInit())
			for i := 0; i < len(s) && r.write(s[i:i+1]) == nil; i++ {
				time.Sleep(10 * time.Millisecond)
			}
		}},
		{"packet of length 0", say(hello + num(0))},
		{"packet of length 1", say(hello + num(1) + "\x00")},
		{"packet of 35,001 bytes", say(hello + num(35001) + "\x04")},
		{"packet of 256 KiB that does not come", say(hello + num(256<<10) + "\x04\x14")},
		{"packet of 4 GiB", say(hello + num(1<<32-1) + strings.Repeat("x", 1000))},
		{"packet that is all padding", say(hello + num(12) + "\x0b" + strings.Repeat("x", 11))},
		{"packet with more padding than bytes", say(hello + num(12) + "\xff" + strings.Repeat("x", 11))},
		{"empty payload", say(hello + frame(""))},
		{"init cut short", say(hello + frame(usualInit()[:40]))},
		{"init with lists that are too long", say(hello + frame("\x14"+strings.Repeat("c", 16)+num(1<<31)))},
		{"init with a million names", say(hello + num(200004) + "\x04" + "\x14" + strings.Repeat("c", 16) + num(199982) + strings.Repeat("a,", 99991))},
		{"init without lists", say(hello + frame(kexInit("", "", "", "", "", "", "", "", "", "")))},
		{"init twice", say(hello + frame(usualInit()) + frame(usualInit()))},
		{"init and silence", say(hello + frame(usualInit()))},
		{"new keys at once", say(hello + frame("\x15"))},
		{"login at once", say(hello + frame(authRequest("root", "none")))},
		{"channel at once", say(hello + frame("\x5a"+str("session")+num(0)+num(1)+num(32768)))},
		{"service at once", say(hello + frame("\x05"+str("ssh-connection")))},
		{"success at once", say(hello + frame("\x34"))},
		{"init and login", say(hello + frame(usualInit()) + frame(authRequest("root", "none")))},
		{"init and new keys", say(hello + frame(usualInit()) + frame("\x15"))},
		{"init and much to ignore", say(hello + frame(usualInit()) + strings.Repeat(frame("\x02"+str("x")), 20000))},
		{"init and debug", say(hello + frame(usualInit()) + frame("\x04\x01"+str("x")+str("")))},
		{"point of 0 bytes", say(hello + frame(usualInit()) + frame("\x1e"+str("")))},
		{"point of 31 bytes", say(hello + frame(usualInit()) + frame("\x1e"+str(strings.Repeat("x", 31))))},
		{"point of zeros", say(hello + frame(usualInit()) + frame("\x1e"+str(strings.Repeat("\x00", 32))))},
		{"point of small order", say(hello + frame(usualInit()) + frame("\x1e"+str("\x01"+strings.Repeat("\x00", 31))))},
		{"exchange and silence", func(_ *house, r *raw) { _ = r.exchange() }},
		{"exchange and no service", func(_ *house, r *raw) { _ = r.exchange(); _ = r.send("\x05" + str("ssh-connection")) }},
		{"exchange and login without a service", func(_ *house, r *raw) { _ = r.exchange(); _ = r.send(authRequest("a", "none")) }},
		{"packet with a broken seal", func(_ *house, r *raw) { _ = r.exchange(); _ = r.write(num(32) + strings.Repeat("x", 48)) }},
		{"sealed packet of length 0", func(_ *house, r *raw) { _ = r.exchange(); _ = r.write(num(0) + strings.Repeat("x", 16)) }},
		{"sealed packet of length 4", func(_ *house, r *raw) { _ = r.exchange(); _ = r.write(num(4) + strings.Repeat("x", 20)) }},
		{"sealed packet of 4 GiB", func(_ *house, r *raw) { _ = r.exchange(); _ = r.write(num(1<<32 - 1)) }},
		{"exchange again and again", func(_ *house, r *raw) {
			if r.secure() == nil {
				for range 50 {
					if r.send(usualInit()) != nil {
						return
					}
				}
			}
		}},
		{"much to ignore in a secure line", func(_ *house, r *raw) {
			if r.secure() == nil {
				for range 20000 {
					if r.send("\x02"+str(strings.Repeat("x", 1000))) != nil {
						return
					}
				}
			}
		}},
	}
	for i, weak := range []struct{ kex, host, cipher, mac string }{
		{"diffie-hellman-group1-sha1,diffie-hellman-group14-sha1,diffie-hellman-group-exchange-sha1", goodHost, goodCipher, goodMAC},
		{"diffie-hellman-group-exchange-sha256,diffie-hellman-group14-sha256", goodHost, goodCipher, goodMAC},
		{goodKex, "ssh-dss,ssh-rsa", goodCipher, goodMAC},
		{goodKex, goodHost, "3des-cbc,aes128-cbc,arcfour,arcfour128,arcfour256,none", goodMAC},
		{goodKex, goodHost, "aes128-ctr", "hmac-sha1,hmac-sha1-96,hmac-md5,none"},
	} {
		list = append(list, attack{"weak algorithms " + string(rune('0'+i)), func(_ *house, r *raw) {
			_ = r.write(hello + frame(kexInit(weak.kex, weak.host, weak.cipher, weak.cipher, weak.mac, weak.mac, "none", "none", "", "")) + frame("\x1e"+str(strings.Repeat("\x09", 32))))
			if err := r.greet(); err != nil {
				return
			}
			if _, err := r.plain(); err != nil {
				return
			}
			if reply, err := r.plain(); err == nil && reply[0] == 31 {
				panic("weak algorithms are agreed on")
			}
		}})
	}
	return list
}

// None of these is let in, none learns more than that, and three tries are all.
func TestAttacksOnLogin(t *testing.T) {
	h := newHouse(t, nil)
	a, b := h.a.PublicKey(), h.b.PublicKey()
	big := func(n int) string { return "\x00" + strings.Repeat("\xff", n) }
	wrong := func(kind string, parts ...string) []byte {
		s := str(kind)
		for _, p := range parts {
			s += str(p)
		}
		return []byte(s)
	}
	cert := &ssh.Certificate{Nonce: []byte("n"), Key: a, CertType: ssh.UserCert, ValidBefore: ssh.CertTimeInfinity, ValidPrincipals: []string{"a"}}
	if err := cert.SignCert(strings.NewReader(strings.Repeat("x", 1000)), h.a); err != nil {
		t.Fatal(err)
	}
	offers := func(user, algo string, blob []byte) func(r *raw) string {
		return func(*raw) string { return offer(user, algo, blob) }
	}
	for _, tt := range []struct {
		name string
		ask  func(r *raw) string
	}{
		{"none", func(*raw) string { return authRequest("root", "none") }},
		{"password", func(*raw) string { return authRequest("root", "password") + "\x00" + str("secret") }},
		{"password of 200 KB", func(*raw) string { return authRequest("root", "password") + "\x00" + str(strings.Repeat("x", 200000)) }},
		{"change of a password", func(*raw) string { return authRequest("root", "password") + "\x01" + str("a") + str("b") }},
		{"keyboard-interactive", func(*raw) string { return authRequest("root", "keyboard-interactive") + str("") + str("pam") }},
		{"hostbased", func(*raw) string {
			return authRequest("root", "hostbased") + str("ssh-ed25519") + str(string(a.Marshal())) + str("host") + str("root") + str("sig")
		}},
		{"gssapi-with-mic", func(*raw) string { return authRequest("root", "gssapi-with-mic") + num(1) + str("\x06\x01\x2a") }},
		{"gssapi-with-mic of 10⁶ mechanisms", func(*raw) string { return authRequest("root", "gssapi-with-mic") + num(1000000) }},
		{"gssapi-keyex", func(*raw) string { return authRequest("root", "gssapi-keyex") + str("mic") }},
		{"a method without a name", func(*raw) string { return authRequest("root", "") }},
		{"a method with a long name", func(*raw) string { return authRequest("root", strings.Repeat("x", 100000)) }},
		{"a user with NUL", func(r *raw) string { return authRequest("a\x00b", "none") }},
		{"a user with a path", func(r *raw) string { return authRequest("../../etc", "none") }},
		{"a user with escapes", func(r *raw) string { return authRequest("\x1b[2J\n", "none") }},
		{"a user of 200 KB", func(r *raw) string { return authRequest(strings.Repeat("u", 200000), "none") }},
		{"an unknown key", offers("a", "ssh-ed25519", h.unknown.PublicKey().Marshal())},
		{"an unknown key, proved", func(r *raw) string { return r.proof("a", h.unknown.PublicKey(), h.unknown, r.session) }},
		{"a key proved with another", func(r *raw) string { return r.proof("a", a, h.b, r.session) }},
		{"a key proved with an unknown one", func(r *raw) string { return r.proof("a", a, h.unknown, r.session) }},
		{"a proof of another session", func(r *raw) string { return r.proof("a", a, h.a, []byte(strings.Repeat("x", 32))) }},
		{"a proof without a session", func(r *raw) string { return r.proof("a", a, h.a, nil) }},
		{"an empty proof", func(r *raw) string {
			return authRequest("a", "publickey") + "\x01" + str("ssh-ed25519") + str(string(a.Marshal())) + str("")
		}},
		{"a proof with bytes behind it", func(r *raw) string { return r.proof("a", a, h.a, r.session) + "x" }},
		{"a proof of zeros", func(r *raw) string {
			return authRequest("a", "publickey") + "\x01" + str("ssh-ed25519") + str(string(a.Marshal())) + str(str("ssh-ed25519")+str(strings.Repeat("\x00", 64)))
		}},
		{"a key under the name of another kind", offers("a", "ssh-rsa", a.Marshal())},
		{"an empty key", offers("a", "ssh-ed25519", nil)},
		{"half a key", offers("a", "ssh-ed25519", a.Marshal()[:20])},
		{"a key with bytes behind it", offers("a", "ssh-ed25519", append(b.Marshal(), 0))},
		{"a key of 31 bytes", offers("a", "ssh-ed25519", wrong("ssh-ed25519", strings.Repeat("x", 31)))},
		{"a key of 16,384 bits", offers("a", "rsa-sha2-512", wrong("ssh-rsa", "\x01\x00\x01", big(2048)))},
		{"a key of 1,024 bits", offers("a", "rsa-sha2-256", wrong("ssh-rsa", "\x01\x00\x01", big(128)))},
		{"a key with SHA-1", offers("a", "ssh-rsa", wrong("ssh-rsa", "\x01\x00\x01", big(384)))},
		{"a DSA key", offers("a", "ssh-dss", wrong("ssh-dss", big(128), big(20), big(128), big(128)))},
		{"a point off the curve", offers("a", "ecdsa-sha2-nistp256", wrong("ecdsa-sha2-nistp256", "nistp256", "\x04"+strings.Repeat("\x01", 64)))},
		{"an sk key of 3 bytes", offers("a", ssh.KeyAlgoSKED25519, wrong(ssh.KeyAlgoSKED25519, "abc", "ssh:"))},
		{"an sk key without an application", offers("a", ssh.KeyAlgoSKED25519, wrong(ssh.KeyAlgoSKED25519, strings.Repeat("x", ed25519.PublicKeySize)))},
		{"a certificate", offers("a", ssh.CertAlgoED25519v01, cert.Marshal())},
		{"a certificate as a key", offers("a", "ssh-ed25519", cert.Marshal())},
		{"a certificate cut short", offers("a", ssh.CertAlgoED25519v01, cert.Marshal()[:60])},
		{"an unknown algorithm", offers("a", "x-"+strings.Repeat("y", 10000), a.Marshal())},
		{"a request cut short", func(*raw) string { return "\x32" + str("a") + str("ssh-connection") }},
		{"lengths that are too long", func(*raw) string { return "\x32" + num(1<<32-1) + "a" }},
		{"another service", func(*raw) string { return "\x32" + str("a") + str("ssh-userauth") + str("none") }},
		{"the answer of a server", func(*raw) string { return "\x34" }},
		{"a channel", func(*raw) string { return "\x5a" + str("session") + num(7) + num(1<<20) + num(32768) }},
		{"a global request", func(*raw) string { return "\x50" + str("tcpip-forward") + "\x01" + str("") + num(0) }},
		{"an unknown message", func(*raw) string { return "\xff" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := rawDial(h.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer r.conn.Close()
			if err := r.secure(); err != nil {
				t.Fatal(err)
			}
			tries := 0
			for ; tries < 10; tries++ {
				p, err := r.ask(tt.ask(r))
				if err != nil {
					break // cut off
				}
				if p[0] != 51 && p[0] != 3 && p[0] != 1 {
					t.Fatalf("the answer is %d %q", p[0], p)
				}
				if p[0] == 1 {
					break
				}
				if p[0] == 51 && !strings.HasPrefix(p[1:], str("publickey")) {
					t.Errorf("it is told of other ways in: %q", p)
				}
				if i := strings.Index(tt.name, "user of"); i >= 0 && tries == 0 && len(p) > 1000 {
					t.Errorf("an answer of %d bytes", len(p))
				}
			}
			if tries > maxTries {
				t.Errorf("it may try %d times", tries)
			}
			if err := r.gone(3 * time.Second); err != nil {
				t.Error(err)
			}
		})
	}
	h.good()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.log {
		if strings.ContainsAny(l, "\n\x1b\x00") || len(l) > 1100 {
			t.Errorf("the log has %.100q", l)
		}
	}
}

// Who offers one key and proves another has the rights of the one it proved, in
// whatever order it offers them.
func TestOfferOneProveAnother(t *testing.T) {
	h := newHouse(t, nil)
	a, b := h.a.PublicKey(), h.b.PublicKey()
	for i, offers := range [][]ssh.PublicKey{{a}, {b, a}, {a, b}, {a, b, a}, nil} {
		for name, want := range map[string]bool{"a": false, "b": true} {
			r, err := rawDial(h.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer r.conn.Close()
			if err := r.secure(); err != nil {
				t.Fatal(err)
			}
			for _, k := range offers {
				if p, err := r.ask(offer("a", k.Type(), k.Marshal())); err != nil || p[0] != 60 {
					t.Fatalf("an offer: %q, %v", p, err)
				}
			}
			if p, err := r.ask(r.proof("a", b, h.b, r.session)); err != nil || p[0] != 52 {
				t.Fatalf("%d: the proof of b: %q, %v", i, p, err)
			}
			if got, err := r.setDir(name); got != want || err != nil {
				t.Errorf("%d: b was proved, %s is opened: %v, %v", i, name, got, err)
			}
			r.conn.Close()
			h.taken(0, 0)
		}
	}
	h.good()
	// What the callbacks of the ssh package are given cannot be mixed up, either.
	l := login{s: h.s, from: addressOf(fakeConn{})}
	p, err := l.offered(nil, a)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := proved(nil, b, p, ""); err == nil {
		t.Error("the permissions of a serve b")
	}
	if _, err := proved(nil, b, &ssh.Permissions{}, ""); err == nil {
		t.Error("no permissions serve b")
	}
	if _, err := keyOf(nil); err == nil {
		t.Error("no permissions are a key")
	}
}

type fakeConn struct{ net.Conn }

func (fakeConn) RemoteAddr() net.Addr { return &net.UnixAddr{} }

// setDir opens a session, if there is none, and in it a repository; it reports
// whether it was let.
func (r *raw) setDir(name string) (bool, error) {
	if err := r.open(1 << 20); err != nil {
		return false, err
	}
	if p, err := r.ask(request(0, "exec", true, str("kedge server"))); err != nil || p[0] != 99 {
		return false, err
	}
	if err := r.send("\x5e" + num(0) + str("set-dir "+name+"\n")); err != nil {
		return false, err
	}
	answer := ""
	for {
		p, err := r.receive()
		switch {
		case err != nil:
			return false, err
		case p[0] == 94 && len(p) > 9:
			answer += p[9:]
			if strings.HasSuffix(answer, "\nok\n") {
				return true, nil
			}
			if strings.Contains(answer, "error ") {
				return false, nil
			}
		case p[0] == 97: // closed
			return false, nil
		}
	}
}

// A client that must not be let in proves nothing by taking the name of the user.
func TestManyNames(t *testing.T) {
	h := newHouse(t, nil)
	for _, user := range []string{"", "root", "a", "../../etc/passwd", "x\x00y", strings.Repeat("u", 20000), "$(id)"} {
		r, err := rawDial(h.addr)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.secure(); err != nil {
			t.Fatal(err)
		}
		if p, err := r.ask(r.proof(user, h.b.PublicKey(), h.b, r.session)); err != nil || p[0] != 52 {
			t.Errorf("%.20q: the name of the user matters: %v", user, err)
		}
		if ok, err := r.setDir("b"); !ok || err != nil {
			t.Errorf("%.20q: %v, %v", user, ok, err)
		}
		r.conn.Close()
	}
}
