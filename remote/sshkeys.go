package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// keyring is the keys that the builtin client offers to a server, in this order.
//
// A server hears a few keys and hangs up, so where Options names files it is those and
// no other. Otherwise it is what the agent has, then the usual files. A key whose file is
// encrypted is used if the agent has it: there is nobody here who asks for passphrases.
type keyring struct {
	keys   []ssh.Signer
	held   []ssh.Signer // by the agent
	passed []string     // over, and why
	agent  net.Conn
}

// usualKeys are the files in ~/.ssh that are tried if Options names none.
var usualKeys = [...]string{"id_ed25519", "id_ecdsa", "id_rsa"}

// maxKeyFile is the size of the largest file of a key that is read.
const maxKeyFile = 64 << 10

// openKeyring gathers the keys. The agent is spoken to until Close.
func openKeyring(ctx context.Context, home string, o *Options) (*keyring, error) {
	k := new(keyring)
	k.askAgent(ctx, o)
	files := o.Identities
	if len(files) == 0 {
		k.keys = append(k.keys, k.held...)
		for _, name := range usualKeys {
			files = append(files, filepath.Join(home, ".ssh", name))
		}
	}
	for _, file := range files {
		key, err := k.read(file, o)
		switch {
		case err == nil:
			k.offer(key)
		case len(o.Identities) > 0:
			k.Close()
			return nil, err
		case !errors.Is(err, fs.ErrNotExist):
			k.passed = append(k.passed, err.Error())
		}
	}
	if len(k.keys) == 0 {
		k.Close()
		return nil, errors.New("there is no key to log in with: no agent has one" + k.why())
	}
	return k, nil
}

// askAgent connects to the agent, if there is one. One that does not answer is passed
// over: the files may do.
func (k *keyring) askAgent(ctx context.Context, o *Options) {
	if o.Env == nil || o.Env("SSH_AUTH_SOCK") == "" {
		return
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", o.Env("SSH_AUTH_SOCK"))
	if err == nil {
		k.agent = conn
		if end, ok := ctx.Deadline(); ok {
			_ = conn.SetDeadline(end)
		}
		k.held, err = agent.NewClient(conn).Signers()
	}
	if err != nil {
		k.passed = append(k.passed, "the agent does not answer: "+err.Error())
	}
}

// read returns the key in a file: by itself, or as the agent has it if the file is
// encrypted or is the public half.
func (k *keyring) read(file string, o *Options) (ssh.Signer, error) {
	text, err := o.FS.ReadFile(file, maxKeyFile)
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKey(text)
	if err == nil {
		return key, nil
	}
	var public ssh.PublicKey
	locked := new(ssh.PassphraseMissingError)
	if errors.As(err, &locked) {
		if public = locked.PublicKey; public == nil { // an old format
			if text, err := o.FS.ReadFile(file+".pub", maxKeyFile); err == nil {
				public, _, _, _, _ = ssh.ParseAuthorizedKey(text)
			}
		}
		err = errors.New("it is encrypted, and no agent has it: run ssh-add " + shellWord(file))
	} else if public, _, _, _, _ = ssh.ParseAuthorizedKey(text); public != nil {
		err = errors.New("it is a public key, and no agent has the private one")
	}
	for _, held := range k.held {
		if public != nil && sameKey(held.PublicKey(), public) {
			return held, nil
		}
	}
	return nil, fmt.Errorf("key %s: %w", file, err)
}

func sameKey(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }

// offer adds a key that is not among the others yet.
func (k *keyring) offer(key ssh.Signer) {
	for _, other := range k.keys {
		if sameKey(other.PublicKey(), key.PublicKey()) {
			return
		}
	}
	k.keys = append(k.keys, key)
}

// String lists the keys that were offered, for who has to find out why none was taken.
func (k *keyring) String() string {
	var names []string
	for _, key := range k.keys {
		names = append(names, key.PublicKey().Type()+" "+ssh.FingerprintSHA256(key.PublicKey()))
	}
	return strings.Join(names, ", ") + k.why()
}

// why tells which keys were passed over.
func (k *keyring) why() string {
	if len(k.passed) == 0 {
		return ""
	}
	return "; " + strings.Join(k.passed, "; ")
}

// Close lets go of the agent.
func (k *keyring) Close() {
	if k.agent != nil {
		_ = k.agent.Close()
	}
}
