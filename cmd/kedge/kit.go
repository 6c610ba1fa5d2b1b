package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/kedgebackup/kedge/internal/job"
	"github.com/kedgebackup/kedge/remote"
	"github.com/kedgebackup/kedge/remote/access"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/save"
	"github.com/kedgebackup/kedge/s3sync"
)

const kitHelp = `Kit prints how this host is recovered, for the day on which nothing else is left:
where the data are, which keys prove what, the commands, and what each save holds.
Print it and keep it where the host is not.

'kedge run' puts the same into every save, below ` + job.KitDir + `, and the config file,
without its secrets: with -r, or a NAME, it is read from there, NAME by NAME. 'kedge
recover' works by it.`

const kitExample = `  kedge kit > kit.txt
  kedge kit -r s3://bucket/backup/web1
  kedge kit -r ssh://backup@srv/web1 --json dir-etc/latest`

func (a *app) kitCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "kit [--config FILE] [NAME[/SAVE]]...",
		Short:   "print how this host is recovered",
		Long:    kitHelp,
		Example: kitExample,
	}
	var file string
	configFlag(cmd, &file)
	return a.command(cmd, func(ctx context.Context, args []string) error {
		if err := a.doc.begin(a, "kit"); err != nil {
			return err
		}
		if a.common.remote != "" || len(args) > 0 {
			return a.savedKits(ctx, args)
		}
		c, err := a.loadConfig(file)
		if err != nil {
			return err
		}
		kits, err := a.kits(c, a.configFile(file))
		if err != nil {
			return err
		}
		if len(kits) == 0 && c.Server == nil {
			return usagef("the config file has neither a job nor a server")
		}
		if c.Server != nil && !a.common.json {
			if err := a.print(job.ServerProcedure(c.Server, hostname(), version, a.serverKeys(c.Server))); err != nil {
				return err
			}
		}
		var done []string
		for i := range kits {
			at := kits[i].Repository
			if slices.Contains(done, at) {
				continue
			}
			done = append(done, at)
			err := a.printKits(slices.DeleteFunc(slices.Clone(kits), func(k job.Kit) bool { return k.Repository != at }))
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// savedKits prints what saves say of themselves.
func (a *app) savedKits(ctx context.Context, names []string) error {
	r, err := a.open(ctx, true)
	if err != nil {
		return err
	}
	defer a.closeRepo(r)
	all := len(names) == 0
	if all {
		root := repo.Node{Kind: repo.NodeRoot, DirItem: repo.DirItem{Mode: repo.ModeDir}}
		err := (&repo.VFS{Repo: r}).ReadDir(ctx, &root, false, func(n *repo.Node) error {
			if n.Kind == repo.NodeName {
				names = append(names, n.Name)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	hosts := make(map[string][]job.Kit)
	var order []string
	for _, name := range names {
		k, err := job.ReadKit(ctx, r, name)
		var none *job.NoKitError
		if all && errors.As(err, &none) {
			continue
		} else if err != nil {
			return a.recoverFailed(err)
		}
		if hosts[k.Host] == nil {
			order = append(order, k.Host)
		}
		hosts[k.Host] = append(hosts[k.Host], k)
	}
	if len(order) == 0 {
		return &repo.NotFoundError{What: "save with a kit", Name: a.common.remote}
	}
	for _, host := range order {
		if err := a.printKits(hosts[host]); err != nil {
			return err
		}
	}
	return nil
}

// printKits prints the kits of one host and one repository.
func (a *app) printKits(kits []job.Kit) error {
	if !a.common.json {
		return a.print(job.Procedure(kits, version))
	}
	for i := range kits {
		if err := a.doc.entry(a, &kits[i]); err != nil {
			return err
		}
	}
	return nil
}

// kits makes the kits of all parts of all jobs.
func (a *app) kits(c *job.Config, file string) (kits []job.Kit, err error) {
	for i := range c.Jobs {
		j := &c.Jobs[i]
		plans, err := j.Plans(hostname())
		if err != nil {
			return nil, usagef("job %s: %v", j.Job, err)
		}
		for p := range plans {
			kits = append(kits, a.makeKit(c, j, &plans[p], file))
		}
	}
	for i := range kits {
		for _, other := range kits {
			if other.Repository == kits[i].Repository {
				kits[i].Names = append(kits[i].Names, other.Name)
			}
		}
	}
	return kits, nil
}

func (a *app) makeKit(c *job.Config, j *job.Job, p *job.Plan, file string) job.Kit {
	k := job.NewKit(c, j, p, hostname(), nil, a.kitKeys(j))
	k.ConfigFile = file
	return k
}

// kitKeys finds the keys that a recovery meets. What cannot be read is left out: a kit that
// says less is better than none.
func (a *app) kitKeys(j *job.Job) (keys []job.KitKey) {
	if j.SSHKey != "" {
		if text, err := a.FS.ReadFile(j.SSHKey+".pub", 64<<10); err == nil {
			if k, err := access.ParseKeyFile(text); err == nil {
				keys = append(keys, job.KitKey{What: "This host's key, which the server lets in (" + j.SSHKey + ")", Key: k.Fingerprint()})
			}
		}
	}
	if at, err := remote.ParseAddress(j.Repository); err == nil && at.Host != "" {
		known, _ := remote.KnownKeys(a.FS, j.KnownHosts, a.Env("HOME"), at)
		for _, key := range known {
			keys = append(keys, job.KitKey{What: "The server's key", Key: key})
		}
	}
	for _, t := range j.Trust {
		keys = append(keys, job.KitKey{What: job.KeySignsMirror, Key: t})
	}
	return keys
}

// serverKeys finds the keys by which a server and its mirror are known.
func (a *app) serverKeys(s *job.Server) (keys []job.KitKey) {
	own := filepath.Join(s.Root, ownDir)
	for _, f := range []struct{ what, file string }{
		{"Hosts know the server by", cmp.Or(s.HostKey, filepath.Join(own, "host_key"))},
		{job.KeySignsMirror, filepath.Join(own, "state", "mirror_key")},
	} {
		if !a.exists(f.file) { // MirrorKey would make one
			continue
		}
		if key, _, err := s3sync.MirrorKey(a.FS, f.file); err == nil {
			keys = append(keys, job.KitKey{What: f.what, Key: s3sync.PublicLine(key)})
		}
	}
	return keys
}

// kitStreams returns the kit of a part as streams of its save.
func (a *app) kitStreams(kits []job.Kit, j *job.Job, p *job.Plan) ([]save.Stream, error) {
	i := slices.IndexFunc(kits, func(k job.Kit) bool { return k.Job == j.Job && k.Name == p.Name && k.Repository == j.Repository })
	if i < 0 {
		return nil, nil
	}
	k := &kits[i]
	machine, err := k.Append(nil)
	if err != nil {
		return nil, err
	}
	streams := []save.Stream{
		textStream(job.KitFile, machine),
		textStream(job.KitProcedure, job.Procedure([]job.Kit{*k}, version)),
	}
	text, err := os.ReadFile(k.ConfigFile)
	if errors.Is(err, fs.ErrNotExist) || k.ConfigFile == "" {
		return streams, nil
	} else if err != nil {
		return nil, err
	}
	return append(streams, textStream(job.KitConfig, []byte(job.Redact(string(text))))), nil
}

// textStream is a stream that is there already.
func textStream(at string, text []byte) save.Stream {
	return save.Stream{Path: at, Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(text)), nil
	}}
}
