package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/remote"
	"github.com/kedgebackup/kedge/remote/access"
	"github.com/kedgebackup/kedge/remote/server"
	"github.com/kedgebackup/kedge/repo"
)

const onHelp = `On runs a command of bup's on HOST, over ssh, with the repository of this machine: HOST
needs no key to come here, and what it may do is what the command needs. There must be a
program called bup on HOST, bup itself or kedge.

    index                       its index stays on HOST
    save -n NAME, split -n NAME may append to NAME and to nothing else
    get                         may append to any name
    ls, join, cat-file, ftp, restore   may read
    features, help, version     ask about HOST

What the command prints comes out here, and its exit code is that of on.`

const onExample = `  kedge on web1 index /etc
  kedge on root@web1 save -n web1 /etc`

// reverseVariable tells a command that the repository is at the other end of file
// descriptors 3 and 4.
const reverseVariable = "BUP_SERVER_REVERSE"

func (a *app) onCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:         "on [USER@]HOST COMMAND [ARG...]",
		Short:       "run a command on another host, with the repository here",
		Long:        onHelp,
		Example:     onExample,
		Args:        cobra.MinimumNArgs(2),
		Annotations: map[string]string{firstAnnotation: ""},
	}
	return a.command(cmd, func(ctx context.Context, args []string) error {
		grant, err := a.onGrant(args[1:])
		if err != nil {
			return err
		}
		argv, err := a.onSSH(args[0])
		if err != nil {
			return err
		}
		return a.on(ctx, argv, args[1:], grant)
	})
}

// onSSH returns the command that runs a program called bup on a host.
func (a *app) onSSH(host string) ([]string, error) {
	far := []string{"bup", "on--server"}
	if host == "-" && a.Env("BUP_TEST_LEVEL") != "" {
		exe, err := self()
		return append([]string{exe}, far[1:]...), err
	}
	at, err := remote.ParseAddress(host + ":")
	if err != nil || at.Host == "" {
		return nil, usagef("%s is no host", quote(host))
	}
	argv := []string{"ssh"}
	if s := a.Env("KEDGE_SSH"); s != "" {
		argv[0] = s
	}
	if at.Port != 0 {
		argv = append(argv, "-p", strconv.Itoa(at.Port))
	}
	name := at.Host
	if at.User != "" {
		name = at.User + "@" + name
	}
	return append(argv, name, "--", "sh -c 'BUP_DEBUG=0 BUP_FORCE_TTY=0  bup on--server'"), nil
}

// onGrant returns what a command may do with the repository. Whoever rules HOST could ask
// for anything; so it gets what the command needs.
func (a *app) onGrant(args []string) (access.Grant, error) {
	home, err := a.home()
	if err != nil {
		return access.Grant{}, err
	}
	g := access.Grant{Role: access.Read, Root: filepath.Dir(home), Repos: []string{filepath.Base(home)}, Who: "local"}
	switch args[0] {
	case "index", "features", "help", "version", "ls", "join", "cat-file", "ftp", "restore":
	case "get":
		g.Role = access.Append
	case "save", "split":
		g.Role = access.Append
		argv, _, err := normalise(a.root(), args)
		if err != nil {
			return g, err
		}
		g.Names = []string{"\x00"} // no name at all
		for _, arg := range argv {
			if arg == "--" {
				break
			}
			if name, ok := strings.CutPrefix(arg, "--name="); ok {
				g.Names = []string{globbed(name)}
			}
		}
	default:
		return g, withHint(usagef("%s is not run on another host", quote(args[0])), "save, index, split, get, restore and those that read are")
	}
	return g, nil
}

// on runs the command, and serves it.
func (a *app) on(ctx context.Context, argv, args []string, grant access.Grant) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := exec.Command(argv[0], argv[1:]...)
	if argv[len(argv)-1] == "on--server" {
		c.Args[0] = "bup"
	}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stop := context.AfterFunc(ctx, func() {
		if c.Process != nil {
			_ = syscall.Kill(-c.Process.Pid, syscall.SIGTERM)
		}
	})
	defer stop()
	in, err := c.StdinPipe()
	if err != nil {
		return err
	}
	out, outEnd, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	c.Stdout = outEnd
	said, saidEnd, err := os.Pipe()
	if err != nil {
		_ = outEnd.Close()
		return err
	}
	defer said.Close()
	c.Stderr = saidEnd
	err = c.Start()
	_, _ = outEnd.Close(), saidEnd.Close()
	if err != nil {
		return err
	}
	muxed := make(chan error, 1)
	go func() { muxed <- demux(said, a.Stdout, a.Stderr) }()
	if _, err := in.Write(onMessage(args)); err != nil {
		a.ui.line("the command could not be sent: %s", escapeText(err.Error()))
	}
	line := struct {
		io.Reader
		io.Writer
		io.Closer
	}{out, in, in}
	serr := server.Serve(ctx, line, server.Options{FS: a.FS, Grant: grant,
		Limits: server.Limits{First: 30 * 24 * time.Hour, Idle: 24 * time.Hour, Quiet: 24 * time.Hour},
		Log:    func(format string, v ...any) { a.ui.line("%s", escapeText(fmt.Sprintf(format, v...))) }})
	_ = in.Close()
	_, _ = io.Copy(io.Discard, out)
	merr := <-muxed
	if err := endOf(c.Wait()); err != nil {
		return err
	}
	if serr != nil && !errors.Is(serr, io.EOF) {
		return serr
	}
	if errors.Is(merr, io.EOF) {
		merr = errors.New("the other host did not run the command")
	}
	return merr
}

// onMessage is how a command is sent: its length and its words, with NUL between.
func onMessage(args []string) []byte {
	text := "bup\x00" + strings.Join(args, "\x00")
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)
}

// onServerLimit bounds a command that comes over a connection.
const onServerLimit = 1 << 20

// onServerCommand is the other end of on: it reads a command from standard input and runs
// it, with standard input and output for its line to the repository.
func (a *app) onServerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:    "on--server",
		Short:  "run a command for on",
		Long:   "On--server is the other end of on. People do not call it.",
		Args:   cobra.NoArgs,
		Hidden: true,
	}
	return a.command(cmd, func(ctx context.Context, _ []string) error {
		args, err := readOnMessage(a.Stdin)
		if err != nil {
			return err
		}
		in, ok := a.Stdin.(*os.File)
		out, also := a.Stdout.(*os.File)
		if !ok || !also {
			return errors.New("standard input and output are no files")
		}
		exe, err := self()
		if err != nil {
			return err
		}
		c := exec.CommandContext(ctx, exe, args[1:]...)
		c.Args[0] = "bup"
		c.ExtraFiles = []*os.File{in, out}
		c.Env = append(os.Environ(), reverseVariable+"="+hostname())
		return runMuxed(c, a.Stderr, c.ExtraFiles)
	})
}

func readOnMessage(in io.Reader) ([]string, error) {
	var head [4]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return nil, fmt.Errorf("no command came: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > onServerLimit {
		return nil, fmt.Errorf("a command of %d bytes", n)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(in, text); err != nil {
		return nil, fmt.Errorf("the command broke off: %w", err)
	}
	args := strings.Split(string(text), "\x00")
	if len(args) < 2 || slices.Contains(args[1:2], "") {
		return nil, errors.New("an empty command came")
	}
	return args, nil
}

// reversing reports whether this is the command that on runs.
func (a *app) reversing() bool { return a.name == "bup" && a.Env(reverseVariable) != "" }

// openReverse opens the repository at the other end of file descriptors 3 and 4, if this is
// the command that on runs.
func (a *app) openReverse(ctx context.Context) (r repository, ok bool, err error) {
	if !a.reversing() {
		return nil, false, nil
	}
	if a.common.remote != "" {
		return nil, true, usagef("don't use -r in reverse mode; it's automatic")
	}
	o, err := a.remoteOptions()
	if err != nil {
		return nil, true, err
	}
	for _, fd := range []int{3, 4} { // so that a read ends when its file is closed
		if err := syscall.SetNonblock(fd, true); err != nil {
			return nil, true, fmt.Errorf("there is no line to the repository: %w", err)
		}
	}
	line := &reversed{os.NewFile(3, "server"), os.NewFile(4, "server")}
	o.Timeout = math.MaxInt32 * time.Second
	c, err := remote.NewClient(ctx, line, "", o)
	if err != nil {
		return nil, true, err
	}
	return served{c}, true, nil
}

// reversed is a line of two files.
type reversed struct{ in, out *os.File }

// Read reads what the server says.
func (l *reversed) Read(p []byte) (int, error) { return l.in.Read(p) }

// Write writes to the server.
func (l *reversed) Write(p []byte) (int, error) { return l.out.Write(p) }

// Close closes both.
func (l *reversed) Close() error { return errors.Join(l.in.Close(), l.out.Close()) }

// daemonCommand names the way out.
func (a *app) daemonCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:    "daemon",
		Short:  "not there: use serve",
		Long:   "Daemon would let in whoever finds the port. It is not there; see 'kedge help serve'.",
		Hidden: true,
	}
	return a.command(cmd, func(context.Context, []string) error {
		return withHint(&repo.RefusedError{Reason: "daemon listens without asking anybody who he is, and kedge does not"},
			"'kedge serve' listens for ssh, with keys; 'kedge client add' says which")
	})
}
