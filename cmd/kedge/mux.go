package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
)

// What bup's mux makes of the two outputs of a program is one stream: the word BUPMUX,
// then packets
//
//	length   4 bytes, big-endian
//	channel  1 byte: 1 standard output, 2 standard error, 3 the end, which has length 0
//	data     length bytes, at most muxPacket
//
// What stands in front of the word, or behind the end, is for people.
const (
	muxWord   = "BUPMUX"
	muxPacket = 128 << 10
	muxOut    = 1
	muxErr    = 2
	muxEnd    = 3
)

// muxWriter writes packets, of several goroutines.
type muxWriter struct {
	mu  sync.Mutex
	out io.Writer
}

func (m *muxWriter) begin() error {
	_, err := io.WriteString(m.out, muxWord)
	return err
}

// packet writes one packet.
func (m *muxWriter) packet(channel byte, data []byte) error {
	head := append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), channel)
	m.mu.Lock()
	defer m.mu.Unlock()
	_, err := m.out.Write(append(head, data...))
	return err
}

// copy sends all that r gives.
func (m *muxWriter) copy(channel byte, r io.Reader) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if werr := m.packet(channel, buf[:n]); werr != nil {
				return werr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// demux takes a stream apart. It returns when the stream ends.
func demux(in io.Reader, out, said io.Writer) error {
	if err := skipToMux(in, said); err != nil {
		return err
	}
	var head [5]byte
	buf := make([]byte, muxPacket)
	for {
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return fmt.Errorf("the stream of packets broke off: %w", err)
		}
		n := binary.BigEndian.Uint32(head[:])
		if n > muxPacket {
			return fmt.Errorf("packet of %d bytes: the connection is not in order", n)
		}
		if _, err := io.ReadFull(in, buf[:n]); err != nil {
			return fmt.Errorf("the stream of packets broke off: %w", err)
		}
		var err error
		switch head[4] {
		case muxOut:
			_, err = out.Write(buf[:n])
		case muxErr:
			_, err = said.Write(buf[:n])
		case muxEnd:
			_, err = io.Copy(said, in)
			return err
		default:
			err = fmt.Errorf("packet for the unknown channel %d", head[4])
		}
		if err != nil {
			return err
		}
	}
}

// skipToMux passes on what stands in front of the word. It is read byte by byte, as
// nothing behind the word may be.
func skipToMux(in io.Reader, said io.Writer) error {
	var b [1]byte
	held := "" // a beginning of the word
	for held != muxWord {
		if _, err := io.ReadFull(in, b[:]); err != nil {
			_, _ = io.WriteString(said, held)
			return io.EOF
		}
		held += string(b[:])
		for !strings.HasPrefix(muxWord, held) {
			_, _ = io.WriteString(said, held[:1])
			held = held[1:]
		}
	}
	return nil
}

const muxHelp = `Mux runs CMD and writes what it prints, on standard output and standard error, as one
stream of packets: 'on' reads that at the other end of a connection.`

func (a *app) muxCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "mux CMD [ARG...]",
		Short:   "make one stream of the two outputs of a command",
		Long:    muxHelp,
		Example: "  kedge mux -- ls -l | xxd",
		Args:    cobra.MinimumNArgs(1),
		Hidden:  true,
	}
	return a.command(cmd, func(ctx context.Context, args []string) error {
		c := exec.CommandContext(ctx, args[0], args[1:]...)
		c.Stdin = a.Stdin
		return runMuxed(c, a.Stdout, nil)
	})
}

// runMuxed runs a command whose outputs become packets. What is to be closed when it has
// begun is ours no longer: the other end must see that the command has closed it.
func runMuxed(c *exec.Cmd, out io.Writer, given []*os.File) error {
	stdout, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	stderr, err := c.StderrPipe()
	if err != nil {
		return err
	}
	m := &muxWriter{out: out}
	if err := m.begin(); err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return errors.Join(err, m.packet(muxEnd, nil))
	}
	for _, f := range given {
		_ = f.Close()
	}
	var errs [2]error
	var wg sync.WaitGroup
	wg.Go(func() { errs[0] = m.copy(muxOut, stdout) })
	wg.Go(func() { errs[1] = m.copy(muxErr, stderr) })
	wg.Wait() // before Wait, which closes what is not read yet
	err = c.Wait()
	if err := errors.Join(append(errs[:], m.packet(muxEnd, nil))...); err != nil {
		return err
	}
	return endOf(err)
}

// statusError is the exit code of a program that ran in our place, and has said itself
// what there was to say.
type statusError struct{ code int }

// Error tells the code.
func (e *statusError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// endOf makes a statusError of the end of a program.
func endOf(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if s, ok := exit.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return &statusError{128 + int(s.Signal())}
	}
	return &statusError{exit.ExitCode()}
}

// self returns the path of this program.
func self() (string, error) { return os.Executable() }
