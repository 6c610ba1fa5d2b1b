package s3sync

import (
	"context"
	"errors"
	"io/fs"

	"github.com/minio/minio-go/v7"

	"github.com/kedgebackup/kedge/repo"
)

// Who may delete objects of a bucket that keeps versions, but no versions, hides what is there
// behind delete markers, and may even create the same keys again. The data is found by the
// versions that manifests name. Manifests are found by listing versions: the oldest good one
// of a key counts, as keys are created once and, if a prune deletes them, with all their
// versions. A store that does not list versions, or not to us, is asked for its objects.

// keptVersions bounds how many versions of a manifest are looked at.
const keptVersions = 16

// versions lists the versions of objects, or where that is not to be had the objects; all is
// false then.
func versions(ctx context.Context, s Objects, prefix, after string, fn func(Object) error) (all bool, err error) {
	v, ok := versionedOf(s)
	if !ok {
		return false, s.List(ctx, prefix, after, fn)
	}
	var own error // of fn
	called := false
	err = v.Versions(ctx, prefix, after, func(o Object) error {
		called = true
		own = fn(o)
		return own
	})
	if err == nil || own != nil || called || ctx.Err() != nil || IsTemporary(err) {
		return true, err
	}
	return false, s.List(ctx, prefix, after, fn)
}

// byKey gathers the versions of each key and passes them on, the oldest first.
type byKey struct {
	group []Object
	fn    func([]Object) error
}

func (g *byKey) add(o Object) error {
	if len(g.group) > 0 && g.group[0].Key != o.Key {
		if err := g.flush(); err != nil {
			return err
		}
	}
	if len(g.group) < keptVersions {
		g.group = append(g.group, o)
	}
	return nil
}

func (g *byKey) flush() error {
	group := g.group
	g.group = nil
	if len(group) == 0 {
		return nil
	}
	return g.fn(group)
}

// manifests calls fn for the manifests below manifests/ or bases/ that come after a key, the
// newest first, with the versions of each.
func (b *Bucket) manifests(ctx context.Context, dir, after string, fn func(n uint64, versions []Object) error) error {
	g := byKey{fn: func(list []Object) error {
		n, ok := parseManifestKey(list[0].Key)
		if !ok {
			return nil
		}
		return fn(n, list)
	}}
	_, err := versions(ctx, b.Objects, b.Prefix+dir, after, g.add)
	if err == nil {
		err = g.flush()
	}
	return err
}

// copiesOf returns the versions of a manifest. Of a store that lists none, or nothing to us, it
// is what the key stands for, of which nobody knows yet whether it is there.
func (b *Bucket) copiesOf(ctx context.Context, key string) ([]Object, error) {
	latest := []Object{{Key: key}}
	if _, ok := versionedOf(b.Objects); !ok {
		return latest, nil
	}
	var list []Object
	g := byKey{fn: func(l []Object) error {
		if l[0].Key == key {
			list = l
		}
		return errEnough
	}}
	_, err := versions(ctx, b.Objects, key, "", g.add)
	if err == nil {
		err = g.flush()
	}
	switch {
	case errors.Is(err, errEnough):
		err = nil
	case errors.As(err, new(*repo.RefusedError)):
		return latest, nil
	}
	if err == nil && list == nil {
		err = &fs.PathError{Op: "get", Path: key, Err: fs.ErrNotExist}
	}
	return list, err
}

// Versions calls fn for every version of the objects whose key begins with prefix.
func (s *S3) Versions(ctx context.Context, prefix, after string, fn func(Object) error) error {
	o := minio.ListObjectsOptions{
		Prefix: prefix, StartAfter: after, Recursive: true, MaxKeys: pageKeys, WithVersions: true, ReverseVersions: true,
	}
	for info := range s.core.ListObjectsIter(ctx, s.bucket, o) {
		if info.Err != nil {
			return s.failure(info.Err, prefix)
		}
		if info.IsDeleteMarker || info.Key <= after { // some begin with the key itself
			continue
		}
		if info.IsLatest && info.VersionID == noVersion {
			info.VersionID = ""
		}
		if err := fn(object(info)); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// noVersion is the version of an object that was made when the bucket kept none.
const noVersion = "null"

// Versions calls fn for every version once, though the listing may begin anew after the last
// key that came as a whole.
func (p *Patient) Versions(ctx context.Context, prefix, after string, fn func(Object) error) error {
	inner, _ := versionedOf(p.Objects)
	for {
		var page []Object
		more := false
		err := p.again(ctx, "list versions of", prefix, listPage, func(ctx context.Context) error {
			page, more = page[:0], false
			err := inner.Versions(ctx, prefix, after, func(o Object) error {
				if len(page) >= pageKeys && page[len(page)-1].Key != o.Key {
					more = true
					return errEnough
				}
				page = append(page, o)
				return nil
			})
			if errors.Is(err, errEnough) {
				err = nil
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, o := range page {
			after = o.Key
			if err := fn(o); err != nil {
				return err
			}
		}
		if !more {
			return nil
		}
	}
}
