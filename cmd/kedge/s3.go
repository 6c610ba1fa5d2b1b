package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

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
	identity   string
}

func (o *store) flags(f *pflag.FlagSet) {
	f.StringVar(&o.endpoint, "endpoint", o.endpoint, "s3:// is at `URL` (default: $AWS_ENDPOINT_URL_S3, $AWS_ENDPOINT_URL, ~/.aws/config, Amazon)")
	f.StringVar(&o.region, "region", o.region, "s3:// is in this `REGION` (default: $AWS_REGION, ~/.aws/config)")
	f.StringVar(&o.trust, "trust", o.trust, "believe only manifests of a mirror that a key in `FILE` signed")
	f.StringVar(&o.identity, "identity", o.identity, "an encrypted mirror is read with a private key in `FILE`, as age-keygen writes it")
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

// below returns the address of one of the repositories below a prefix.
func (b bucketAt) below(name string) bucketAt { return bucketAt{b.bucket, b.prefix + name + "/"} }

// noGeneration refuses --generation where it would mean nothing.
func (a *app) noGeneration(why string) error {
	if n := a.common.store.generation; n != 0 {
		return usagef("--generation %d does not go with this command: %s", n, why)
	}
	return nil
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

// first returns the first of the variables of the environment that is set.
func (a *app) first(names ...string) string {
	for _, name := range names {
		if v := a.Env(name); v != "" {
			return v
		}
	}
	return ""
}

// s3Options finds out how to reach an address: by options, by the environment, by the config
// file that AWS tools share.
func (a *app) s3Options(at bucketAt) (s3sync.S3Options, error) {
	profile := a.Env("AWS_PROFILE")
	o := s3sync.S3Options{Bucket: at.bucket, Endpoint: a.common.store.endpoint, Region: a.common.store.region}
	if o.Endpoint == "" {
		o.Endpoint = a.first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
	}
	if o.Region == "" {
		o.Region = a.first("AWS_REGION", "AWS_DEFAULT_REGION")
	}
	file := a.Env("AWS_CONFIG_FILE")
	if home := a.Env("HOME"); file == "" && home != "" {
		file = filepath.Join(home, ".aws", "config")
	}
	if file != "" && (o.Endpoint == "" || o.Region == "") {
		text, err := a.FS.ReadFile(file, 1<<20)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return o, err
		}
		shared := s3sync.ParseShared(text, cmp.Or(profile, "default"))
		o.Endpoint, o.Region = cmp.Or(o.Endpoint, shared.Endpoint), cmp.Or(o.Region, shared.Region)
	}
	// Stores of others are rarely reached by a name for each bucket.
	o.PathStyle = o.Endpoint != "" && !strings.Contains(o.Endpoint, ".amazonaws.com")
	o.Credentials = s3sync.Credentials(s3sync.CredentialOptions{
		Profile: profile, Metadata: a.Env("AWS_EC2_METADATA_SERVICE_ENDPOINT"),
		NoRole: strings.EqualFold(a.Env("AWS_EC2_METADATA_DISABLED"), "true"),
	})
	return o, nil
}

// objects reaches the object store of an address.
func (a *app) objects(at bucketAt) (*s3sync.Patient, error) {
	o, err := a.s3Options(at)
	if err != nil {
		return nil, err
	}
	s, err := s3sync.NewS3(o)
	if err != nil {
		return nil, err
	}
	return &s3sync.Patient{Objects: s}, nil
}

// bucket returns the repository at an address, of which only manifests count that are
// signed as the user wants it.
func (a *app) bucket(s s3sync.Objects, at bucketAt) (*s3sync.Bucket, error) {
	id, err := a.identity()
	if err != nil {
		return nil, err
	}
	b := &s3sync.Bucket{Objects: s, Prefix: at.prefix, Check: s3sync.Trust(), Identity: id}
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
	snapshot *s3sync.Snapshot
	warned   []error // of its manifests
}

// Check is repo.Check.
func (m mirrored) Check(ctx context.Context, o repo.CheckOptions, report func(repo.Finding)) (repo.CheckResult, error) {
	return repo.Check(ctx, m.Packs, o, report)
}

// Warnings returns what was wrong and could be done without.
func (m mirrored) Warnings() []error {
	return slices.Concat(m.warned, m.snapshot.Warnings(), m.Packs.Warnings())
}

// openMirrored opens a generation of a mirror.
func (a *app) openMirrored(ctx context.Context, p place) (repository, error) {
	b, at, err := a.mirrorAt(ctx, p.path)
	if err != nil {
		return nil, err
	}
	g, err := a.generation(ctx, b, at)
	if err != nil {
		return nil, err
	}
	if g.Locked {
		return nil, a.locked(at, &s3sync.LockedError{Name: at.String()})
	}
	cache := s3sync.NewCache(cacheBytes)
	cache.Disk = &s3sync.DiskCache{FS: a.FS, Dir: a.mirrorCache(at)}
	snapshot := b.Snapshot(g, cache)
	packs, err := snapshot.Packs(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", escape(at.String()), err)
	}
	return mirrored{packs, snapshot, g.Warnings()}, nil
}

// mirrorCache returns where blocks of a mirror are kept: a directory for each address.
func (a *app) mirrorCache(at bucketAt) string {
	endpoint := a.common.store.endpoint
	for _, name := range []string{"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"} {
		if endpoint == "" {
			endpoint = a.Env(name)
		}
	}
	sum := sha256.Sum256([]byte(endpoint + "\x00" + a.Env("AWS_ACCESS_KEY_ID") + "\x00" + at.String()))
	return filepath.Join(a.cacheDir(), "s3-"+hex.EncodeToString(sum[:16]))
}

// noMirror says of an address where no mirror is which ones are near.
func (a *app) noMirror(ctx context.Context, s s3sync.Objects, at bucketAt, err error) error {
	var none *repo.NotFoundError
	if !errors.As(err, &none) || none.What != "repository" {
		return fmt.Errorf("%s: %w", escape(at.String()), err)
	}
	parent, name := path.Split(strings.TrimSuffix(at.prefix, "/"))
	none = &repo.NotFoundError{What: "mirror", Name: at.String()}
	if places, err := s3sync.Places(ctx, s, parent, nil); err == nil && a.common.store.identity == "" {
		for _, p := range places {
			if p.Encrypted {
				return withHint(none, fmt.Sprintf("mirrors in %s are encrypted: --identity FILE tells their names", escape(bucketAt{at.bucket, parent}.String())))
			}
		}
	}
	id, err := a.identity()
	if err != nil {
		return err
	}
	names, err := placeNames(ctx, s, parent, id)
	if err != nil {
		return none
	}
	if inside, err := placeNames(ctx, s, at.prefix, nil); err == nil && len(inside) > 0 {
		return withHint(none, fmt.Sprintf("there are mirrors below it: '%s ls -r %s/' lists them", a.name, escape(at.String())))
	}
	if none.Near = repo.Nearest(name, names); len(none.Near) > 0 || len(names) == 0 {
		return none
	}
	return withHint(none, fmt.Sprintf("'%s ls -r %s/' lists those that are there", a.name, escape(bucketAt{at.bucket, parent}.String())))
}

// placeNames returns what the repositories in a store are called, as far as it can be told.
func placeNames(ctx context.Context, s s3sync.Objects, prefix string, id *s3sync.Identity) ([]string, error) {
	places, err := s3sync.Places(ctx, s, prefix, id)
	var names []string
	for _, p := range places {
		names = append(names, cmp.Or(p.Name, p.Dir))
	}
	return names, err
}

// mirrorEntry is a repository among those of a mirror.
type mirrorEntry struct {
	Repository jsonName `json:"repository"`
	Generation uint64   `json:"generation,omitempty"`
	Time       string   `json:"time,omitempty"`
	Bytes      int64    `json:"bytes,omitempty"`
	Error      string   `json:"error,omitempty"`
}

// listMirrors lists the repositories below an address, with the generation that is read and
// its time if that is wanted; ok is false if there are none.
func (a *app) listMirrors(ctx context.Context, p place, long bool) (ok bool, err error) {
	at, err := parseBucket(p.path)
	if err != nil {
		return false, err
	}
	s, err := a.objects(at)
	if err != nil {
		return false, err
	}
	id, err := a.identity()
	if err != nil {
		return false, err
	}
	places, err := s3sync.Places(ctx, s, at.prefix, id)
	if err != nil || len(places) == 0 {
		return false, err
	}
	names, told := make([]string, len(places)), false
	for i, p := range places {
		names[i] = cmp.Or(p.Name, p.Dir)
		var locked *s3sync.LockedError
		switch {
		case errors.As(p.Err, &locked) && !told:
			told = true
			a.ui.line("the names are encrypted: --identity FILE tells them")
		case p.Err != nil && locked == nil:
			a.ui.line("warning: %s", escapeText(a.unnamed(at, p).Error()))
		}
	}
	if !long && !a.common.json {
		return true, a.listRepos(names, nil)
	}
	if a.common.json {
		if err := a.doc.begin(a, "ls"); err != nil {
			return true, err
		}
	}
	for i, p := range places {
		b, err := a.bucket(s, at.below(p.Dir))
		if err == nil {
			err = a.listMirror(ctx, b, names[i])
		}
		if err != nil {
			return true, err
		}
	}
	return true, nil
}

// listMirror prints a line about a repository. One that has no good generation is listed,
// too.
func (a *app) listMirror(ctx context.Context, b *s3sync.Bucket, name string) error {
	e := mirrorEntry{Repository: nameJSON(name)}
	g, err := b.Recover(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		e.Error = err.Error()
	} else {
		e.Generation, e.Time = g.N, g.Time.UTC().Format(time.RFC3339)
		for _, f := range g.Files {
			e.Bytes += f.Size
		}
	}
	if a.common.json {
		return a.doc.entry(a, e)
	}
	if err != nil {
		return a.print([]byte(escapeText(fmt.Sprintf("%s  unusable: %v", name, err)) + "\n"))
	}
	return a.print([]byte(escapeText(fmt.Sprintf("%6d  %s  %8s  %s", e.Generation, e.Time, formatSize(e.Bytes), name)) + "\n"))
}
