package sshd

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
)

// fakeChannel is a channel on which one can read and write, and nothing else.
type fakeChannel struct {
	ssh.Channel
	io.Reader
	io.Writer
}

// Read reads.
func (f fakeChannel) Read(p []byte) (int, error) { return f.Reader.Read(p) }

// Write writes.
func (f fakeChannel) Write(p []byte) (int, error) { return f.Writer.Write(p) }

// paired returns a stream and what is at its other end.
func paired() (s *stream, other net.Conn, gone chan struct{}, end func()) {
	var all sync.WaitGroup
	c, other := net.Pipe()
	gone = make(chan struct{})
	s = newStream(fakeChannel{Reader: c, Writer: c}, gone, all.Go)
	return s, other, gone, func() {
		s.close()
		c.Close()
		all.Wait()
	}
}

// All bytes come through, in both directions.
func TestStream(t *testing.T) {
	s, other, _, end := paired()
	defer end()
	data := bytes.Repeat([]byte("0123456789abcdef"), 3*streamBuffer/16+5)
	go func() {
		_, _ = other.Write(data)
		got := make([]byte, len(data))
		_, _ = io.ReadFull(other, got)
		_, _ = other.Write(got)
		other.Close()
	}()
	got := make([]byte, len(data))
	if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("read: %v", err)
	}
	if n, err := s.Write(data); n != len(data) || err != nil {
		t.Fatalf("write: %d, %v", n, err)
	}
	if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("read: %d bytes, %v", len(got), err)
	}
	if n, err := s.Read(got); n != 0 || err != io.EOF {
		t.Errorf("after the end: %d, %v", n, err)
	}
	if _, err := s.Write(data); err == nil {
		t.Error("nobody reads, and it is written")
	}
}

// Deadlines end reading and writing, those that have begun as well.
func TestStreamDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, other, _, end := paired()
		p := make([]byte, 10)
		start := time.Now()
		for i, set := range []func(){
			func() { _ = s.SetReadDeadline(time.Now().Add(time.Second)) },
			func() {
				_ = s.SetReadDeadline(time.Time{})
				time.AfterFunc(time.Second, func() { _ = s.SetReadDeadline(time.Unix(1, 0)) })
			},
			func() {
				_ = s.SetReadDeadline(time.Now().Add(time.Hour))
				time.AfterFunc(500*time.Millisecond, func() { _ = s.SetReadDeadline(time.Now().Add(500 * time.Millisecond)) })
			},
		} {
			set()
			if n, err := s.Read(p); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Duration(i+1)*time.Second {
				t.Errorf("%d: %d, %v after %v", i, n, err, time.Since(start))
			}
		}
		_ = s.SetReadDeadline(time.Time{})
		go other.Write([]byte("late"))
		if n, err := s.Read(p); string(p[:n]) != "late" || err != nil {
			t.Errorf("after the deadlines: %q, %v", p[:n], err)
		}
		_ = s.SetWriteDeadline(time.Now().Add(time.Second))
		for range 2 {
			if n, err := s.Write(p); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("write: %d, %v", n, err)
			}
		}
		end()
	})
}

// The end of the line ends both, though the channel knows nothing of it.
func TestStreamOfADeadLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, gone, end := paired()
		time.AfterFunc(time.Second, func() { close(gone) })
		var both sync.WaitGroup
		both.Go(func() {
			if _, err := s.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("read: %v", err)
			}
		})
		both.Go(func() {
			if _, err := s.Write(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("write: %v", err)
			}
		})
		both.Wait()
		end()
	})
}
