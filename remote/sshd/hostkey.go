package sshd

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"golang.org/x/crypto/ssh"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/remote/access"
)

// maxHostKey is the largest file of a private key, in bytes.
const maxHostKey = 64 << 10

// hostKeys reads the server's private key and, if there is a file of that name with .next
// behind it, the one that will take its place.
func hostKeys(files *fsx.FS, name string) ([]ssh.Signer, error) {
	key, err := hostKey(files, name)
	if err != nil {
		return nil, err
	}
	list := []ssh.Signer{key}
	if _, err := files.Lstat(name + ".next"); !errors.Is(err, fs.ErrNotExist) {
		if key, err = hostKey(files, name+".next"); err != nil {
			return nil, err
		}
		list = append(list, key)
	}
	return list, nil
}

// The names of requests by which OpenSSH's clients learn of the keys of a host.
const (
	hostKeysRequest = "hostkeys-00@openssh.com"
	proveRequest    = "hostkeys-prove-00@openssh.com"
)

// announce tells a client of all keys of the host.
func (p *client) announce() {
	var blobs []byte
	for _, k := range p.s.signers {
		blobs = appendString(blobs, k.PublicKey().Marshal())
	}
	_, _, _ = p.conn.SendRequest(hostKeysRequest, false, blobs)
}

// prove returns, for each of the keys that a client names, a signature over
//
//	string "hostkeys-prove-00@openssh.com" | string session | string key
//
// or nil if one of them is not the host's, or is named twice.
func (p *client) prove(blobs []byte) (proofs []byte) {
	rest := blobs
	left := slices.Clone(p.s.signers)
	for len(rest) > 0 {
		var one struct {
			Blob []byte
			Rest []byte `ssh:"rest"`
		}
		if err := ssh.Unmarshal(rest, &one); err != nil {
			return nil
		}
		i := slices.IndexFunc(left, func(k ssh.Signer) bool { return bytes.Equal(k.PublicKey().Marshal(), one.Blob) })
		if i < 0 {
			return nil
		}
		text := appendString(appendString(appendString(nil, []byte(proveRequest)), p.conn.SessionID()), one.Blob)
		signature, err := sign(left[i], text)
		if err != nil {
			return nil
		}
		proofs = appendString(proofs, ssh.Marshal(signature))
		left, rest = slices.Delete(left, i, i+1), one.Rest
	}
	return proofs
}

// sign signs with SHA-2, which for RSA is not what the ssh package does by itself.
func sign(k ssh.Signer, text []byte) (*ssh.Signature, error) {
	if a, ok := k.(ssh.AlgorithmSigner); ok && k.PublicKey().Type() == ssh.KeyAlgoRSA {
		return a.SignWithAlgorithm(rand.Reader, text, ssh.KeyAlgoRSASHA512)
	}
	return k.Sign(rand.Reader, text)
}

func appendString(b, s []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// hostKey reads the server's private key, and makes one, Ed25519 in OpenSSH's format, if
// there is none.
func hostKey(files *fsx.FS, name string) (ssh.Signer, error) {
	err := trusted(files, name, true)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeHostKey(files, name); err == nil {
			err = trusted(files, name, true)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("host key: %w", err)
	}
	text, err := files.ReadFile(name, maxHostKey)
	if err != nil {
		return nil, fmt.Errorf("host key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(text)
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		return nil, fmt.Errorf("host key %s: it has a passphrase, which nobody is there to type", name)
	case err != nil:
		return nil, fmt.Errorf("host key %s: it is no private key", name)
	}
	if err := access.CheckPublic(signer.PublicKey()); err != nil {
		return nil, fmt.Errorf("host key %s: %w", name, err)
	}
	return signer, nil
}

// makeHostKey makes a key under a name that nobody has yet. If two do so at once, one
// key gets the name, and both use it:
//
//	mkdir -p DIR → create NAME.new (0600) → write → sync → link to NAME → remove NAME.new → sync of DIR
func makeHostKey(files *fsx.FS, name string) error {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, "kedge serve")
	if err != nil {
		return err
	}
	dir := filepath.Dir(name)
	if err := files.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	temp := name + "." + rand.Text()
	file, err := files.Create(temp, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(pem.EncodeToMemory(block))
	if err == nil {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = files.Link(temp, name)
	}
	_ = files.Remove(temp) // what failed first is what is told
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return files.SyncDir(dir)
}
