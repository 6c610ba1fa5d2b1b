package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/s3sync"
)

// store says how an object store is reached.
type store struct {
	endpoint   string
	region     string
	generation uint64
	trust      string
}

func (o *store) flags(f *pflag.FlagSet) {
	f.StringVar(&o.endpoint, "endpoint", o.endpoint, "s3:// is at `URL` (default: $AWS_ENDPOINT_URL_S3, $AWS_ENDPOINT_URL, Amazon)")
	f.StringVar(&o.region, "region", o.region, "s3:// is in this `REGION` (default: $AWS_REGION)")
	f.StringVar(&o.trust, "trust", o.trust, "believe only manifests of a mirror that a key in `FILE` signed")
	f.Uint64Var(&o.generation, "generation", o.generation, "read generation `N` of a mirror (default: the newest)")
}

// bucketAt is s3://bucket/prefix.
type bucketAt struct {
	bucket string
	prefix string // "" or ending in a slash
}

// String returns the address.
func (b bucketAt) String() string {
	return "s3://" + b.bucket + "/" + strings.TrimSuffix(b.prefix, "/")
}

// parseBucket reads s3://bucket/prefix.
func parseBucket(s string) (b bucketAt, err error) {
	rest, ok := strings.CutPrefix(s, "s3://")
	bucket, prefix, _ := strings.Cut(rest, "/")
	prefix = strings.Trim(prefix, "/")
	if !ok || bucket == "" || strings.Contains(prefix, "//") {
		return b, usagef("%s is not s3://BUCKET/PREFIX", quote(s))
	}
	if prefix != "" {
		prefix += "/"
	}
	return bucketAt{bucket, prefix}, nil
}

// objects reaches the object store of an address.
func (a *app) objects(at bucketAt) (s3sync.Objects, error) {
	o := s3sync.S3Options{Bucket: at.bucket, Endpoint: a.common.store.endpoint, Region: a.common.store.region}
	for _, name := range []string{"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"} {
		if o.Endpoint == "" {
			o.Endpoint = a.Env(name)
		}
	}
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION"} {
		if o.Region == "" {
			o.Region = a.Env(name)
		}
	}
	// Stores of others are rarely reached by a name for each bucket.
	o.PathStyle = o.Endpoint != "" && !strings.Contains(o.Endpoint, ".amazonaws.com")
	s, err := s3sync.NewS3(o)
	if err != nil {
		return nil, err
	}
	return &s3sync.Patient{Objects: s}, nil
}

// bucket returns the repository at an address, of which only manifests count that are
// signed as the user wants it.
func (a *app) bucket(s s3sync.Objects, at bucketAt) (*s3sync.Bucket, error) {
	b := &s3sync.Bucket{Objects: s, Prefix: at.prefix, Check: s3sync.Trust()}
	if a.common.store.trust == "" {
		return b, nil
	}
	text, err := a.FS.ReadFile(a.common.store.trust, 1<<20)
	if err != nil {
		return nil, err
	}
	keys, err := s3sync.ParseKeys(text)
	if err == nil && len(keys) == 0 {
		err = &repo.ConfigError{Reason: "there is no key in it"}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", quote(a.common.store.trust), err)
	}
	b.Check = s3sync.Trust(keys...)
	return b, nil
}

// cacheBytes is how much of a mirror is kept in memory while it is read.
const cacheBytes = 64 << 20

// mirrored is a repository in a mirror.
type mirrored struct {
	*repo.Packs
	passed []error
}

// Check is repo.Check.
func (m mirrored) Check(ctx context.Context, o repo.CheckOptions, report func(repo.Finding)) (repo.CheckResult, error) {
	return repo.Check(ctx, m.Packs, o, report)
}

// Warnings returns what was wrong and could be done without.
func (m mirrored) Warnings() []error { return append(m.passed, m.Packs.Warnings()...) }

// openMirrored opens a generation of a mirror.
func (a *app) openMirrored(ctx context.Context, p place) (repository, error) {
	b, at, err := a.mirrorAt(p.path)
	if err != nil {
		return nil, err
	}
	g, err := a.generation(ctx, b, at)
	if err != nil {
		return nil, err
	}
	packs, err := b.Open(ctx, g, s3sync.NewCache(cacheBytes))
	if err != nil {
		return nil, err
	}
	return mirrored{packs, g.Passed}, nil
}

// mirroredRepos returns the names of the repositories below an address, if none is there
// itself.
func (a *app) mirroredRepos(ctx context.Context, p place) (names []string, ok bool, err error) {
	at, err := parseBucket(p.path)
	if err != nil {
		return nil, false, err
	}
	if !strings.HasSuffix(p.path, "/") {
		return nil, false, nil
	}
	s, err := a.objects(at)
	if err != nil {
		return nil, false, err
	}
	names, err = s3sync.Names(ctx, s, at.prefix)
	return names, true, err
}
