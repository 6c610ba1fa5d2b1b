package s3sync

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// sealedHead begins a manifest that is encrypted.
const sealedHead = "kedge-sealed-manifest 1\n"

// repoDigest is what the clear part of a manifest has of the id of a repository: enough to tell
// whether it is the same. Ids are random, so nobody guesses one.
func repoDigest(id string) string {
	if id == "" {
		return ""
	}
	sum := sha256.Sum256([]byte("kedge-repo\n" + id + "\n"))
	return hex.EncodeToString(sum[:16])
}

// text returns the text of a manifest without the signature: encrypted, if the bucket has
// recipients.
func (b *Bucket) text(m *Manifest) ([]byte, error) {
	switch {
	case m.Locked: // as it was read, by somebody who cannot open it
		return m.Append(nil), nil
	case b.Recipients == nil && m.Encrypted:
		return nil, errors.New("what was encrypted would be written for everybody to read")
	case b.Recipients == nil:
		return m.Append(nil), nil
	}
	in := *m
	in.Drops, in.Freed = nil, nil
	in.Files = slices.Clone(m.Files)
	for i := range in.Files {
		in.Files[i].Version, in.Files[i].PartSums = "", Sum{} // stand in the clear part
	}
	out := m.lock()
	var sealed bytes.Buffer
	armored := armor.NewWriter(&sealed)
	if err := b.Recipients.seal(armored, bytes.NewReader(in.Append(nil))); err != nil {
		return nil, err
	}
	if err := armored.Close(); err != nil {
		return nil, err
	}
	out.sealed = sealed.Bytes()
	return out.Append(nil), nil
}

// lock returns the clear part of a manifest.
func (m *Manifest) lock() Manifest {
	out := Manifest{
		N: m.N, Time: m.Time, Repo: repoDigest(m.Repo), Kind: m.Kind, Prev: m.Prev, Base: m.Base,
		Drops: m.Drops, Freed: m.Freed, Encrypted: true, Locked: true,
	}
	for i := range m.Files {
		f := &m.Files[i]
		at := f.stored()
		out.Files = append(out.Files, File{
			Name: f.Key, Size: at.Size, SHA256: at.SHA256, Key: f.Key, Version: f.Version, PartSums: f.PartSums,
		})
	}
	slices.SortFunc(out.Files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	if m.Kind == Diff {
		out.Gone = slices.Sorted(slices.Values(m.replaced))
	}
	return out
}

// replacedKeys returns the keys of base that all does not have.
func replacedKeys(base, all []File) (keys []string) {
	has := make(map[string]bool, len(all))
	for i := range all {
		has[all[i].Key] = true
	}
	for i := range base {
		if !has[base[i].Key] {
			keys = append(keys, base[i].Key)
		}
	}
	return keys
}

// takeSealed takes the sealed part off a text. What is in it is not looked at.
func (m *Manifest) takeSealed(l *lines) {
	if l.err != nil {
		return
	}
	start := l.off
	for range maxSealed(m.Kind) {
		rest := l.text[l.off:]
		end := bytes.Index(rest, []byte("\n"+armor.Footer+"\n"))
		if !bytes.HasPrefix(rest, []byte(armor.Header+"\n")) || end < 0 {
			break
		}
		l.off += end + len(armor.Footer) + 2
	}
	if l.off == start {
		l.fail("no sealed part")
	}
	m.sealed = l.text[start:l.off]
}

// maxSealed returns how many messages of age a manifest may have. That of a prune has what
// was sealed in the generation before it, and in the base of that: who prunes cannot read it.
func maxSealed(k Kind) int {
	if k == Prune {
		return 2
	}
	return 1
}

// unlock returns a manifest with what is sealed in it.
func (m *Manifest) unlock(id *Identity) (Manifest, error) {
	var in Manifest
	for rest := m.sealed; len(rest) > 0; {
		end := bytes.Index(rest, []byte(armor.Footer+"\n")) + len(armor.Footer) + 1
		x, err := openSealed(rest[:end], id)
		if err != nil {
			return in, err
		}
		if x.Files = x.Apply(in.Files); x.Kind == Diff && m.Kind != Diff && in.N != x.Base {
			return in, sealedError("it has no base")
		}
		in, rest = x, rest[end:]
	}
	same := in.N == m.N && in.Time.Equal(m.Time) && in.Kind == m.Kind && in.Prev == m.Prev && in.Base == m.Base
	if m.Kind == Prune {
		same = in.N < m.N
	}
	if !same || repoDigest(in.Repo) != m.Repo {
		return in, sealedError("it belongs to another manifest")
	}
	if err := in.locate(m.Files); err != nil {
		return in, err
	}
	in.N, in.Time, in.Kind, in.Prev, in.Base, in.Drops, in.Freed = m.N, m.Time, m.Kind, m.Prev, m.Base, m.Drops, m.Freed
	if in.Kind != Diff {
		in.Gone = nil
	}
	in.Encrypted, in.Signature, in.Signer = true, m.Signature, m.Signer
	return in, nil
}

func sealedError(reason string) error {
	return &pack.CorruptError{File: "manifest", Off: -1, Reason: "what is sealed in it: " + reason}
}

// openSealed decrypts a manifest.
func openSealed(armored []byte, id *Identity) (in Manifest, err error) {
	plain, err := age.Decrypt(armor.NewReader(bytes.NewReader(armored)), id.keys()...)
	if forOthers(err) {
		return in, &repo.RefusedError{Reason: "the manifest is encrypted to others than this identity"}
	}
	if err != nil {
		return in, sealedError(err.Error())
	}
	text, err := io.ReadAll(plain)
	if err == nil {
		in, err = ParseManifest(text)
	}
	if err == nil && (in.Locked || in.Signature != nil) {
		err = errors.New("it is sealed or signed once more")
	}
	if err != nil {
		return in, sealedError(err.Error())
	}
	return in, nil
}

// locate tells the files how they are stored. Each has to be there, and nothing else.
func (m *Manifest) locate(list []File) error {
	stored := make(map[string]*File, len(list))
	for i := range list {
		stored[list[i].Key] = &list[i]
	}
	for i := range m.Files {
		f := &m.Files[i]
		c := stored[f.Key]
		if c == nil {
			return sealedError("it names other keys")
		}
		delete(stored, f.Key)
		f.Version, f.PartSums = c.Version, c.PartSums
		if c.Size != f.Size || c.SHA256 != f.SHA256 {
			f.Cipher = Stored{c.Size, c.SHA256}
		}
	}
	if len(stored) > 0 {
		return sealedError("it names other keys")
	}
	return nil
}
