package s3sync

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"filippo.io/age"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// Recipients are those who can read a mirror that is encrypted: public keys of age.
type Recipients struct{ list []age.Recipient }

// ParseRecipients reads public keys as age-keygen prints them, one a line. Empty lines and
// those that begin with # are passed over.
func ParseRecipients(text []byte) (*Recipients, error) {
	list, err := age.ParseRecipients(bytes.NewReader(text))
	if err == nil { // keys of some kinds do not go together
		err = (&Recipients{list}).seal(io.Discard, bytes.NewReader(nil))
	}
	if err != nil {
		return nil, &repo.ConfigError{Reason: err.Error()}
	}
	return &Recipients{list}, nil
}

// seal writes what is read as an age file.
func (r *Recipients) seal(w io.Writer, from io.Reader) error {
	to, err := age.Encrypt(w, r.list...)
	if err != nil {
		return err
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{to}, from, make([]byte, 256<<10)); err != nil {
		return err
	}
	return to.Close()
}

// Identity opens what is encrypted to one of its keys: private keys of age.
type Identity struct{ list []age.Identity }

// ParseIdentity reads private keys as age-keygen writes them, one a line. Empty lines and
// those that begin with # are passed over.
func ParseIdentity(text []byte) (*Identity, error) {
	list, err := age.ParseIdentities(bytes.NewReader(text))
	if err != nil {
		return nil, &repo.ConfigError{Reason: err.Error()}
	}
	return &Identity{list}, nil
}

// keys returns the keys in a slice of the caller's own, because age sorts what it is given.
func (i *Identity) keys() []age.Identity { return slices.Clone(i.list) }

// LockedError says that something is encrypted and that no identity was given.
type LockedError struct{ Name string }

// Error says what is encrypted.
func (e *LockedError) Error() string {
	return e.Name + " is encrypted: reading it takes the private key of one of those it is encrypted to"
}

// SealedError says that nothing is written to what is encrypted.
type SealedError struct{ Name string }

// Error says why.
func (e *SealedError) Error() string {
	return e.Name + " is encrypted and cannot be changed in place: who writes has to read what is there, and mirrors are made by servers that have public keys only"
}

// MixedError says that what is to be mirrored encrypted meets what is not, or the other way
// round.
type MixedError struct {
	Prefix    string
	Encrypted bool // what is there
}

// Error says what is there.
func (e *MixedError) Error() string {
	if e.Encrypted {
		return fmt.Sprintf("the mirror in %s is encrypted, and this run would send what everybody can read", orDash(e.Prefix))
	}
	return fmt.Sprintf("the mirror in %s is not encrypted, and this run would encrypt: names and old generations would stay readable", orDash(e.Prefix))
}

// shut returns the bucket without an identity: what is encrypted goes by its keys, and its
// sealed parts are passed on as they are.
func (b *Bucket) shut() *Bucket {
	x := *b
	x.Identity = nil
	return &x
}

// Stored is what stands in a store in place of a file that is encrypted.
type Stored struct {
	Size   int64
	SHA256 Sum
}

// encrypted reports whether the object is an age file.
func (f *File) encrypted() bool { return f.Cipher != Stored{} }

// stored returns what the object is, encrypted or not.
func (f *File) stored() Stored {
	if f.encrypted() {
		return f.Cipher
	}
	return Stored{f.Size, f.SHA256}
}

// randomHex returns 32 digits.
func randomHex() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// isHex reports whether a name is one of randomHex or PlaceOf.
func isHex(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 16 && hex.EncodeToString(b) == s
}

// objectStream reads an object from its beginning, in steps of readStep.
type objectStream struct {
	ctx          context.Context
	s            Objects
	key, version string
	size, off    int64
	buf          []byte // read and not yet taken
	err          error  // of the store
}

// Read reads what comes next.
func (r *objectStream) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if len(r.buf) == 0 {
		want := min(readStep, r.size-r.off)
		if want == 0 {
			return 0, io.EOF
		}
		direct := int64(len(p)) >= want
		if direct {
			r.buf = p[:want]
		} else {
			r.buf = make([]byte, want)
		}
		n, err := r.s.Get(r.ctx, r.key, r.version, r.buf, r.off)
		if int64(n) < want {
			r.err = r.short(int64(n), err)
			return 0, r.err
		}
		if r.off += want; direct {
			r.buf = nil
			return n, nil
		}
	}
	n := copy(p, r.buf)
	r.buf = r.buf[n:]
	return n, nil
}

// short says why less came than there is to be.
func (r *objectStream) short(n int64, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return lostFile(r.key)
	case err == nil || err == io.EOF:
		return &pack.CorruptError{File: r.key, Off: r.off + n, Reason: "it ends before its time"}
	}
	return err
}

// opened is what an object decrypts to, from the beginning.
type opened struct {
	from  *objectStream
	plain io.Reader
}

// Read reads what comes next.
func (r *opened) Read(p []byte) (int, error) {
	n, err := r.plain.Read(p)
	if err != nil && err != io.EOF {
		err = unopened(r.from.key, r.from.err, err)
	}
	return n, err
}

// unopened returns why something could not be decrypted: because it could not be had, or
// because it is damaged. Where not even the key is found, it may also be meant for others.
func unopened(key string, source, err error) error {
	if source != nil {
		return source
	}
	if forOthers(err) {
		return &pack.CorruptError{File: key, Off: -1, Reason: "it is encrypted to others than this identity, or its header is damaged"}
	}
	return &pack.CorruptError{File: key, Off: -1, Reason: err.Error()}
}

// forOthers reports whether an identity has none of the keys that something is encrypted to.
func forOthers(err error) bool { return errors.As(err, new(*age.NoIdentityMatchError)) }

// reader reads a file of a generation from its beginning.
func (b *Bucket) reader(ctx context.Context, f File) (io.Reader, error) {
	from := &objectStream{ctx: ctx, s: b.Objects, key: b.Prefix + f.Key, version: f.Version, size: f.stored().Size}
	if !f.encrypted() {
		return from, nil
	}
	if b.Identity == nil {
		return nil, &LockedError{from.key}
	}
	plain, err := age.Decrypt(from, b.Identity.keys()...)
	if err != nil {
		return nil, unopened(from.key, from.err, err)
	}
	return &opened{from, plain}, nil
}

// readSmall reads a file of a generation that has at most limit bytes.
func (b *Bucket) readSmall(ctx context.Context, f File, limit int) ([]byte, error) {
	if !f.encrypted() {
		return readAll(ctx, b.Objects, b.Prefix+f.Key, f.Version, limit, int(min(f.Size, readStep))+1)
	}
	if f.Size > int64(limit) {
		return nil, fmt.Errorf("%s has more than %d bytes", b.Prefix+f.Key, limit)
	}
	r, err := b.reader(ctx, f)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(r, f.Size+1))
	return text, err
}
