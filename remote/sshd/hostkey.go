package sshd

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/crypto/ssh"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/remote/access"
)

// maxHostKey is the largest file of a private key, in bytes.
const maxHostKey = 64 << 10

// hostKey reads the server's private key, and makes one, Ed25519 in OpenSSH's format, if
// there is none.
func hostKey(files *fsx.FS, name string) (ssh.Signer, error) {
	info, err := files.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeHostKey(files, name); err != nil {
			return nil, fmt.Errorf("host key: %w", err)
		}
		info, err = files.Lstat(name)
	}
	if err != nil {
		return nil, fmt.Errorf("host key: %w", err)
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("host key %s: others may read it (mode %#o); chmod 600 it, or better make a new one", name, info.Mode().Perm())
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
