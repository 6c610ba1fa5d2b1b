package s3sync

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/kedgebackup/kedge/repo"
)

// PlaceOf returns the directory in which an encrypted mirror of a repository stands: 32
// digits, the first half of the SHA-256 of these lines.
//
//	kedge-place
//	<prefix of the mirrors, ending in a slash, if any>
//	<name>
//	<id of the repository>
//
// Nobody can tell the name without the id, which is random; and the same repository finds its
// place again, though the server may have lost all that it knew of the mirror.
func PlaceOf(prefix, name, id string) string {
	sum := sha256.Sum256([]byte("kedge-place\n" + prefix + "\n" + name + "\n" + id + "\n"))
	return hex.EncodeToString(sum[:16])
}

// Place is a repository in a store.
type Place struct {
	Dir       string // below the prefix
	Name      string // Dir, unless it is encrypted
	Encrypted bool
	Err       error // why the name cannot be told
}

// directories calls fn for what stands between a prefix, which ends in a slash, and the next
// slash of all keys, unless it begins with a dot.
func directories(ctx context.Context, s Objects, prefix string, fn func(dir string) error) error {
	after := ""
	for {
		name := ""
		_, err := versions(ctx, s, prefix, after, func(o Object) error {
			dir, _, ok := strings.Cut(o.Key[len(prefix):], "/")
			if !ok || strings.HasPrefix(dir, ".") {
				return nil
			}
			name = dir
			return errEnough
		})
		if err != nil && !errors.Is(err, errEnough) {
			return err
		}
		if name == "" {
			return nil
		}
		if err := fn(name); err != nil {
			return err
		}
		after = prefix + name + "0" // what comes after name + "/…"
	}
}

// begins reports whether any key begins with a prefix.
func begins(ctx context.Context, s Objects, prefix string) (has bool, err error) {
	_, err = versions(ctx, s, prefix, "", func(Object) error { has = true; return errEnough })
	if errors.Is(err, errEnough) {
		err = nil
	}
	return has, err
}

// Names returns the directories with repositories below a prefix, which ends in a slash.
func Names(ctx context.Context, s Objects, prefix string) ([]string, error) {
	var names []string
	err := directories(ctx, s, prefix, func(dir string) error {
		has, err := begins(ctx, s, prefix+dir+"/"+keyManifests)
		if !has && err == nil { // the first copies may be lost, all of them
			has, err = begins(ctx, s, prefix+dir+"/"+keyBases)
		}
		if has {
			names = append(names, dir)
		}
		return err
	})
	return names, err
}

// Places returns the repositories below a prefix, sorted by name. Names of encrypted ones
// are told to an identity.
func Places(ctx context.Context, s Objects, prefix string, id *Identity) ([]Place, error) {
	dirs, err := Names(ctx, s, prefix)
	if err != nil {
		return nil, err
	}
	list := make([]Place, len(dirs))
	inParallel(len(dirs), func(i int) {
		p := Place{Dir: dirs[i], Name: dirs[i]}
		if isHex(p.Dir) {
			p.Name, p.Err = placeName(ctx, s, prefix+p.Dir+"/"+keyName, id)
			p.Encrypted = !errors.Is(p.Err, fs.ErrNotExist)
		}
		if !p.Encrypted {
			p = Place{Dir: p.Dir, Name: p.Dir}
		}
		list[i] = p
	})
	slices.SortFunc(list, func(a, b Place) int {
		return strings.Compare(a.Name+"/"+a.Dir, b.Name+"/"+b.Dir)
	})
	return list, ctx.Err()
}

// placeName reads what a repository is called.
func placeName(ctx context.Context, s Objects, key string, id *Identity) (string, error) {
	const limit = 64 << 10
	if id == nil {
		if _, err := s.Stat(ctx, key, ""); err != nil {
			return "", err
		}
		return "", &LockedError{key}
	}
	o, err := s.Stat(ctx, key, "")
	if err != nil {
		return "", err
	}
	b := Bucket{Objects: s, Identity: id}
	text, err := b.readSmall(ctx, File{Key: key, Size: min(o.Size, limit), Cipher: Stored{Size: o.Size}}, limit)
	if err != nil {
		return "", err
	}
	name, ok := strings.CutSuffix(string(text), "\n")
	if !ok || checkFileName(name) != nil || strings.Contains(name, "/") || strings.HasPrefix(name, ".") {
		return "", fmt.Errorf("%s holds %q, which is no name of a repository", key, text)
	}
	return name, nil
}

// FindPlace returns the directory in which the encrypted repository of a name stands; the
// name itself if none is encrypted. *repo.NotFoundError if there is none of the name.
func FindPlace(ctx context.Context, s Objects, prefix, name string, id *Identity) (string, error) {
	list, err := Places(ctx, s, prefix, id)
	if err != nil {
		return "", err
	}
	var found, near []string
	var why error
	for _, p := range list {
		switch {
		case p.Name == name || p.Dir == name:
			found = append(found, p.Dir)
		case p.Err != nil:
			why = p.Err
		default:
			near = append(near, p.Name)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return "", fmt.Errorf("%d repositories are called %s: take one of %s in place of the name", len(found), name, strings.Join(found, ", "))
	case why != nil:
		return "", fmt.Errorf("none is called %s, and one cannot tell its name: %w", name, why)
	}
	return "", &repo.NotFoundError{What: "mirror", Name: prefix + name, Near: repo.Nearest(name, near)}
}

// maxLooks is how many directories Unmixed looks at: those of mirrors come early, unless it
// is a bucket of all sorts of things.
const maxLooks = 20

// Unmixed fails with a *MixedError if a prefix has repositories that are encrypted, or that
// are not, contrary to what is wanted.
func Unmixed(ctx context.Context, s Objects, prefix string, encrypted bool) error {
	looks := 0
	err := directories(ctx, s, prefix, func(dir string) error {
		if looks++; looks > maxLooks {
			return errEnough
		}
		has, err := begins(ctx, s, prefix+dir+"/"+keyManifests)
		if err != nil || !has {
			return err
		}
		is := false
		if isHex(dir) {
			if is, err = begins(ctx, s, prefix+dir+"/"+keyName); err != nil {
				return err
			}
		}
		if is != encrypted {
			return &MixedError{prefix, is}
		}
		return errEnough
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return err
}
