package s3sync

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/crypto/ssh"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// A manifest is signed as "ssh-keygen -Y sign -n kedge-manifest" signs a file (the format
// SSHSIG, version 1, in OpenSSH's PROTOCOL.sshsig), so that stock tools can look at it:
//
//	ssh-keygen -Y check-novalidate -n kedge-manifest -s SIGNATURE < TEXT
const (
	sigMagic     = "SSHSIG"
	sigNamespace = "kedge-manifest"
	sigHash      = "sha512"
	sigBegin     = "-----BEGIN SSH SIGNATURE-----\n"
	sigEnd       = "-----END SSH SIGNATURE-----\n"
	sigColumns   = 70
)

// sigBlob is a signature as it is armored.
type sigBlob struct {
	Version   uint32
	Key       []byte
	Namespace string
	Reserved  string
	Hash      string
	Signature []byte
}

// sigSubject is what is signed.
type sigSubject struct {
	Namespace string
	Reserved  string
	Hash      string
	Sum       []byte
}

func subjectOf(text []byte) []byte {
	sum := sha512.Sum512(text)
	return append([]byte(sigMagic), ssh.Marshal(sigSubject{sigNamespace, "", sigHash, sum[:]})...)
}

// Sign returns the armored signature of a text.
func Sign(key ssh.Signer, text []byte) ([]byte, error) {
	sig, err := key.Sign(rand.Reader, subjectOf(text))
	if err != nil {
		return nil, err
	}
	blob := append([]byte(sigMagic), ssh.Marshal(sigBlob{
		1, key.PublicKey().Marshal(), sigNamespace, "", sigHash, ssh.Marshal(sig),
	})...)
	b64 := base64.StdEncoding.AppendEncode(nil, blob)
	out := []byte(sigBegin)
	for len(b64) > 0 {
		n := min(sigColumns, len(b64))
		out = append(append(out, b64[:n]...), '\n')
		b64 = b64[n:]
	}
	return append(out, sigEnd...), nil
}

// Verify returns the key that signed a text, or an error if the signature is wrong.
func Verify(text, signature []byte) (ssh.PublicKey, error) {
	body, ok := bytes.CutPrefix(signature, []byte(sigBegin))
	body, ok2 := bytes.CutSuffix(body, []byte(sigEnd))
	if !ok || !ok2 {
		return nil, errors.New("the signature is not one of SSH")
	}
	blob, err := base64.StdEncoding.DecodeString(string(bytes.ReplaceAll(body, []byte("\n"), nil)))
	if err != nil {
		return nil, errors.New("the signature is not base64")
	}
	rest, ok := bytes.CutPrefix(blob, []byte(sigMagic))
	var s sigBlob
	var sig ssh.Signature
	if !ok || ssh.Unmarshal(rest, &s) != nil || ssh.Unmarshal(s.Signature, &sig) != nil {
		return nil, errors.New("the signature is cut short")
	}
	if s.Version != 1 || s.Namespace != sigNamespace || s.Hash != sigHash || s.Reserved != "" {
		return nil, fmt.Errorf("the signature is for %q with %q, not for %q with %q", s.Namespace, s.Hash, sigNamespace, sigHash)
	}
	key, err := ssh.ParsePublicKey(s.Key)
	if err != nil {
		return nil, fmt.Errorf("the key of the signature: %w", err)
	}
	if err := key.Verify(subjectOf(text), &sig); err != nil {
		return nil, errors.New("the signature does not fit the text")
	}
	return key, nil
}

// Trust returns a Bucket.Check that wants every manifest signed by one of some keys; without
// keys a signature may be missing, and anybody's, but not wrong.
func Trust(keys ...ssh.PublicKey) func(m *Manifest, signed []byte) error {
	return func(m *Manifest, signed []byte) error {
		if m.Signature == nil {
			if len(keys) == 0 {
				return nil
			}
			return &repo.RefusedError{Reason: "the manifest is not signed"}
		}
		key, err := Verify(signed, m.Signature)
		if err != nil {
			return &pack.CorruptError{Off: int64(len(signed)), Reason: err.Error()}
		}
		m.Signer = ssh.FingerprintSHA256(key)
		if len(keys) == 0 {
			return nil
		}
		for _, k := range keys {
			if bytes.Equal(k.Marshal(), key.Marshal()) {
				return nil
			}
		}
		return &repo.RefusedError{Reason: "the manifest is signed by " + m.Signer + ", which is not trusted"}
	}
}

// signerOf returns the key that signs, as Manifest.Signer has it; "" if there is none.
func signerOf(sign func([]byte) ([]byte, error)) string {
	if sign == nil {
		return ""
	}
	text := []byte("which key\n") // is no manifest
	signature, err := sign(text)
	if err != nil {
		return "" // signing the manifest says so
	}
	key, err := Verify(text, signature)
	if err != nil {
		return ""
	}
	return ssh.FingerprintSHA256(key)
}

// other returns the key that signed a generation, if it is not that of this run.
func (m *mirror) other(g *Generation) string {
	switch {
	case m.signer == "" || g.Signer == m.signer:
		return ""
	case g.Signature == nil:
		return "nobody"
	}
	return g.Signer // "" if nobody looked
}

// before returns the key that signed the last generation, if it is not that of this run. What
// a prune signed is as good as the generation before it, if it says the same.
func (m *mirror) before(ctx context.Context) (string, error) {
	for g := m.last; ; {
		who := m.other(g)
		if who == "" || g.Kind != Prune || g.N < 2 {
			return who, nil
		}
		earlier, err := m.b.newest(ctx, g.N-1)
		if ctx.Err() != nil || IsTemporary(err) {
			return who, err
		}
		if err != nil || !slices.Equal(earlier.Files, m.last.Files) {
			return who, nil
		}
		g = earlier
	}
}

// PublicLine returns the public key of a key as ParseKeys reads it, without the newline.
func PublicLine(key ssh.Signer) string {
	return string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(key.PublicKey())))
}

// ParseKeys reads public keys, one a line as ssh-keygen writes them.
func ParseKeys(text []byte) (keys []ssh.PublicKey, err error) {
	for len(bytes.TrimSpace(text)) > 0 {
		key, _, _, rest, err := ssh.ParseAuthorizedKey(text)
		if err != nil {
			return nil, &repo.ConfigError{Reason: "a line that is no public key"}
		}
		keys, text = append(keys, key), rest
	}
	return keys, nil
}

// MirrorKey reads the key that signs manifests, and makes it if there is none. made says that
// it did: whoever reads the mirror has to be told.
func MirrorKey(fsys *fsx.FS, file string) (key ssh.Signer, made bool, err error) {
	text, err := fsys.ReadFile(file, 64<<10)
	if errors.Is(err, fs.ErrNotExist) {
		if text, err = newKey(); err != nil {
			return nil, false, err
		}
		made, err = true, fsys.Replace(file, text, 0o600)
	}
	if err != nil {
		return nil, false, err
	}
	if key, err = ssh.ParsePrivateKey(text); err != nil {
		return nil, false, &repo.ConfigError{Reason: fmt.Sprintf("%s: %v", file, err)}
	}
	return key, made, nil
}

func newKey() ([]byte, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "kedge mirror")
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(block), nil
}
