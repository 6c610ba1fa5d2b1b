package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/kedgebackup/kedge/remote/access"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/s3sync"
)

// gateway is a server's repositories if they live in a bucket: clients have SSH keys, and the
// server alone has the credentials of the bucket. Any number of gateways may stand in front of
// one bucket. What they have on disk may be lost at any time.
type gateway struct {
	a   *app
	at  bucketAt
	dir string

	mu   sync.Mutex
	open map[string]*s3sync.Living
}

// gatewayFor returns the store of a root that is an address, nil for one that is a directory.
func (a *app) gatewayFor(root, state string) (access.Store, error) {
	if !strings.HasPrefix(root, "s3://") {
		if state != "" {
			return nil, usagef("--state goes with --root s3://BUCKET/PREFIX")
		}
		return nil, nil
	}
	at, err := parseBucket(root)
	if err != nil {
		return nil, err
	}
	if state == "" {
		return nil, withHint(usagef("--root %s needs --state DIR", escape(root)),
			"DIR is where a server works on what lives in a bucket; it may be lost at any time")
	}
	return &gateway{a: a, at: at, dir: filepath.Join(state, "repositories"), open: make(map[string]*s3sync.Living)}, nil
}

// refuse fails if what stands in the bucket is encrypted mirrors, among which nobody can save.
func (g *gateway) refuse(ctx context.Context) error { return g.a.sealedThere(ctx, g.at, nil) }

// living returns a repository. It is shared by all sessions of the process.
func (g *gateway) living(name string) (*s3sync.Living, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l := g.open[name]; l != nil {
		return l, nil
	}
	l, err := g.a.depotIn(bucketAt{g.at.bucket, g.at.prefix + name + "/"}, filepath.Join(g.dir, name), filepath.Join(filepath.Dir(g.dir), "mirror_key"))
	if err == nil {
		g.open[name] = l
	}
	return l, err
}

// Open opens a repository.
func (g *gateway) Open(ctx context.Context, name string, readOnly bool) (*repo.Packs, error) {
	l, err := g.living(name)
	if err != nil {
		return nil, err
	}
	// One that is not there leaves nothing behind.
	if _, _, err := l.Latest(ctx); err != nil {
		return nil, err
	}
	// The depot stays open for others.
	return repo.OpenDepot(ctx, filepath.Join(g.dir, name, "desk"), struct{ repo.Depot }{l}, repo.DirOptions{FS: g.a.FS, ReadOnly: readOnly, Clock: g.a.now})
}

// Create makes a repository.
func (g *gateway) Create(ctx context.Context, name string, o repo.InitOptions) error {
	o.Expect = max(o.Expect, livingExpect)
	text, err := repo.NewConfig(o)
	if err != nil {
		return err
	}
	at := bucketAt{g.at.bucket, g.at.prefix + name + "/"}
	if err := g.a.sealedThere(ctx, at, nil); err != nil {
		return err
	}
	if err := g.a.promised(ctx, at, filepath.Join(filepath.Dir(g.dir), "validated")); err != nil {
		return err
	}
	l, err := g.living(name)
	if err != nil {
		return err
	}
	return l.Init(ctx, text)
}

// Names returns the names of the repositories.
func (g *gateway) Names(ctx context.Context) ([]string, error) {
	s, err := g.a.objects(g.at)
	if err != nil {
		return nil, err
	}
	return s3sync.Names(ctx, s, g.at.prefix)
}

// clearEnv drops what the other side has put into the environment; what leads to the
// credentials of a bucket stays for a gateway.
func clearEnv(store access.Store) {
	kept := make(map[string]string)
	if store != nil {
		for _, v := range os.Environ() {
			name, value, _ := strings.Cut(v, "=")
			if strings.HasPrefix(name, "AWS_") || name == "HOME" {
				kept[name] = value
			}
		}
	}
	os.Clearenv()
	for name, value := range kept {
		_ = os.Setenv(name, value)
	}
}
