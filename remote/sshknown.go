package remote

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// knownHosts is what known_hosts files say of the keys of hosts, in the form that
// sshd(8) documents: names with * and ? and !, hashed names, @revoked keys. Lines that
// make no sense, or are about kinds of keys that the builtin client does not know, are
// passed over, as OpenSSH does; but a revoked key that cannot be read is an error.
// Certificates of hosts (@cert-authority) are not understood: the system's ssh is for
// those who have them.
type knownHosts struct {
	fs    *fsx.FS
	file  string // to which new keys are added
	lines []knownLine
}

type knownLine struct {
	file    string
	names   []string // patterns
	revoked bool
	key     ssh.PublicKey
}

// maxKnownHosts is the size of the largest known_hosts file that is read.
const maxKnownHosts = 16 << 20

// readKnownHosts reads the files that there are. New keys go to the first.
func readKnownHosts(f *fsx.FS, files ...string) (*knownHosts, error) {
	k := &knownHosts{fs: f, file: files[0]}
	for _, file := range files {
		text, err := f.ReadFile(file, maxKnownHosts)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = k.parse(file, text)
		}
		if err != nil {
			return nil, err
		}
	}
	return k, nil
}

func (k *knownHosts) parse(file string, text []byte) error {
	n := 0
	for line := range bytes.Lines(text) {
		n++
		marker, names, key, _, _, err := ssh.ParseKnownHosts(line)
		if err != nil {
			if bytes.HasPrefix(bytes.TrimLeft(line, " \t"), []byte("@revoked")) {
				return fmt.Errorf("%s: line %d: the revoked key cannot be read", file, n)
			}
			continue
		}
		if marker == "" || marker == "revoked" {
			k.lines = append(k.lines, knownLine{file, names, marker == "revoked", key})
		}
	}
	return nil
}

// check returns nil if a host is known by this key, else a *HostKeyError. A revoked key is
// no host's key, whatever names its line has.
func (k *knownHosts) check(host string, key ssh.PublicKey) error {
	blob := key.Marshal()
	e := &HostKeyError{Host: host, Fingerprint: ssh.FingerprintSHA256(key), KnownHosts: k.file}
	known := false
	for _, l := range k.lines {
		same := bytes.Equal(l.key.Marshal(), blob)
		switch {
		case l.revoked && same:
			e.Revoked, e.Changed, e.KnownHosts = true, false, l.file
			return e
		case l.revoked || !l.matches(host):
		case same:
			known = true
		case !e.Changed:
			e.Changed, e.KnownHosts = true, l.file
		}
	}
	if known {
		return nil
	}
	return e
}

// algorithms returns the algorithms by which a host may prove its key, those of the kinds
// of keys first that are known of it: a host has several keys, and only a known one can
// be compared.
func (k *knownHosts) algorithms(host string) []string {
	var first, then []string
	for _, algorithm := range ssh.SupportedAlgorithms().HostKeys {
		kind := algorithm
		if algorithm == ssh.KeyAlgoRSASHA256 || algorithm == ssh.KeyAlgoRSASHA512 {
			kind = ssh.KeyAlgoRSA
		}
		known := func(l knownLine) bool { return !l.revoked && l.key.Type() == kind && l.matches(host) }
		switch {
		case strings.Contains(algorithm, "-cert-"):
		case slices.ContainsFunc(k.lines, known):
			first = append(first, algorithm)
		default:
			then = append(then, algorithm)
		}
	}
	return append(first, then...)
}

// matches reports whether a line is about a host: one of its patterns is, and none that
// begins with ! is.
func (l *knownLine) matches(host string) bool {
	found := false
	for _, pattern := range l.names {
		pattern, not := strings.CutPrefix(pattern, "!")
		if !matchHost(pattern, host) {
			continue
		}
		if not {
			return false
		}
		found = true
	}
	return found
}

func matchHost(pattern, host string) bool {
	if hashed, ok := strings.CutPrefix(pattern, "|1|"); ok {
		salt, sum, _ := strings.Cut(hashed, "|")
		key, err := base64.StdEncoding.DecodeString(salt)
		want, err2 := base64.StdEncoding.DecodeString(sum)
		if err != nil || err2 != nil {
			return false
		}
		mac := hmac.New(sha1.New, key)
		mac.Write([]byte(host))
		return hmac.Equal(mac.Sum(nil), want)
	}
	return glob(strings.ToLower(pattern), host)
}

// glob matches * and ?, which stand for any bytes. On a mismatch it goes back to the last
// star only: what an earlier one took never needs to change.
func glob(pattern, s string) bool {
	star, from := -1, 0
	p := 0
	for i := 0; i < len(s); {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			from++
			p, i = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// add writes down the key of a host that was not known:
//
//	mkdir ~/.ssh, open and lock known_hosts, append a line, sync
//
// The file is written in place, under a lock: it may be a link to somewhere else, and
// another kedge may be adding a host at the same time.
func (k *knownHosts) add(host string, key ssh.PublicKey) error {
	if err := k.fs.MkdirAll(filepath.Dir(k.file), 0o700); err != nil {
		return err
	}
	lock, err := k.fs.Lock(k.file, fsx.Exclusive, 10*time.Second)
	if err != nil {
		return err
	}
	err = appendLine(lock.File(), host+" "+strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))))
	if err2 := lock.Unlock(); err == nil {
		err = err2
	}
	return err
}

// appendLine adds a line to a file whose last one may have no end.
func appendLine(f *fsx.File, line string) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	var last [1]byte
	if size > 0 {
		if _, err := f.ReadAt(last[:], size-1); err != nil {
			return err
		}
		if last[0] != '\n' {
			line = "\n" + line
		}
	}
	if _, err := f.WriteAt([]byte(line+"\n"), size); err != nil {
		return err
	}
	return f.Sync()
}
