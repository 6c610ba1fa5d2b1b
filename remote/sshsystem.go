package remote

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// sshProgram returns the system's ssh: the program ssh, or the one that the variable
// KEDGE_SSH names, which must understand the same options.
func (o *Options) sshProgram() string {
	if o.Env != nil {
		if program := o.Env("KEDGE_SSH"); program != "" {
			return program
		}
	}
	return usualSSH
}

// usualSSH is the program that is taken if nobody says otherwise.
const usualSSH = "ssh"

// startSSH has the system's ssh run a command on another host.
//
// With a terminal ssh may ask for a passphrase or whether a host is the right one. For
// that it must stay in the group of processes that has the terminal, and so it would die
// of the ^C that this process lives to say goodbye after. A shell in front makes it
// ignore that; ssh minds what it was started with. Without a terminal it gets a group of
// its own and is told to ask nothing.
func startSSH(ctx context.Context, a Address, o Options, command string) (*link, error) {
	batch := !hasTerminal()
	args, err := sshArgs(a, o, command, batch)
	if err != nil {
		return nil, err
	}
	program := o.sshProgram()
	if _, err := exec.LookPath(program); err != nil {
		return nil, fmt.Errorf("there is no program %s here", program)
	}
	if program == usualSSH { // what another program would make of the question is not known
		args = append(cipherArgs(ctx, program, args[:len(args)-2]), args...)
	}
	argv := append([]string{program}, args...)
	if !batch {
		argv = append(deafSh(), argv...)
	}
	a.Path = ""
	l := newLink(a, o, command)
	return l, l.start(ctx, argv, batch)
}

// deafSh returns the beginning of a command that runs the rest with ^C ignored.
func deafSh() []string { return []string{"sh", "-c", `trap "" INT QUIT; exec "$@"`, "sh"} }

// hasTerminal reports whether there is somebody to be asked.
func hasTerminal() bool {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	_ = f.Close()
	return true
}

// sshArgs returns the arguments of ssh. Nothing of the address but user, host and port is
// among them. What a user's configuration would forward has no business here, and
// compressing what is compressed costs a core and wins nothing.
func sshArgs(a Address, o Options, command string, batch bool) ([]string, error) {
	args := []string{"-T", "-a", "-x"}
	if a.Port != 0 {
		args = append(args, "-p", strconv.Itoa(a.Port))
	}
	if a.User != "" {
		args = append(args, "-l", a.User)
	}
	options := []string{
		"ClearAllForwardings=yes",
		"Compression=no",
		fmt.Sprintf("ConnectTimeout=%d", max(1, int(o.Timeout/time.Second))),
		fmt.Sprintf("ServerAliveInterval=%d", keepaliveEvery/time.Second),
		fmt.Sprintf("ServerAliveCountMax=%d", keepaliveMisses),
	}
	if batch {
		options = append(options, "BatchMode=yes")
	}
	if o.AcceptNew {
		options = append(options, "StrictHostKeyChecking=accept-new")
	}
	if o.KnownHosts != "" {
		if strings.ContainsAny(o.KnownHosts, "\"$\n") {
			return nil, fmt.Errorf("%q: ssh cannot be told of a file with such a name", o.KnownHosts)
		}
		options = append(options, `UserKnownHostsFile="`+strings.ReplaceAll(o.KnownHosts, "%", "%%")+`"`)
	}
	if len(o.Identities) > 0 {
		options = append(options, "IdentitiesOnly=yes")
	}
	for _, v := range options {
		args = append(args, "-o", v)
	}
	for _, file := range o.Identities {
		args = append(args, "-i", file)
	}
	return append(args, a.Host, "--", command), nil
}

// startServer runs a server as a child process.
func startServer(ctx context.Context, _ Address, o Options, command string) (*link, error) {
	argv := o.Server
	if len(argv) == 0 {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		argv = []string{self, "server"}
	}
	if command != kedgeServer {
		return nil, fmt.Errorf("%s: it cannot be run", argv[0])
	}
	l := &link{name: "-:", said: newWords(o.Stderr)}
	return l, l.start(ctx, argv, true)
}

// start runs a program at the other end of l.
func (l *link) start(ctx context.Context, argv []string, ownGroup bool) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: ownGroup}
	var ends [6]*os.File // reading and writing ends of stdin, stdout, stderr
	for i := 0; i < len(ends); i += 2 {
		var err error
		if ends[i], ends[i+1], err = os.Pipe(); err != nil {
			closeFiles(ends[:i])
			return err
		}
	}
	WidenPipe(ends[2])
	cmd.Stdin, cmd.Stdout, cmd.Stderr = ends[0], ends[3], ends[5]
	err := cmd.Start()
	closeFiles([]*os.File{ends[0], ends[3], ends[5]})
	if err != nil {
		closeFiles([]*os.File{ends[1], ends[2], ends[4]})
		return err
	}
	l.in, l.out, l.over = ends[1], ends[2], make(chan struct{})
	l.stop = func(hard bool) { kill(cmd.Process, ownGroup, hard) }
	go l.wait(cmd, ends[4])
	return nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// kill asks a process, or its group, to end, or makes it.
func kill(p *os.Process, group, hard bool) {
	sig := syscall.SIGTERM
	if hard {
		sig = syscall.SIGKILL
	}
	if !group || syscall.Kill(-p.Pid, sig) != nil {
		_ = p.Signal(sig)
	}
}

// wait passes on what the process says until it has ended. A grandchild that keeps its
// stderr open, as the master of a shared connection does, is not waited for.
func (l *link) wait(cmd *exec.Cmd, stderr *os.File) {
	said := make(chan struct{})
	go func() {
		defer close(said)
		buf := make([]byte, 4<<10)
		for {
			n, err := stderr.Read(buf)
			_, _ = l.said.Write(buf[:n])
			if err != nil {
				l.said.flush()
				return
			}
		}
	}()
	_ = cmd.Wait()
	l.code = cmd.ProcessState.ExitCode()
	_ = stderr.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	<-said
	_ = stderr.Close()
	close(l.over)
}
