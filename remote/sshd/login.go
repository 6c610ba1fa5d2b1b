package sshd

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/remote/access"
)

// keyFile is authorized_keys.
type keyFile struct {
	fs   *fsx.FS
	name string

	mu     sync.Mutex
	logged [sha256.Size]byte // what of it was checked for bad lines
}

// read returns the file as it is now, nothing if there is none. When it has changed the
// lines that are wrong are told to log. A file that is not trusted lets in nobody.
func (k *keyFile) read(log func(string, ...any)) ([]byte, error) {
	if err := trusted(k.fs, k.name, false); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	text, err := k.fs.ReadFile(k.name, access.MaxKeys)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	k.mu.Lock()
	defer k.mu.Unlock()
	if sum != k.logged {
		k.logged = sum
		_, bad := access.ParseKeys(text)
		for i := range bad {
			log("%s: %v: nobody is let in by it", k.name, &bad[i])
		}
	}
	return text, nil
}

// lineExtension is the key of ssh.Permissions.Extensions under which the line of a key
// goes from its proof to the session. noTouch is what the ssh package calls the option.
const (
	lineExtension = "kedge-authorized-key"
	noTouch       = "no-touch-required"
)

// login is the way of one connection to a key.
type login struct {
	s      *Server
	from   netip.Addr
	keys   []byte
	opened bool
	why    []string // why keys were refused
}

// config returns what the ssh package is told for one connection.
func (l *login) config() *ssh.ServerConfig {
	c := &ssh.ServerConfig{
		Config: ssh.Config{
			KeyExchanges: []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519,
				ssh.KeyExchangeECDHP256, ssh.KeyExchangeECDHP384, ssh.KeyExchangeECDHP521},
			Ciphers:        []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM}, // see gate
			RekeyThreshold: l.s.times.rekey,
			MACs:           []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM, ssh.HMACSHA256, ssh.HMACSHA512},
		},
		PublicKeyAuthAlgorithms: []string{ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256,
			ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512},
		MaxAuthTries:              maxTries,
		PublicKeyCallback:         l.offered,
		VerifiedPublicKeyCallback: proved,
		ServerVersion:             "SSH-2.0-kedge",
	}
	c.AddHostKey(l.s.signers[0])
	return c
}

// offered answers a key that a client offers; whether it has the key is not known yet.
func (l *login) offered(_ ssh.ConnMetadata, public ssh.PublicKey) (*ssh.Permissions, error) {
	refuse := func(err error) (*ssh.Permissions, error) {
		if len(l.why) < maxTries {
			l.why = append(l.why, fmt.Sprintf("%s: %v", ssh.FingerprintSHA256(public), err))
		}
		return nil, errors.New("refused")
	}
	if err := access.CheckPublic(public); err != nil {
		return refuse(err)
	}
	if l.s.tables.barred(ssh.FingerprintSHA256(public)) {
		return refuse(errors.New("it has left connections that cannot be ended"))
	}
	if !l.opened {
		text, err := l.s.keys.read(l.s.log)
		if err != nil {
			return refuse(err)
		}
		l.keys, l.opened = text, true
	}
	k, err := access.Lookup(l.keys, public, l.from, time.Now())
	if err != nil {
		return refuse(err)
	}
	p := &ssh.Permissions{Extensions: map[string]string{lineExtension: string(k.Append(nil))}}
	if k.NoTouch {
		p.Extensions[noTouch] = ""
	}
	return p, nil
}

// proved answers a key that the client has proved. Its permissions are those that were
// made when it was offered; that they are of this key is looked at once more, because
// all rights hang on it.
func proved(_ ssh.ConnMetadata, public ssh.PublicKey, p *ssh.Permissions, _ string) (*ssh.Permissions, error) {
	k, err := keyOf(p)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(k.Public.Marshal(), public.Marshal()) {
		return nil, errors.New("the permissions are of another key")
	}
	return p, nil
}

// keyOf returns the line of authorized_keys by which a client was let in.
func keyOf(p *ssh.Permissions) (*access.Key, error) {
	if p == nil {
		return nil, errors.New("no key was proved")
	}
	keys, bad := access.ParseKeys([]byte(p.Extensions[lineExtension]))
	if len(keys) != 1 || len(bad) != 0 {
		return nil, errors.New("no key was proved")
	}
	return &keys[0], nil
}

// reason returns why a handshake failed, for the log.
func (l *login) reason(err error) string {
	var auth *ssh.ServerAuthError
	switch {
	case len(l.why) > 0:
		return strings.Join(l.why, "; ")
	case errors.As(err, &auth):
		return "it proved no key"
	}
	return err.Error()
}

// addressOf returns the address of the other side, or none if it has none.
func addressOf(c net.Conn) netip.Addr {
	at, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	addr, _ := netip.AddrFromSlice(at.IP)
	return addr.Unmap()
}
