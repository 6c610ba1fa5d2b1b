package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/remote/access"
	"github.com/kedgebackup/kedge/remote/sshd"
)

const serveHelp = `Serve is a backup server: an SSH server that does nothing but keep repositories, for
clients of kedge, bup and git. It needs no sshd, no shell and no users.

Each repository is a directory under the root. Who may do what is said by the lines of
authorized_keys, which 'kedge client' writes; a change takes effect with the next
connection, and a session whose line is gone ends within 15 seconds. The root's own
things are in ROOT/.kedge: host_key, which is made if it is not there, and
authorized_keys.

While no key is let in it prints what to type for a first client. It says what happens
on standard error, a line each, until SIGTERM or SIGINT ends it: then sessions that are
open have --grace to end. See docs/server.md.`

const serveExample = `  kedge serve                                   # to try it: loopback only
  kedge serve --root /srv/backup --listen :2222`

// serveMemory is the limit of the memory that the runtime manages, for all sessions
// together; each may take 32 MiB.
const serveMemory = 1 << 30

type serveOptions struct {
	root, state, listen, keys, hostKey string
	sessions, perKey                   int
	quota                              int64 // of keys without one
	grace                              time.Duration
}

func (a *app) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "serve [--root DIR] [--listen ADDRESS] [OPTION...]",
		Short:   "be a backup server",
		Long:    serveHelp,
		Example: serveExample,
		Args:    cobra.NoArgs,
	}
	var o serveOptions
	f := cmd.Flags()
	f.StringVar(&o.root, "root", "", "repositories are in `DIR`, or live in s3://BUCKET/PREFIX (default: $KEDGE_ROOT, or the home)")
	f.StringVar(&o.state, "state", "", "with --root s3://…: work in `DIR`, which may be lost at any time")
	f.StringVar(&o.listen, "listen", "127.0.0.1:2222", "take connections at `ADDRESS`; :2222 is port 2222 of all addresses")
	f.StringVar(&o.keys, "authorized-keys", "", "the keys that are let in are in `FILE` (default: ROOT/.kedge/authorized_keys)")
	f.StringVar(&o.hostKey, "host-key", "", "the server's private key is in `FILE`; of one in FILE.next clients are told, for the day it takes its place (default: ROOT/.kedge/host_key)")
	f.IntVar(&o.sessions, "sessions", 0, "at most `N` sessions at once (default 128)")
	f.IntVar(&o.perKey, "sessions-per-key", 0, "at most `N` sessions of one key at once (default 8)")
	f.DurationVar(&o.grace, "grace", 30*time.Second, "at the end, sessions have this `TIME` to end by themselves")
	return a.command(cmd, func(ctx context.Context, _ []string) error {
		s, err := a.configuredServer()
		if err != nil {
			return err
		}
		own, err := a.serverRoot(o.root)
		if err != nil {
			return err
		}
		if isRootOf(s, own) { // the command line comes first
			if s.Listen != "" && !f.Changed("listen") {
				o.listen = s.Listen
			}
			o.quota = s.QuotaBytes()
			o.keys, o.hostKey = cmp.Or(o.keys, s.AuthorizedKeys), cmp.Or(o.hostKey, s.HostKey)
		}
		return a.serve(ctx, o)
	})
}

func (a *app) serve(ctx context.Context, o serveOptions) error {
	if o.sessions < 0 || o.perKey < 0 || o.grace <= 0 {
		return usagef("--sessions, --sessions-per-key and --grace are above zero")
	}
	root, err := a.serverRoot(o.root)
	if err != nil {
		return err
	}
	store, err := a.gatewayFor(root, o.state)
	if err != nil {
		return err
	}
	own := root // where what is the server's own stands in .kedge
	if g, ok := store.(*gateway); ok {
		if err := g.refuse(ctx); err != nil {
			return err
		}
		own = o.state
		if err := a.FS.MkdirAll(filepath.Join(own, ".kedge"), 0o700); err != nil {
			return err
		}
	} else if info, err := os.Stat(root); errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return withHint(usagef("%s is no directory", quote(root)), "make it, for the user that the server runs as: it holds the repositories")
	} else if err != nil {
		return err
	}
	keys := o.keys
	if keys == "" {
		keys = authorizedKeys(own)
	}
	if o.hostKey == "" {
		o.hostKey = filepath.Join(own, ".kedge", "host_key")
	}
	if a.Env("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(serveMemory)
	}
	syscall.Umask(0o077)
	log := a.serveLog()
	s, err := sshd.New(sshd.Options{
		FS: a.FS, Root: root, Store: store, HostKey: o.hostKey, AuthorizedKeys: keys, Log: log, Grace: o.grace, Quota: o.quota,
		Limits: sshd.Limits{Total: o.sessions, PerKey: o.perKey},
	})
	if err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", o.listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return withHint(err, "--listen 127.0.0.1:2223 takes another port; 'ss -ltnp' tells who has this one")
	} else if err != nil {
		return err
	}
	if err := a.printFirstUse(s, l.Addr(), own, keys, o.keys != ""); err != nil {
		_ = l.Close()
		return err
	}
	told := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		defer close(told)
		log("stopping: sessions have %v to end", o.grace)
	})()
	if err := s.Serve(ctx, l); err != nil {
		return err
	}
	<-told
	log("stopped")
	return nil
}

// serveLog returns what writes the events of a server: with the time, unless systemd,
// which writes that itself, reads them.
func (a *app) serveLog() func(string, ...any) {
	var mu sync.Mutex
	journal := a.Env("JOURNAL_STREAM") != ""
	return func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		at := ""
		if !journal {
			at = a.now().Format(time.RFC3339) + " "
		}
		_, _ = fmt.Fprintf(a.Stderr, "%s%s\n", at, fmt.Sprintf(format, args...))
	}
}

// printFirstUse prints where the server listens and by what clients know it; and, as long
// as no key is let in, what to type next. Keys that are not where clients are usually
// added are named there.
func (a *app) printFirstUse(s *sshd.Server, at net.Addr, root, keys string, named bool) error {
	if a.common.quiet {
		return nil
	}
	host, port := a.reachedAt(at)
	name := "[" + host + "]:" + port
	if port == "22" {
		name = host
	}
	var b strings.Builder
	fmt.Fprintf(&b, "listening on %v for repositories in %s\n", at, escape(root))
	for _, k := range s.HostKeys() {
		fmt.Fprintf(&b, "host key %s\nknown_hosts line %s %s\n", k.Fingerprint, name, k.Line)
	}
	list, err := a.FS.ReadFile(keys, access.MaxKeys)
	if known, _ := access.ParseKeys(list); err != nil || len(known) == 0 {
		where := "--root " + shellWord(root)
		if named {
			where += " --authorized-keys " + shellWord(keys)
		}
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		fmt.Fprintf(&b, firstUse, name, s.HostKeys()[0].Line, where, "ssh://"+host+":"+port+"/build")
	}
	if err := a.print([]byte(b.String())); err != nil {
		return err
	}
	return a.out.Flush()
}

// reachedAt returns the host and the port by which clients reach an address: that of a
// server which takes connections at all addresses has the name of the machine.
func (a *app) reachedAt(at net.Addr) (host, port string) {
	host, port, _ = net.SplitHostPort(at.String())
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "HOST"
		if name, err := os.Hostname(); err == nil {
			host = name
		}
	}
	return host, port
}

// shellWord returns a word as a shell takes it.
func shellWord(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-:+@%") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// firstUse is what to type for a first client: %[1]s the server's name in known_hosts,
// %[2]s its key, %[3]s where keys are, %[4]s the repository. All of it can be pasted into
// one shell when client and server are one machine.
const firstUse = `
No key is let in yet. For a first client, with a repository called build:

    # on the client: make a key, and know this server
    mkdir -p -m 700 ~/.ssh
    ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/kedge
    echo '%[1]s %[2]s' >> ~/.ssh/known_hosts

    # here, with the file kedge.pub from there: let the key in
    kedge client add %[3]s --role append build ~/.ssh/kedge.pub

    # on the client: make the repository, save into it, look, restore
    kedge init -r %[4]s --ssh-key ~/.ssh/kedge
    kedge backup -r %[4]s --ssh-key ~/.ssh/kedge -n etc /etc
    kedge ls -r %[4]s --ssh-key ~/.ssh/kedge etc/latest/etc
    kedge restore -r %[4]s --ssh-key ~/.ssh/kedge -C /tmp/restored etc/latest/etc

`
