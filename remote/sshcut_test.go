package remote

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// A connection that is cut ends what reads from it, and Close, whichever comes first.
func TestBuiltinCut(t *testing.T) {
	id, public, _ := newIdentity(t, "")
	host := newKey(t)
	s := prepareSSHServer(public, host)
	s.command = func(_ string, ch ssh.Channel) uint32 {
		_, _ = io.WriteString(ch, "hello\n")
		_, _ = io.Copy(io.Discard, ch)
		return 0
	}
	s.start(t)
	for i := range 20 {
		cut := make(chan struct{})
		var wait sync.WaitGroup
		a := listen(t, &wait, func(conn net.Conn) {
			far, err := net.Dial("tcp", dialName(s.addr))
			if err != nil {
				return
			}
			defer far.Close()
			go func() { _, _ = io.Copy(far, conn) }()
			go func() { _, _ = io.Copy(conn, far) }()
			<-cut
		})
		l, err := dialSSH(t.Context(), a, builtin(t, id, knownLineOf(a, host.PublicKey())), kedgeServer)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(l, make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
		l.grace = 50 * time.Millisecond
		done := make(chan struct{})
		var both sync.WaitGroup
		for range 2 { // one of them is what the line has, one what Close has
			both.Go(func() {
				if n, err := l.Read(make([]byte, 1)); err == nil {
					t.Errorf("%d bytes were read", n)
				}
			})
		}
		both.Go(func() {
			if i%2 == 0 {
				<-cut
			}
			_ = l.Close()
		})
		time.Sleep(time.Millisecond)
		close(cut)
		go func() {
			both.Wait()
			close(done)
		}()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatal("somebody waits for a connection that is gone")
		}
	}
}
