package s3sync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// Bucket is one repository in an object store.
type Bucket struct {
	Objects Objects
	Prefix  string // of all its keys, "backup/build/"; "" or ending in a slash
	// Check looks at the signature of a manifest, whose signed text it is given. nil: any
	// is good.
	Check func(m *Manifest, signed []byte) error
	// Identity opens what is encrypted; nil: that stays locked. Recipients is to whom a mirror
	// run encrypts; nil: it does not.
	Identity   *Identity
	Recipients *Recipients

	names *names // of what a run has sent encrypted, which it cannot open
}

// Generation is a repository as a bucket had it at one time.
type Generation struct {
	Manifest
	Sum   Sum    // of the text of the manifest
	Files []File // all of them, sorted by name
	// Passed are newer manifests that were passed over, and why.
	Passed []error
	// Copied tells of manifests, its own and that of its base, whose second copies were read.
	Copied []error

	version string      // of the manifest; "" where the bucket keeps none
	highest uint64      // number that a manifest has, be it good or not
	over    []*Manifest // newer ones that were passed over: what they drop counts, too
	unknown int         // files of a locked one of which the names do not tell what they are
	lost    bool        // the first copy of the manifest is not there
}

// File returns a file of the generation.
func (g *Generation) File(name string) (File, bool) {
	i := sort.Search(len(g.Files), func(i int) bool { return g.Files[i].Name >= name })
	if i == len(g.Files) || g.Files[i].Name != name {
		return File{}, false
	}
	return g.Files[i], true
}

// At returns generation n. Of a store that lists versions the oldest good manifest is taken, as
// by Latest, which costs a listing: nothing else was listed here.
func (b *Bucket) At(ctx context.Context, n uint64) (*Generation, error) {
	g, err := b.load(ctx, n, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &repo.NotFoundError{What: "generation", Name: fmt.Sprint(n)}
	}
	if err != nil {
		return nil, err
	}
	return g, nil
}

// named gives the files of a generation that this server encrypted their names.
func (b *Bucket) named(g *Generation) *Generation {
	if g.Locked && b.names != nil {
		b.names.unlock(g)
	}
	return g
}

// name is what the repository is called.
func (b *Bucket) name() string { return path.Base("/" + strings.TrimSuffix(b.Prefix, "/")) }

// load reads a generation, and the one it is based on. versions are those of its manifest;
// nil: they are listed. One that is not trusted is returned with the error.
func (b *Bucket) load(ctx context.Context, n uint64, versions []Object) (*Generation, error) {
	g, err := b.either(ctx, n, versions)
	if err != nil {
		return g, err
	}
	if g.Kind != Diff {
		return b.named(g), nil
	}
	var copies []Object  // to be listed
	if g.version == "" { // the bucket keeps none: this would be a request for nothing
		copies = []Object{{Key: b.Prefix + manifestKey(keyManifests, g.Base)}}
	}
	base, err := b.either(ctx, g.Base, copies)
	if err != nil {
		return nil, fmt.Errorf("its base %d: %w", g.Base, err)
	}
	if base.Kind == Diff || base.Repo != g.Repo {
		return nil, &pack.CorruptError{File: "manifest", Off: -1, Reason: fmt.Sprintf("its base %d is none", g.Base)}
	}
	g.Files, g.Drops, g.Freed = g.Apply(base.Manifest.Files), base.Drops, base.Freed
	g.Copied = append(g.Copied, base.Copied...)
	g.sealed = slices.Concat(base.sealed, g.sealed)
	return b.named(g), nil
}

// oldest reads the oldest version of a manifest that is good. versions nil: they are listed, be
// there something under the key or not, as the newest may have been put on top of the good one.
func (b *Bucket) oldest(ctx context.Context, dir string, n uint64, versions []Object) (*Generation, error) {
	if versions == nil {
		var err error
		if versions, err = b.copiesOf(ctx, b.Prefix+manifestKey(dir, n)); err != nil {
			return nil, err
		}
	}
	var first *Generation
	var why error
	for _, o := range versions {
		g, err := b.manifest(ctx, o, n)
		if err == nil {
			return g, nil
		}
		if why == nil {
			first, why = g, err
		}
	}
	return first, why
}

// manifest reads one manifest and looks at its signature.
func (b *Bucket) manifest(ctx context.Context, o Object, n uint64) (*Generation, error) {
	first := 1 << 20
	if o.Size > 0 {
		first = int(min(o.Size, readStep)) + 1
	}
	text, err := readAll(ctx, b.Objects, o.Key, o.Version, maxManifest, first)
	if err != nil {
		return nil, err
	}
	m, err := ParseManifest(text)
	if err == nil && m.N != n {
		err = &pack.CorruptError{File: "manifest", Off: -1, Reason: fmt.Sprintf("it is that of generation %d", m.N)}
	}
	if err == nil && b.Check != nil {
		err = b.Check(&m, text[:len(text)-len(m.Signature)])
	}
	if err == nil && m.Locked && b.Identity != nil {
		var open Manifest
		if open, err = m.unlock(b.Identity); err == nil {
			m = open
		}
	}
	var corrupt *pack.CorruptError
	if errors.As(err, &corrupt) {
		corrupt.File = o.Key
		return nil, err
	}
	return &Generation{Manifest: m, Sum: SumOf(text), Files: m.Files, version: o.Version}, err
}

// readStep is how much ReadAll asks for at a time.
const readStep = 4 << 20

// ReadAll reads an object that has at most limit bytes.
func ReadAll(ctx context.Context, s Objects, key, version string, limit int) ([]byte, error) {
	return readAll(ctx, s, key, version, limit, 64<<10) // most are small
}

// readAll asks for first bytes at first: one more than there are takes one request.
func readAll(ctx context.Context, s Objects, key, version string, limit, first int) ([]byte, error) {
	var b []byte
	for step := min(max(1, first), readStep); ; step = min(4*step, readStep) {
		at := len(b)
		b = append(b, make([]byte, step)...)
		n, err := s.Get(ctx, key, version, b[at:], int64(at))
		b = b[:at+n]
		if err == io.EOF {
			return b, nil
		} else if err != nil {
			return nil, err
		}
		if len(b) > limit {
			return nil, fmt.Errorf("%s has more than %d bytes", key, limit)
		}
	}
}
