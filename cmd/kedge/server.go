package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/syslog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/remote"
	"github.com/kedgebackup/kedge/remote/access"
	"github.com/kedgebackup/kedge/remote/server"
	"github.com/kedgebackup/kedge/remote/upload"
	"github.com/kedgebackup/kedge/repo"
)

const serverHelp = `Server answers one client on standard input and output: sshd starts it, or kedge
itself. People do not.

A key is bound to a repository by its line in authorized_keys ('kedge client add'
writes it):

    restrict,command="kedge server --repo build --role append" ssh-ed25519 ...

Then the key can do what its role allows with that repository, whatever the client
asks for. The roles:

    append   make the repository, save to it, list, restore; nothing is deleted
             or overwritten. --no-read takes listing and restoring away
    read     list, restore, git clone
    mirror   the same, and copy the repository as it is, for a standby server

Without --repo and --role the client has all the rights of the user. Deleting, gc and
settings are for the user of the server, on the server. See docs/server.md.`

const serverExample = `  kedge server --repo build --role append --names 'web-*' --quota 500G
  kedge server --repo '*' --role mirror --root /srv/backup`

func (a *app) serverCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "server [--repo NAME --role ROLE] [OPTION...]",
		Short:   "answer one client, for sshd",
		Long:    serverHelp,
		Example: serverExample,
		Args:    cobra.NoArgs,
	}
	var o grantFlags
	f := cmd.Flags()
	f.StringArrayVar(&o.repos, "repo", nil, "the client is bound to the repository `NAME` under the root; a glob for read and mirror")
	o.flags(f)
	f.StringVar(&o.root, "root", "", "repositories are in `DIR`, or live in s3://BUCKET/PREFIX (default: $KEDGE_ROOT, or the home)")
	state := f.String("state", "", "with --root s3://…: work in `DIR`, which may be lost at any time")
	return a.command(cmd, func(ctx context.Context, _ []string) error {
		if a.common.json {
			return usagef("kedge server speaks to a client, which does not read JSON")
		}
		grant, err := access.ParseForced(o.words())
		if err != nil {
			return usagef("%v", err)
		}
		if grant.Root, err = a.serverRoot(grant.Root); err != nil {
			return err
		}
		if grant.Role == access.Append && grant.Quota == 0 {
			grant.Quota = a.usualQuota(grant.Root)
		}
		if grant.Store, err = a.gatewayFor(grant.Root, *state); err != nil {
			return err
		}
		return a.answer(ctx, grant)
	})
}

// serverRoot returns the directory of the repositories of a server.
func (a *app) serverRoot(root string) (string, error) {
	configured := ""
	if root == "" && a.Env("KEDGE_ROOT") == "" {
		s, err := a.configuredServer()
		if err != nil {
			return "", err
		} else if s != nil {
			configured = s.Root
		}
	}
	for _, dir := range []string{root, a.Env("KEDGE_ROOT"), configured, a.Env("HOME"), "."} {
		if strings.HasPrefix(dir, "s3://") {
			return dir, nil
		}
		if dir != "" {
			return filepath.Abs(dir)
		}
	}
	return "", nil
}

// usualQuota returns the quota of a repository below a root for keys whose line says none. A
// config file that is wrong keeps nobody from saving: 'kedge config check' and 'kedge status'
// are where that is told.
func (a *app) usualQuota(root string) int64 {
	s, err := a.configuredServer()
	if err != nil || !isRootOf(s, root) {
		return 0
	}
	return s.QuotaBytes()
}

// answer serves the client at the other end of standard input and output.
func (a *app) answer(ctx context.Context, grant access.Grant) error {
	bound := grant.Role != access.Owner
	request := access.Request{What: access.Server}
	if command := a.Env("SSH_ORIGINAL_COMMAND"); bound && command != "" {
		var err error
		if request, err = access.ParseRequest(command); err != nil {
			return err
		}
	}
	home, err := a.home()
	if err != nil {
		return err
	}
	grant.Who = a.principal(&grant)
	protocol := a.Env("GIT_PROTOCOL")
	log := a.serverLog(grant.Who)
	defer log.close()
	// What the other side has put into the environment ends here, and what is made is
	// its user's alone.
	clearEnv(grant.Store)
	syscall.Umask(0o077)
	line := newStdio(a.Stdin, a.Stdout)
	if request.What == access.UploadPack {
		err = a.answerGit(ctx, line, &grant, request.Path, protocol)
	} else {
		err = server.Serve(ctx, line, server.Options{FS: a.FS, Grant: grant, Default: home, Log: log.printf})
	}
	if err != nil && bound {
		log.printf("%v", err)
		return discreet(err)
	}
	return err
}

func (a *app) answerGit(ctx context.Context, line io.ReadWriter, grant *access.Grant, path, protocol string) error {
	r, err := grant.OpenToRead(ctx, a.FS, path)
	if err != nil {
		return err
	}
	defer r.Close()
	return upload.Serve(ctx, line, r, upload.Options{Protocol: protocol})
}

// discreet returns what a client that is bound to a repository may know of an error:
// what is about its request. Where things are on the server, and what is wrong with them,
// stands in the log.
func discreet(err error) error {
	var (
		refused *repo.RefusedError
		none    *repo.NotFoundError
		busy    *repo.BusyError
	)
	if errors.As(err, &refused) || errors.As(err, &none) || errors.As(err, &busy) || errors.Is(err, context.Canceled) {
		return err
	}
	return errors.New("the session ended with an error, which the log of the server names")
}

// principal returns who the client is: the fingerprint of its key, if sshd tells it
// (ExposeAuthInfo yes), else the repository it is bound to.
func (a *app) principal(grant *access.Grant) string {
	if text, err := a.FS.ReadFile(a.Env("SSH_USER_AUTH"), 64<<10); err == nil {
		for line := range strings.Lines(string(text)) {
			method, key, _ := strings.Cut(strings.TrimSpace(line), " ")
			if k, err := access.ParseKeyFile([]byte(key)); method == "publickey" && err == nil {
				return k.Fingerprint()
			}
		}
	}
	if grant.Role == access.Owner {
		return "local"
	}
	return "repo:" + strings.Join(grant.Repos, ",")
}

// serverLog is where kedge server writes down what an operator should know. Standard
// error is read by the client, so that is the system's log; without one, nothing.
type serverLog struct {
	w    *syslog.Writer
	from string
}

func (a *app) serverLog(who string) *serverLog {
	from, _, _ := strings.Cut(a.Env("SSH_CONNECTION"), " ")
	if from == "" {
		return &serverLog{} // a child of the client's: both are one user's
	}
	w, err := syslog.New(syslog.LOG_INFO|syslog.LOG_DAEMON, "kedge")
	if err != nil {
		return &serverLog{}
	}
	return &serverLog{w, from + " " + who}
}

func (l *serverLog) printf(format string, args ...any) {
	if l.w != nil {
		_ = l.w.Info(escapeText(l.from + ": " + fmt.Sprintf(format, args...)))
	}
}

func (l *serverLog) close() {
	if l.w != nil {
		_ = l.w.Close()
	}
}

// stdio is standard input and output as one connection.
type stdio struct{ in, out *os.File }

// newStdio makes a connection of standard input and output. They are opened anew as
// files that do not block, because only those can be waited for with a limit of time.
func newStdio(in io.Reader, out io.Writer) io.ReadWriter {
	i, ok := in.(*os.File)
	o, also := out.(*os.File)
	if !ok || !also {
		return struct {
			io.Reader
			io.Writer
		}{in, out}
	}
	remote.WidenPipe(i)
	return &stdio{unblocked(i), unblocked(o)}
}

func unblocked(f *os.File) *os.File {
	fd := f.Fd()
	if err := syscall.SetNonblock(int(fd), true); err != nil {
		return f
	}
	return os.NewFile(fd, f.Name())
}

// Read reads from standard input.
func (s *stdio) Read(p []byte) (int, error) { return s.in.Read(p) }

// Write writes to standard output.
func (s *stdio) Write(p []byte) (int, error) { return s.out.Write(p) }

// SetReadDeadline limits the time of reading.
func (s *stdio) SetReadDeadline(t time.Time) error { return s.in.SetReadDeadline(t) }

// SetWriteDeadline limits the time of writing.
func (s *stdio) SetWriteDeadline(t time.Time) error { return s.out.SetWriteDeadline(t) }

// Close closes both.
func (s *stdio) Close() error { return errors.Join(s.in.Close(), s.out.Close()) }
