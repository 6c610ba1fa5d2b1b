package sshd

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// talk is an open session of bup's protocol.
type talk struct {
	t    *testing.T
	s    *ssh.Session
	in   io.WriteCloser
	out  *bufio.Reader
	errs bytes.Buffer
}

// talk logs in and says the first word.
func (h *house) talk(key ssh.Signer) *talk {
	h.t.Helper()
	s, err := h.dial(key).NewSession()
	if err != nil {
		h.t.Fatal(err)
	}
	k := &talk{t: h.t, s: s}
	s.Stderr = &k.errs
	k.in, _ = s.StdinPipe()
	out, _ := s.StdoutPipe()
	k.out = bufio.NewReader(out)
	if err := s.Start("kedge server"); err != nil {
		h.t.Fatal(err)
	}
	if err := k.say("help"); err != nil {
		h.t.Fatal(err)
	}
	return k
}

func (k *talk) say(command string) error {
	if _, err := io.WriteString(k.in, command+"\n"); err != nil {
		return err
	}
	return readOK(k.out)
}

// goesOn reports whether the session is there for so long.
func (k *talk) goesOn(d time.Duration) bool {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if k.say("help") != nil {
			return false
		}
	}
	return true
}

// end waits until the server ends the session and returns its words and its exit code.
func (k *talk) end(within time.Duration) (words string, code int) {
	k.t.Helper()
	ended := make(chan error, 1)
	go func() {
		_, _ = io.Copy(io.Discard, k.out)
		ended <- k.s.Wait()
	}()
	select {
	case err := <-ended:
		return k.errs.String(), exitCode(err)
	case <-time.After(within):
		k.t.Error("the session goes on")
		return "", -1
	}
}

// What is done to the line of a key is done to its session.
func TestKeysWhileConnected(t *testing.T) {
	const append = "kedge server --repo a --role append"
	for name, tt := range map[string]struct {
		change func(h *house, file, now string) error
		ends   bool
		log    string
	}{
		"nothing":          {func(*house, string, string) error { return nil }, false, ""},
		"the line is gone": {func(_ *house, file, _ string) error { return os.WriteFile(file, nil, 0o600) }, true, "the key is unknown"},
		"the file is gone": {func(_ *house, file, _ string) error { return os.Remove(file) }, true, "the key is unknown"},
		"the line is out of order": {func(h *house, file, _ string) error {
			return os.WriteFile(file, []byte(line("permitopen,", append, h.a)), 0o600)
		}, true, "permitopen"},
		"the key expires": {func(h *house, file, _ string) error {
			at := time.Now().UTC().Add(time.Second).Format("20060102150405")
			return os.WriteFile(file, []byte(line(`expiry-time="`+at+`Z",`, append, h.a)), 0o600)
		}, true, "expired"},
		"its address is not allowed": {func(h *house, file, _ string) error {
			return os.WriteFile(file, []byte(line(`from="10.0.0.1",`, append, h.a)), 0o600)
		}, true, "may not come from"},
		"its role is another": {func(h *house, file, _ string) error {
			return os.WriteFile(file, []byte(line("", "kedge server --repo a --role read", h.a)), 0o600)
		}, true, "its rights are others"},
		"it may write fewer names": {func(h *house, file, _ string) error {
			return os.WriteFile(file, []byte(line("", append+" --names x", h.a)), 0o600)
		}, true, "its rights are others"},
		"a comment, another option and another order": {func(h *house, file, now string) error {
			l := strings.TrimSpace(line(`no-pty,from="127.0.0.0/8",`, "/usr/bin/kedge server --role=append --repo=a", h.a))
			return os.WriteFile(file, []byte("# x\n"+l+" a comment\n"+now), 0o600)
		}, false, ""},
		"nobody may trust the file": {func(_ *house, file, _ string) error { return os.Chmod(file, 0o666) }, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, calm)
			text, err := os.ReadFile(h.s.o.AuthorizedKeys)
			if err != nil {
				t.Fatal(err)
			}
			k, other := h.talk(h.a), h.talk(h.b)
			if err := tt.change(h, h.s.o.AuthorizedKeys, string(text)); err != nil {
				t.Fatal(err)
			}
			if !tt.ends {
				if !k.goesOn(4*h.s.times.alive) || !other.goesOn(0) {
					t.Error("the session ended")
				}
				return
			}
			words, code := k.end(20 * time.Second)
			if code != 6 || words != "kedge: refused: the key is not let in any more, or has other rights now\n" {
				t.Errorf("exit %d, %q", code, words)
			}
			if !h.logged("cut off: "+"") || !h.logged(tt.log) {
				t.Errorf("the log says %q", h.log)
			}
		})
	}
}

// Who does not end while there is grace is told why it is ended.
func TestEndOfGrace(t *testing.T) {
	h := newHouse(t, calm)
	k := h.talk(h.a)
	at := time.Now()
	h.stop()
	if err := k.say("help"); err != nil {
		t.Errorf("while there is grace: %v", err)
	}
	words, code := k.end(20 * time.Second)
	if code != 7 || !strings.Contains(words, "it is being stopped") {
		t.Errorf("exit %d, %q", code, words)
	}
	if d := time.Since(at); d < h.s.o.Grace {
		t.Errorf("ended after %v", d)
	}
}

// A client that does not answer when new keys are due is cut off, whatever it sends.
func TestRefusedRekey(t *testing.T) {
	for name, next := range map[string]func(r *raw) error{
		"silence": func(*raw) error { return nil },
		"data":    func(r *raw) error { return r.send("\x5e" + num(0) + str("help\n")) },
		"pings":   func(r *raw) error { return r.send("\xc0" + str("x")) },
		"other inits": func(r *raw) error {
			return r.send(kexInit("none", "none", "none", "none", "none", "none", "none", "none", "", ""))
		},
		"half of it":   func(r *raw) error { return r.send(usualInit()) },
		"a wrong step": func(r *raw) error { return r.send("\x1e" + str("x")) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, func(s *Server) {
				s.times.rekey = 256
				s.tables.mostStuck = 1000
			})
			r, err := rawDial(h.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer r.conn.Close()
			if err := r.login(h.a); err != nil {
				t.Fatal(err)
			}
			if err := r.open(1 << 20); err != nil {
				t.Fatal(err)
			}
			if err := r.send(request(0, "exec", false, str("kedge server"))); err != nil {
				t.Fatal(err)
			}
			for due := false; !due; { // until the server asks for new keys
				if err := r.send("\x5e" + num(0) + str("help\n")); err != nil {
					t.Fatal(err)
				}
				p, err := r.receive()
				if err != nil {
					t.Fatal(err)
				}
				due = p[0] == 20
			}
			go io.Copy(io.Discard, r.in)
			at := time.Now()
			for time.Since(at) < 20*time.Second {
				if err := next(r); err != nil {
					break
				}
				time.Sleep(100 * time.Millisecond)
				if name == "silence" {
					if err := r.gone(10 * time.Second); err != nil {
						t.Error(err)
					}
					break
				}
			}
			if d := time.Since(at); d > 15*time.Second {
				t.Errorf("it is there after %v", d)
			}
			h.good()
		})
	}
}

// The server announces strict key exchanges and keeps to them: with a client that does so
// as well, nothing may stand between the packets of the first exchange.
func TestStrictExchange(t *testing.T) {
	h := newHouse(t, nil)
	strict := func(between string) error {
		r, err := rawDial(h.addr)
		if err != nil {
			return err
		}
		defer r.conn.Close()
		if err := r.greet(); err != nil {
			return err
		}
		mine := kexInit(goodKex+",kex-strict-c-v00@openssh.com", goodHost, goodCipher, goodCipher, goodMAC, goodMAC, "none", "none", "", "")
		if err := r.write(frame(mine) + between + frame("\x1e"+str("\x09"+strings.Repeat("\x00", 31)))); err != nil {
			return err
		}
		theirs, err := r.plain()
		if err != nil {
			return err
		}
		if !strings.Contains(theirs, "kex-strict-s-v00@openssh.com") {
			return errors.New("strict exchanges are not announced")
		}
		p, err := r.plain()
		if err == nil && p[0] != 31 {
			err = fmt.Errorf("the answer is %d", p[0])
		}
		return err
	}
	if err := strict(""); err != nil {
		t.Errorf("without anything between: %v", err)
	}
	for name, between := range map[string]string{"ignore": frame("\x02" + str("x")), "debug": frame("\x04\x00" + str("x") + str("")), "unimplemented": frame("\x03" + num(1))} {
		if err := strict(between); err == nil || strings.Contains(err.Error(), "announced") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
