package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/kedgebackup/kedge/remote"
	"github.com/kedgebackup/kedge/repo"
)

// reach says how a server is reached.
type reach struct {
	ssh        string
	keys       []string
	knownHosts string
	acceptNew  bool
}

func (o *reach) flags(f *pflag.FlagSet) {
	f.StringVar(&o.ssh, "ssh", o.ssh, "reach servers with the `PROGRAM` system (ssh) or builtin (default: system, if there is one)")
	f.StringArrayVar(&o.keys, "ssh-key", o.keys, "prove to servers who you are with the key in `FILE`")
	f.StringVar(&o.knownHosts, "known-hosts", o.knownHosts, "the keys of servers are in `FILE` (default: ~/.ssh/known_hosts)")
	f.BoolVar(&o.acceptNew, "accept-new-host", o.acceptNew, "take the key of a server that is not known yet")
}

// cacheDir returns where what servers said is remembered.
func (a *app) cacheDir() string {
	if dir := a.Env("KEDGE_CACHE_DIR"); dir != "" {
		return dir
	}
	if dir := a.Env("XDG_CACHE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "kedge")
	}
	if home := a.Env("HOME"); home != "" && home != "/" && home != "/root" {
		return filepath.Join(home, ".cache", "kedge")
	}
	return "/var/cache/kedge"
}

// remoteOptions returns how servers are reached in this run.
func (a *app) remoteOptions() (remote.Options, error) {
	r := a.common.reach
	if r.ssh != "" && r.ssh != "system" && r.ssh != "builtin" {
		return remote.Options{}, usagef("option --ssh: %s is neither system nor builtin", quote(r.ssh))
	}
	return remote.Options{
		FS: a.FS, SSH: r.ssh, Identities: r.keys, KnownHosts: r.knownHosts, AcceptNew: r.acceptNew,
		Cache: a.cacheDir(), Stderr: a.Stderr, Env: a.Env,
	}, nil
}

// dial opens the repository behind a server; with create it is made if it is not
// there.
func (a *app) dial(ctx context.Context, p place, create *remote.CreateOptions) (repository, error) {
	at, err := remote.ParseAddress(p.path)
	if err != nil {
		return nil, usagef("%v", err)
	}
	o, err := a.remoteOptions()
	if err != nil {
		return nil, err
	}
	o.Create = create
	c, err := remote.Dial(ctx, at, o)
	if none := new(repo.NotFoundError); errors.As(err, &none) && none.What == "repository" {
		return nil, withHint(err, fmt.Sprintf("'%s init -r %s' makes one, if the key may", a.name, shellWord(p.path)))
	}
	if err != nil {
		return nil, err
	}
	return served{c}, nil
}

// createServed makes a repository behind a server, if it is not there yet.
func (a *app) createServed(ctx context.Context, p place, n newRepo) (repo.Config, error) {
	r, err := a.dial(ctx, p, &remote.CreateOptions{Chunker: n.chunker, Expect: int64(n.expect), Bup: a.asBup(n)})
	if err != nil {
		return repo.Config{}, err
	}
	defer a.closeRepo(r)
	return r.Config(), nil
}

// servedRepos returns the names of the repositories behind a server, if the address of
// this run ends at the server and not at one of them.
func (a *app) servedRepos(ctx context.Context) (names []string, ok bool, err error) {
	p, err := a.place()
	if err != nil || p.scheme != "ssh" || !isURL(p.path) {
		return nil, false, err
	}
	at, err := remote.ParseAddress(p.path)
	if err != nil {
		return nil, false, usagef("%v", err)
	}
	if at.Path != "" && at.Path != "/" {
		return nil, false, nil
	}
	o, err := a.remoteOptions()
	if err != nil {
		return nil, false, err
	}
	names, err = remote.List(ctx, at, o)
	return names, true, err
}
