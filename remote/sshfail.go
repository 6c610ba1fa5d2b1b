package remote

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"

	"github.com/kedgebackup/kedge/repo"
)

// HostKeyError says that a host is not the one that is known, or not known at all.
type HostKeyError struct {
	Host        string // as known_hosts has it: host, or [host]:port
	Fingerprint string // SHA256:…, of the key that it showed; "": ssh did not say
	Changed     bool   // another key is known
	Revoked     bool   // the key is known as one that must not be trusted
	KnownHosts  string // the file
}

// Error says what is wrong, and what to do.
func (e *HostKeyError) Error() string {
	shows := "a key"
	if e.Fingerprint != "" {
		shows = "the key " + e.Fingerprint
	}
	const then = "if that is its key (on the host: ssh-keygen -lf FILE of its public host key), connect once with --accept-new-host"
	switch {
	case e.Revoked:
		return fmt.Sprintf("host %s shows %s, which %s says is revoked: somebody may be listening", e.Host, shows, e.file())
	case e.Changed:
		return fmt.Sprintf("host %s shows %s, and %s has another one: somebody may be listening; if the host has a new key, forget the old one with: %s",
			e.Host, shows, e.file(), e.forget())
	case e.Fingerprint == "": // an ssh that has nobody to ask does not say
		return fmt.Sprintf("host %s is not in %s; to see the key that it shows: %s; %s", e.Host, e.file(), e.scan(), then)
	}
	return fmt.Sprintf("host %s shows %s, and is not in %s; %s", e.Host, shows, e.file(), then)
}

func (e *HostKeyError) file() string {
	if e.KnownHosts == "" {
		return "known_hosts"
	}
	return e.KnownHosts
}

// forget returns the command that removes the known keys of the host.
func (e *HostKeyError) forget() string {
	command := "ssh-keygen -R " + shellWord(e.Host)
	if e.KnownHosts != "" {
		command = "ssh-keygen -f " + shellWord(e.KnownHosts) + " -R " + shellWord(e.Host)
	}
	return command
}

// scan returns the command that shows the key of the host.
func (e *HostKeyError) scan() string {
	host, port := e.Host, ""
	if h, p, err := net.SplitHostPort(e.Host); err == nil {
		host, port = h, "-p "+p+" "
	}
	return "ssh-keyscan " + port + shellWord(host) + " | ssh-keygen -lf -"
}

// shellWord quotes a word for a shell, if it needs that.
func shellWord(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-:+@%") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// knownName returns a host as known_hosts has it.
func knownName(a Address) string {
	host := strings.ToLower(a.Host)
	if a.Port == 0 || a.Port == sshPort {
		return host
	}
	return "[" + host + "]:" + strconv.Itoa(a.Port)
}

// sshPort is the port of SSH if an address has none.
const sshPort = 22

// dialName returns a host as package net takes it.
func dialName(a Address) string {
	port := a.Port
	if port == 0 {
		port = sshPort
	}
	return net.JoinHostPort(a.Host, strconv.Itoa(port))
}

// What ssh says, as far as it is understood. It has said so since the nineties, in English
// whatever the locale.
var (
	fingerprint = regexp.MustCompile(`SHA256:[A-Za-z0-9+/]{43}`)
	offending   = regexp.MustCompile(`Offending .*key in (.+):[0-9]+`)
	correct     = regexp.MustCompile(`Add correct host key in (.+) to get rid`)
)

// sshFailure turns what ssh said before it gave up into an error.
func sshFailure(lines []string, a Address, o *Options) error {
	text := strings.Join(lines, "\n")
	switch {
	case strings.Contains(text, "Host key verification failed"):
		e := &HostKeyError{Host: knownName(a), Fingerprint: fingerprint.FindString(text), KnownHosts: o.KnownHosts}
		e.Changed = strings.Contains(text, "IDENTIFICATION HAS CHANGED")
		e.Revoked = strings.Contains(text, "REVOKED HOST KEY")
		for _, file := range []*regexp.Regexp{correct, offending} {
			if m := file.FindStringSubmatch(text); m != nil {
				e.KnownHosts = m[1]
			}
		}
		return e
	case len(lines) == 0:
		return errors.New("ssh failed and did not say why")
	}
	last := lines[len(lines)-1]
	switch {
	case strings.Contains(last, "Permission denied ("):
		return &repo.RefusedError{Reason: "the login was refused: " + last}
	case strings.Contains(last, "timed out"), strings.Contains(last, "not responding"):
		return &timeoutError{last}
	}
	return errors.New(strings.Join(lines[max(0, len(lines)-lastLines):], "; "))
}
