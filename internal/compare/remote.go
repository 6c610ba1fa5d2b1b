package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// host is the other machine of the remote section, which is this one: OpenSSH's server and
// kedge's own on loopback, with keys of their own, in a directory that goes when they do.
type host struct {
	dir, login  string
	sshd, serve *process
}

// process is a server that was started, and where it listens.
type process struct {
	cmd  *exec.Cmd
	port int
}

// startHost starts the servers. Without OpenSSH there is no remote section.
func startHost(kedge, dir string) (h *host, err error) {
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		if sshd, err = exec.LookPath("/usr/sbin/sshd"); err != nil {
			return nil, errors.New("there is no sshd")
		}
	}
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	h = &host{dir: filepath.Join(dir, "host"), login: me.Username}
	for _, d := range []string{"bin", "root/.kedge"} {
		if err := os.MkdirAll(filepath.Join(h.dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.Symlink(kedge, filepath.Join(h.dir, "bin", "kedge")); err != nil {
		return nil, err
	}
	for _, key := range []string{"host_key", "client_key"} {
		if err := quiet("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(h.dir, key)); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			h.stop()
		}
	}()
	if h.sshd, err = h.startSSHD(sshd); err != nil {
		return nil, err
	}
	if h.serve, err = h.startServe(kedge); err != nil {
		return nil, err
	}
	return h, h.writeKnown()
}

// startSSHD starts OpenSSH's server. SHLVL keeps bash from reading a login's .bashrc,
// which has no part in what is measured.
func (h *host) startSSHD(sshd string) (*process, error) {
	pub, err := os.ReadFile(h.dir + "/client_key.pub")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(h.dir+"/logins", pub, 0o600); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`Port %d
ListenAddress 127.0.0.1
HostKey %[2]s/host_key
AuthorizedKeysFile %[2]s/logins
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
SetEnv PATH=%[2]s/bin:%[3]s SHLVL=2 BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes
`, port, h.dir, os.Getenv("PATH"))
	if err := os.WriteFile(h.dir+"/sshd_config", []byte(config), 0o600); err != nil {
		return nil, err
	}
	wrapper := fmt.Sprintf("#!/bin/sh\nexec %s -F none -p %d -i %[3]s/client_key -o IdentitiesOnly=yes -o BatchMode=yes "+
		"-o StrictHostKeyChecking=yes -o UserKnownHostsFile=%[3]s/known_hosts \"$@\"\n", lookSSH(), port, h.dir)
	if err := os.WriteFile(h.dir+"/bin/ssh", []byte(wrapper), 0o755); err != nil {
		return nil, err
	}
	return start(port, sshd, "-D", "-e", "-f", h.dir+"/sshd_config")
}

func lookSSH() string {
	if path, err := exec.LookPath("ssh"); err == nil {
		return path
	}
	return "ssh"
}

// startServe starts kedge's own server.
func (h *host) startServe(kedge string) (*process, error) {
	keys := h.dir + "/root/.kedge/authorized_keys"
	if err := os.WriteFile(keys, nil, 0o600); err != nil {
		return nil, err
	}
	err := quiet(kedge, "client", "add", "--root", h.dir+"/root", "--authorized-keys", keys, "repo", h.dir+"/client_key.pub", "--role", "append")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	return start(port, kedge, "serve", "--root", h.dir+"/root", "--listen", fmt.Sprintf("127.0.0.1:%d", port),
		"--authorized-keys", keys, "--host-key", h.dir+"/host_key")
}

func (h *host) writeKnown() error {
	pub, err := os.ReadFile(h.dir + "/host_key.pub")
	if err != nil {
		return err
	}
	known := fmt.Sprintf("[127.0.0.1]:%d %s[127.0.0.1]:%d %s", h.sshd.port, pub, h.serve.port, pub)
	return os.WriteFile(h.dir+"/known_hosts", []byte(known), 0o600)
}

// stop ends the servers.
func (h *host) stop() {
	for _, p := range []*process{h.sshd, h.serve} {
		if p != nil {
			_ = p.cmd.Process.Signal(syscall.SIGTERM)
			_ = p.cmd.Wait()
		}
	}
	_ = os.RemoveAll(h.dir)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// start starts a server and waits until it answers.
func start(port int, argv ...string) (*process, error) {
	p := &process{exec.Command(argv[0], argv[1:]...), port}
	var said strings.Builder
	p.cmd.Stderr = &said
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	for range 100 {
		if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return p, c.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	return nil, fmt.Errorf("%s does not answer: %.300s", argv[0], said.String())
}

// cpu returns the seconds of processor that a server has used with its sessions, those
// that run included: the programs that OpenSSH starts for them belong to it when they
// have ended.
func (p *process) cpu() float64 {
	const perSecond = 100 // USER_HZ, on every architecture that Linux is still built for
	if p == nil {
		return 0
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	sum := 0.0
	for _, f := range fields[11:15] { // utime, stime, cutime, cstime
		n, _ := strconv.Atoi(f)
		sum += float64(n)
	}
	return sum / perSecond
}

// settle waits until the sessions of a server have ended.
func (p *process) settle() {
	if p == nil {
		return
	}
	children := fmt.Sprintf("/proc/%d/task/%[1]d/children", p.cmd.Process.Pid)
	for range 40 {
		time.Sleep(50 * time.Millisecond)
		text, err := os.ReadFile(children)
		if errors.Is(err, fs.ErrNotExist) || len(strings.TrimSpace(string(text))) == 0 {
			return
		}
	}
}
