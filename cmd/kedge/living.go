package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/s3sync"
)

// living is a repository that lives in a bucket.
type living struct{ *repo.Packs }

func (l living) packs() *repo.Packs { return l.Packs }

// Check is repo.Check.
func (l living) Check(ctx context.Context, o repo.CheckOptions, report func(repo.Finding)) (repo.CheckResult, error) {
	return repo.Check(ctx, l.Packs, o, report)
}

// livingDir is where a repository in a bucket is worked on. All of it may be lost at any time.
func (a *app) livingDir(at bucketAt) string { return filepath.Join(a.mirrorCache(at), "work") }

// depot reaches a repository that lives in a bucket, or that is to.
func (a *app) depot(at bucketAt) (*s3sync.Living, error) {
	home, err := a.home()
	if err != nil {
		return nil, err
	}
	return a.depotIn(at, a.livingDir(at), filepath.Join(home, "kedge", "mirror_key"))
}

// depotIn is depot with a directory to work in, and the file of the key that signs.
func (a *app) depotIn(at bucketAt, dir, key string) (*s3sync.Living, error) {
	if a.common.store.generation != 0 {
		return nil, usagef("--generation %d: only the newest generation can be changed", a.common.store.generation)
	}
	s, err := a.objects(at)
	if err != nil {
		return nil, err
	}
	b, err := a.bucket(s, at)
	if err != nil {
		return nil, err
	}
	where, err := a.s3Options(at)
	if err != nil {
		return nil, err
	}
	sign, err := a.mirrorKey(key)
	if err != nil {
		return nil, err
	}
	cache := s3sync.NewCache(cacheBytes)
	cache.Disk = &s3sync.DiskCache{FS: a.FS, Dir: a.mirrorCache(at)}
	return b.Live(s3sync.LivingOptions{
		FS: a.FS, Dir: filepath.Join(dir, "bucket"), Sign: sign, Now: a.now,
		Store: where.Endpoint + " " + at.bucket, Cache: cache,
	})
}

// promised makes sure that a store keeps what a repository that lives there relies on: once for
// each version of kedge, which a file remembers.
func (a *app) promised(ctx context.Context, at bucketAt, file string) error {
	if was, err := a.FS.ReadFile(file, 1<<10); err == nil && string(was) == version+"\n" {
		return nil
	}
	s, err := a.objects(at)
	if err != nil {
		return err
	}
	var broken []string
	left, err := s3sync.Validate(ctx, s, at.prefix, func(p s3sync.Promise) {
		if p.Needed && !p.Kept {
			broken = append(broken, p.Name)
		}
	})
	if err != nil {
		return fmt.Errorf("%s: %w", escape(at.String()), err)
	}
	if len(broken) > 0 {
		return withHint(&codedError{exitRefused, fmt.Errorf("%s is not fit for repositories: %s", escape(at.String()), strings.Join(broken, ", "))},
			fmt.Sprintf("'%s mirror validate %s' tells more", a.name, escape(at.String())))
	}
	if left > 0 {
		a.ui.line("%s below %s/validate-… could not be deleted", plural(int64(left), "object"), escape(at.String()))
	}
	if err := a.FS.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return a.FS.Replace(file, []byte(version+"\n"), 0o600)
}

// promises is the file that remembers what a bucket was found to promise.
func (a *app) promises(at bucketAt) string {
	return filepath.Join(a.mirrorCache(bucketAt{bucket: at.bucket}), "validated")
}

// openLiving opens a repository in a bucket, to be changed.
func (a *app) openLiving(ctx context.Context, p place) (repository, error) {
	at, err := parseBucket(p.path)
	if err != nil {
		return nil, err
	}
	l, err := a.depot(at)
	if err != nil {
		return nil, err
	}
	packs, err := repo.OpenDepot(ctx, filepath.Join(a.livingDir(at), "desk"), l, repo.DirOptions{FS: a.FS, Wait: a.patience(), Clock: a.now})
	if err == nil {
		if err := a.promised(ctx, at, a.promises(at)); err != nil {
			return nil, errors.Join(err, packs.Close())
		}
		return living{packs}, nil
	}
	err = errors.Join(err, l.Close())
	if serr := a.sealedThere(ctx, at, err); serr != nil {
		return nil, serr
	}
	none := new(repo.NotFoundError)
	switch {
	case errors.As(err, &none) && none.What == "repository":
		return nil, withHint(&repo.NotFoundError{What: "repository", Name: at.String()},
			fmt.Sprintf("'%s init -r %s' makes one", a.name, escape(at.String())))
	case errors.Is(err, repo.ErrReadOnly):
		return nil, usagef("%s is a mirror, which can only be read", quote(p.path))
	}
	return nil, fmt.Errorf("%s: %w", escape(at.String()), err)
}

// collectBucket lets go of what the newest generation of a repository in a bucket does not need,
// and deletes what was let go of long enough ago.
func (a *app) collectBucket(ctx context.Context) (r s3sync.PruneResult, err error) {
	b, at, err := a.mirrorAt(ctx, a.common.remote)
	if err != nil {
		return r, err
	}
	home, err := a.home()
	if err != nil {
		return r, err
	}
	sign, err := a.mirrorKey(filepath.Join(home, "kedge", "mirror_key"))
	if err != nil {
		return r, err
	}
	r, err = b.Prune(ctx, s3sync.PruneOptions{Keep: 1, Sign: sign, Now: a.now})
	if err != nil {
		err = fmt.Errorf("%s: %w", escape(at.String()), err)
	}
	return r, err
}

// livingExpect is what a repository in a bucket is at least expected to grow to: rabin:16.
const livingExpect = 30e12

// createLiving makes a repository in a bucket. Each chunk is a question to the index there, and
// those are of many: so they are larger than elsewhere if nothing else is said.
func (a *app) createLiving(ctx context.Context, p place, o newRepo) (repo.Config, error) {
	at, err := parseBucket(p.path)
	if err != nil {
		return repo.Config{}, err
	}
	if o.chunker == "" {
		o.expect = max(o.expect, livingExpect)
	}
	text, err := repo.NewConfig(repo.InitOptions{Chunker: o.chunker, Expect: int64(o.expect)})
	if err != nil {
		return repo.Config{}, err
	}
	if err := a.sealedThere(ctx, at, nil); err != nil {
		return repo.Config{}, err
	}
	if err := a.promised(ctx, at, a.promises(at)); err != nil {
		return repo.Config{}, err
	}
	l, err := a.depot(at)
	if err != nil {
		return repo.Config{}, err
	}
	err = l.Init(ctx, text)
	if err == nil {
		_, s, lerr := l.Latest(ctx)
		text, err = s.Config, lerr
	}
	if err = errors.Join(err, l.Close()); err != nil {
		if errors.As(err, new(*s3sync.UnsafeStoreError)) {
			err = &codedError{exitRefused, err}
		}
		return repo.Config{}, fmt.Errorf("%s: %w", escape(at.String()), err)
	}
	return repo.ParseConfig(text)
}
