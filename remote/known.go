package remote

import (
	"path/filepath"

	"golang.org/x/crypto/ssh"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// KnownKeys returns by which keys a server is known: their kinds and fingerprints. file is a
// known_hosts file, "" those that ssh reads for whose home that is.
func KnownKeys(fsys *fsx.FS, file, home string, a Address) (list []string, err error) {
	files := []string{file}
	if file == "" {
		files = []string{filepath.Join(home, ".ssh", "known_hosts"), systemKnownHosts}
	}
	k, err := readKnownHosts(fsys, files...)
	if err != nil {
		return nil, err
	}
	host := knownName(a)
	for i := range k.lines {
		if l := &k.lines[i]; !l.revoked && l.matches(host) {
			list = append(list, l.key.Type()+" "+ssh.FingerprintSHA256(l.key))
		}
	}
	return list, nil
}
