// Package sshd is an SSH server that can do nothing but serve repositories: no shell, no
// system users, no files. It obeys the same authorized_keys lines as OpenSSH.
//
// # Who is let in
//
// A client proves an SSH key, by nothing else. The name of the user that it gives means
// nothing. The line of the key in authorized_keys, which is read anew for each
// connection, says which repository the key is for and in what role; see package access.
// It is looked at again every 15 seconds: when the line is gone, has expired or gives
// other rights, the session ends.
// The line travels from the proof to the session inside ssh.Permissions and nowhere else:
// a client that offers one key and proves another gets the rights of the one it proved.
//
// # What a client may do
//
// A connection may open one channel of the type "session" and on it run one command,
// by an exec request whose text access.ParseRequest knows. Everything else is answered
// with a refusal: other channels, a second one, shell, pty-req, subsystem, forwarding of
// agents, X11, ports and sockets, env but for GIT_PROTOCOL=version=1, and all global
// requests but that for proof of a key of the host (see below). A connection in which more
// than 1,000 of these are sent, or 100 channels opened, is cut.
//
// # The key of the host
//
// Who logs in is told of all the server's keys: the one that it proves, and one that is to
// take its place, in a file beside it whose name ends in .next. OpenSSH's clients ask for
// proof and write it into known_hosts (UpdateHostKeys), so that a key can be replaced
// without anybody being asked to believe a new one.
//
// # Limits
//
//	10 s    from the connection to the proof of a key
//	3       keys that fail
//	256     connections without proof that are talked to, 128 of one address (an IPv6
//	        network of 64 bits counts as one); 1,024 more wait for a place
//	500 ms  of silence, or 3 s in all, after which such a connection makes room for one
//	        that waits
//	20 s    from the proof to the command
//	128     sessions, 8 of one key
//	45 s    without a byte, though a keepalive is sent each 15 s
//	60 s    for the kernel to take what is written
//	5 min   for the answer to a keepalive, and for a client to read or write what git waits
//	        for; server.Limits for the rest
//	8       packets, of 35,000 bytes at most, that are read before they are answered, while
//	        there is no proof; see gate
//	3       connections of a key that cannot be ended, because it broke the protocol; then
//	        it is refused. See client.bury
//	2 MiB   of a channel are read ahead
//
// A client that stalls keeps nobody else out: what stalls makes room. Rights, limits and refusals go to the log, one
// line each, with all that a client may have chosen escaped.
package sshd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/remote/access"
	"github.com/kedgebackup/kedge/remote/server"
	"github.com/kedgebackup/kedge/repo"
)

// Options says how a Server is reached and whom it lets in.
type Options struct {
	FS             *fsx.FS
	Root           string       // directory of the repositories
	Store          access.Store // where they are if they are not directories; nil: they are
	HostKey        string       // file of a private key; it is made if it is not there. See hostKeys
	AuthorizedKeys string       // file, read anew for every connection; nobody gets in while it is not there
	Quota          int64        // of the repositories of keys whose line says none; 0: no limit
	Limits         Limits
	Session        server.Limits
	Grace          time.Duration // for sessions to end when the server stops: 30 s
	// Log is told what an operator should know, a line each; it may be called by several
	// goroutines at once.
	Log func(format string, args ...any)
}

// Limits bound what clients can cost together. A zero field means the default.
type Limits struct {
	Total      int // sessions at once: 128
	PerKey     int // sessions at once of one key: 8
	Handshakes int // connections that have not proved a key: 256; half of them from one address
}

// times are limits that tests make smaller.
type times struct {
	handshake time.Duration // from the connection to the proof of a key
	command   time.Duration // from there to the command
	alive     time.Duration // between two keepalives
	dead      time.Duration // without a byte
	write     time.Duration // for the kernel to take what is written
	stall     time.Duration // for a client to read or write what git waits for
	part      time.Duration // for a client to go after its command has ended
	bury      time.Duration // for what the ssh package has started to end
	rekey     uint64        // bytes after which new keys are agreed on
}

func usualTimes() times {
	return times{
		handshake: 10 * time.Second, command: 20 * time.Second, alive: 15 * time.Second, dead: 45 * time.Second,
		write: time.Minute, stall: 5 * time.Minute, part: 2 * time.Second,
		bury: 10 * time.Second, rekey: 1 << 30,
	}
}

const (
	maxTries    = 3
	maxRefused  = 1000
	maxChannels = 100
	maxCrowd    = 1024
)

// Server is an SSH server.
type Server struct {
	o       Options
	times   times
	signers []ssh.Signer // the first is the host's
	keys    keyFile
	lobby   lobby
	tables  tables
	large   chan struct{} // server.Options.Large
}

// New returns a Server; it reads the host key and checks authorized_keys once, so that a
// mistake in it is told at the start. Lines that are wrong go to the log.
func New(o Options) (*Server, error) {
	if o.FS == nil {
		o.FS = new(fsx.FS)
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	for _, d := range []struct {
		field *int
		value int
	}{{&o.Limits.Total, 128}, {&o.Limits.PerKey, 8}, {&o.Limits.Handshakes, 256}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if o.Grace <= 0 {
		o.Grace = 30 * time.Second
	}
	signers, err := hostKeys(o.FS, o.HostKey)
	if err != nil {
		return nil, err
	}
	s := &Server{
		o: o, times: usualTimes(), signers: signers,
		keys:   keyFile{fs: o.FS, name: o.AuthorizedKeys},
		tables: tables{most: o.Limits.Total, perKey: o.Limits.PerKey, mostStuck: 3, of: map[string]int{}, stuck: map[string]int{}},
		large:  make(chan struct{}, 1),
	}
	s.lobby = lobby{
		most: o.Limits.Handshakes, share: max(1, o.Limits.Handshakes/2), crowd: maxCrowd,
		patience: 500 * time.Millisecond, stay: 3 * time.Second, log: s.log, of: map[netip.Prefix]int{},
	}
	if _, err := s.keys.read(s.log); err != nil {
		return nil, err
	}
	return s, nil
}

// HostKey is a key by which clients know the server.
type HostKey struct {
	Line        string // its type and its Base64, as known_hosts has it
	Fingerprint string // the name of it that people compare
}

// HostKeys returns the key by which clients know the server, and then the one by which
// they will know it, if there is one.
func (s *Server) HostKeys() []HostKey {
	var list []HostKey
	for _, k := range s.signers {
		line := strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(k.PublicKey())), "\n")
		list = append(list, HostKey{line, ssh.FingerprintSHA256(k.PublicKey())})
	}
	return list
}

// log writes one line: whatever a client has put into it, no more than one, and nothing
// that a terminal would obey.
func (s *Server) log(format string, args ...any) {
	const most = 1000
	line := fmt.Sprintf(format, args...)
	if len(line) > most {
		line = line[:most] + "..."
	}
	var b strings.Builder
	for _, r := range line {
		if strconv.IsPrint(r) {
			b.WriteRune(r)
		} else {
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		}
	}
	s.o.Log("%s", b.String())
}

// Serve accepts connections until ctx ends, then waits for those that are open; it cuts
// them when grace is over. It returns nil if ctx ended, and else why the listener did.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	sessions, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	var open sync.WaitGroup
	defer func() {
		s.lobby.empty()
		grace := time.AfterFunc(s.o.Grace, func() { cut(errStopping) })
		open.Wait()
		grace.Stop()
		cut(nil)
	}()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	for pause := time.Duration(0); ; {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = c.Close()
			}
			return nil
		case err != nil && !passing(err):
			return err
		case err != nil:
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.log("accept: %v; next try in %v", err, pause)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		default:
			pause = 0
			open.Go(func() { s.serve(sessions, c) })
		}
	}
}

// errStopping is the end of a session that has not ended while there was grace.
var errStopping = &repo.BusyError{What: "server", Hint: "it is being stopped"}

// passing reports whether a listener that failed so may work again in a moment.
func passing(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
