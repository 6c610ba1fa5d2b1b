package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kedgebackup/kedge/internal/job"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/s3sync"
)

const mirrorHelp = `Mirror copies repositories to an object store that speaks S3, and makes each of
them there a repository as it was at one moment: a generation. Only what is not
there yet is sent. What is there is never changed and never deleted.

With --root every repository below ROOT is mirrored to the PREFIX with its name
behind; without, the repository of this run is mirrored to the PREFIX itself. A
mirror can be read like any repository, with -r s3://BUCKET/PREFIX/REPO and no
download first.

With --server it does what the config file of the server says.

The server's own authorized_keys and config in ROOT/.kedge go to PREFIX/.kedge;
its private keys go nowhere, but for the host key to a mirror that is encrypted.

With --encrypt-to, all is encrypted to public keys of age, names too, and reading it
takes --identity with one of the private keys. The server has none of them.

With --pull it is the other way round: the newest generations are brought back,
each file compared with the checksum in its manifest. Run again it fetches only
what is new. What was in ROOT/.kedge is put into ROOT/.kedge.restored, for you to
look at it before it counts.

With --pull from a server, ssh://SERVER/, the repositories that the key may copy (role
mirror) are kept as they are there: a warm standby, which can be read at any time. What
comes is believed only as far as it proves itself; a copy into which somebody saved is
left alone.

A run that was cut short goes on where it stopped when it is run again, within a
large file, too. A store that overwrites what is there in spite of If-None-Match is
refused.

Credentials come from the environment, from the files that AWS tools share, or
from the role of the instance. The key needs to put, get and list.`

const mirrorExample = `  kedge mirror --root /srv/backup s3://bucket/backup
  kedge ls -r s3://bucket/backup/build etc/latest/
  kedge restore -r s3://bucket/backup/build -C /tmp/x etc/latest/etc
  kedge mirror --pull --root /srv/backup s3://bucket/backup
  kedge mirror --pull --root /srv/standby ssh://standby@backup.example.org/
  kedge mirror -d /srv/backup/build --endpoint https://s3.example.org s3://bucket/build`

// mirrorOptions are those of one run of mirror.
type mirrorOptions struct {
	root, key         string
	pull, unsafe      bool
	partial           bool
	encryptTo         []string
	recipients        []string
	workers           int
	lockDays          int
	bwlimit, partSize sizeValue
}

func (o *mirrorOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.root, "root", "", "mirror every repository in the directory `ROOT`")
	f.BoolVar(&o.pull, "pull", false, "bring back what was mirrored")
	f.BoolVar(&o.partial, "partial", false, "with --pull: complete a repository of which packs are lost")
	f.StringVar(&o.key, "mirror-key", "", "sign manifests with the key in `FILE`, made by the first run (default: ROOT/.kedge/state/mirror_key)")
	f.StringArrayVar(&o.encryptTo, "encrypt-to", nil, "encrypt to the public key `RECIPIENT` of age; may be given more than once")
	f.StringArrayVar(&o.recipients, "recipients-file", nil, "encrypt to the public keys in `FILE`, one a line")
	f.IntVar(&o.workers, "parallel", 4, "send `N` files, or parts of large ones, at once")
	f.Var(&o.bwlimit, "bwlimit", "send at most `SIZE` a second")
	f.Var(&o.partSize, "part-size", "send files of more than twice this `SIZE` in parts (default 16M)")
	f.IntVar(&o.lockDays, "object-lock-days", 0, "lock what is needed for `N` days from now on, as each run does again")
	f.BoolVar(&o.unsafe, "unsafe-store", false, "mirror to a store that overwrites what is there, where two runs at once spoil each other")
}

// check refuses values that make no sense.
func (o *mirrorOptions) check() error {
	switch {
	case o.workers < 1 || o.workers > 64:
		return usagef("option --parallel: %d is not from 1 to 64", o.workers)
	case o.partSize != 0 && (o.partSize < 5<<20 || o.partSize > 5<<30):
		return usagef("option --part-size: S3 takes parts of 5 MiB to 5 GiB")
	case o.lockDays < 0 || o.lockDays > maxLockDays:
		return usagef("option --object-lock-days: %d is not from 0 to %d", o.lockDays, maxLockDays)
	case o.partial && !o.pull:
		return usagef("--partial goes with --pull only")
	case o.pull && len(o.encryptTo)+len(o.recipients) > 0:
		return usagef("--pull sends nothing: --encrypt-to does not go with it, but --identity")
	case o.pull && (o.bwlimit != 0 || o.partSize != 0 || o.unsafe || o.key != "" || o.lockDays != 0):
		return usagef("--pull sends nothing: --bwlimit, --part-size, --unsafe-store, --object-lock-days and --mirror-key do not go with it")
	}
	return nil
}

// slowest is the speed below which a request counts as stuck: half of what is left to each if
// all share the limit.
func (o *mirrorOptions) slowest() int64 {
	if o.bwlimit == 0 {
		return 0
	}
	return max(1, min(slowestRequest, int64(o.bwlimit)/int64(2*o.workers)))
}

const slowestRequest = 16 << 10

// maxLockDays bounds how long something can be locked, as nobody can take that back.
const maxLockDays = 3650

func (a *app) mirrorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "mirror [--pull] [--root ROOT] s3://BUCKET/PREFIX",
		Short:   "copy repositories to an object store",
		Long:    mirrorHelp,
		Example: mirrorExample,
	}
	cmd.AddCommand(a.mirrorStatusCommand(), a.mirrorVerifyCommand(), a.mirrorPruneCommand(), a.mirrorValidateCommand())
	var o mirrorOptions
	o.flags(cmd.Flags())
	var config string
	server := serverFlag(cmd, &config)
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if *server {
			return cobra.NoArgs(cmd, args)
		}
		return cobra.ExactArgs(1)(cmd, args)
	}
	return a.command(cmd, func(ctx context.Context, args []string) error {
		if *server {
			if o.pull || o.root != "" {
				return usagef("--server mirrors what the config file says: --pull and --root do not go with it")
			}
			return a.runUpkeep(ctx, "mirror", config, job.Plea{Tasks: []string{job.TaskMirror}, Now: true})
		}
		if o.pull && parsePlace(args[0]).scheme == "ssh" {
			return a.follow(ctx, args[0], o)
		}
		at, err := parseBucket(args[0])
		if err != nil {
			return err
		}
		if a.common.remote != "" {
			return usagef("mirror reads a directory: -r does not go with it")
		}
		if err := o.check(); err != nil {
			return err
		}
		if a.common.store.identity != "" && !o.pull {
			return usagef("--identity reads a mirror: whoever sends to one needs no private key")
		}
		if !o.pull {
			if err := a.noGeneration("a mirror makes the next one"); err != nil {
				return err
			}
		}
		s, err := a.objects(at)
		if err != nil {
			return err
		}
		s.Slowest = o.slowest()
		if o.pull {
			return a.pull(ctx, s, at, o)
		}
		return a.mirror(ctx, s, at, o)
	})
}

// mirrorKey returns what signs manifests.
func (a *app) mirrorKey(file string) (func([]byte) ([]byte, error), error) {
	if err := a.FS.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, err
	}
	key, made, err := s3sync.MirrorKey(a.FS, file)
	if err != nil {
		return nil, err
	}
	if made {
		a.ui.line("made %s, which signs the mirror; who reads it may trust: %s", quote(file), s3sync.PublicLine(key))
	}
	return func(text []byte) ([]byte, error) { return s3sync.Sign(key, text) }, nil
}

// mirrorJob is a repository and where it goes, or comes from.
type mirrorJob struct {
	dir   string
	to    bucketAt
	wrong error // why it cannot be done
}

// mirrorJobs lists what is to be mirrored.
func (a *app) mirrorJobs(root string, at bucketAt) ([]mirrorJob, error) {
	if root == "" {
		dir, err := a.home()
		return []mirrorJob{{dir: dir, to: at}}, err
	}
	list, err := a.FS.ReadDir(root)
	if err != nil {
		return nil, err
	}
	var jobs []mirrorJob
	for _, e := range list {
		dir := filepath.Join(root, e.Name())
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if _, err := a.FS.Lstat(filepath.Join(dir, "objects")); err != nil {
			continue
		}
		jobs = append(jobs, mirrorJob{dir: dir, to: at.below(e.Name())})
	}
	if len(jobs) == 0 {
		return nil, &repo.NotFoundError{What: "repository", Name: root}
	}
	slices.SortFunc(jobs, func(x, y mirrorJob) int { return strings.Compare(x.dir, y.dir) })
	return jobs, nil
}

// mirrorRun is what all that is mirrored in one run has in common.
type mirrorRun struct {
	a            *app
	o            mirrorOptions
	objects      s3sync.Objects
	at           bucketAt
	to           *s3sync.Recipients // nil: nothing is encrypted
	unmixed      bool               // that was found out
	sign         func([]byte) ([]byte, error)
	state, store string // see s3sync.MirrorOptions
}

// newMirrorRun begins a run. Without a root, dir is the one repository.
func (a *app) newMirrorRun(s s3sync.Objects, at bucketAt, o mirrorOptions, dir string) (*mirrorRun, error) {
	to, err := a.recipients(o)
	if err != nil {
		return nil, err
	}
	m := &mirrorRun{a: a, o: o, objects: s, at: at, to: to}
	keys := filepath.Join(dir, "kedge")
	if o.root != "" {
		m.state = filepath.Join(o.root, ownDir, "state")
		keys = m.state
	}
	if m.sign, err = a.mirrorKey(cmp.Or(o.key, filepath.Join(keys, "mirror_key"))); err != nil {
		return nil, err
	}
	where, err := a.s3Options(at)
	m.store = where.Endpoint + " " + at.bucket
	return m, err
}

// one mirrors one repository, or what the server has of its own.
func (m *mirrorRun) one(ctx context.Context, j mirrorJob) (s3sync.MirrorResult, error) {
	a := m.a
	b, err := a.bucket(m.objects, j.to)
	if err == nil {
		err = m.alike(ctx)
	}
	if err != nil {
		return s3sync.MirrorResult{}, err
	}
	name, err := a.seal(ctx, b, j, m.to)
	if err != nil {
		return s3sync.MirrorResult{}, err
	}
	options := s3sync.MirrorOptions{
		FS: a.FS, Dir: j.dir, Name: name, Workers: m.o.workers, Now: a.now, Progress: a.mirrorProgress, Sign: m.sign,
		StateDir: m.state, Store: m.store, PartSize: int64(m.o.partSize),
		BytesPerSecond: int64(m.o.bwlimit), Unsafe: m.o.unsafe, LockDays: m.o.lockDays,
	}
	var r s3sync.MirrorResult
	if filepath.Base(j.dir) == ownDir {
		r, err = a.mirrorOwn(ctx, b, j.dir, options)
	} else {
		r, err = b.Mirror(ctx, options)
	}
	a.ui.done()
	a.warnOf(j.to, r.Warnings)
	for _, err := range r.Broken {
		a.ui.line("warning: %s: %s: nothing in the last generation is believed", escape(j.to.String()), escapeText(err.Error()))
	}
	if r.Unknown > 0 {
		a.ui.line("warning: %s: nothing in the state directory tells any more what was sent earlier: %s of the last generation are sent anew",
			escape(j.to.String()), plural(int64(r.Unknown), "file"))
	}
	if r.Before != "" {
		a.ui.line("warning: %s: the last generation was signed by %s, and not by the key of this run: nothing in it is believed",
			escape(j.to.String()), escape(r.Before))
	}
	if errors.As(err, new(*s3sync.UnsafeStoreError)) {
		err = withHint(&codedError{exitRefused, err}, "if only one run at a time can happen there, --unsafe-store mirrors to it all the same")
	}
	if err != nil {
		err = fmt.Errorf("%s to %s: %w", quote(j.dir), escape(j.to.String()), err)
	}
	return r, err
}

// mirror does the jobs one after the other. One that fails does not keep the others from
// being done.
func (a *app) mirror(ctx context.Context, s s3sync.Objects, at bucketAt, o mirrorOptions) error {
	jobs, err := a.mirrorJobs(o.root, at)
	if err != nil {
		return err
	}
	m, err := a.newMirrorRun(s, at, o, jobs[0].dir)
	if err != nil {
		return err
	}
	if err := a.doc.begin(a, "mirror"); err != nil {
		return err
	}
	if o.root != "" {
		jobs = append(jobs, mirrorJob{dir: filepath.Join(o.root, ownDir), to: at.below(ownDir)})
	}
	return a.each(ctx, jobs, func(j mirrorJob) error {
		start := a.now()
		r, err := m.one(ctx, j)
		if err = errors.Join(err, a.noteTask(ctx, j.dir, job.TaskMirror, start, err)); err != nil {
			return err
		}
		if r.Generation == 0 { // a server without anything of its own
			return nil
		}
		return a.mirrored(j, r, a.now().Sub(start))
	})
}

// each does jobs one after the other. What fails is named, and the exit code is that of the
// first failure.
func (a *app) each(ctx context.Context, jobs []mirrorJob, do func(j mirrorJob) error) error {
	var first error
	failed := 0
	for _, j := range jobs {
		err := j.wrong
		if err == nil {
			err = do(j)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			continue
		}
		if failed++; first == nil {
			first = err
		} else {
			a.ui.line("error: %s", escapeText(err.Error()))
		}
	}
	if failed > 1 {
		return fmt.Errorf("%d of %d repositories failed: %w", failed, len(jobs), first)
	}
	return first
}

// mirrored tells what became of a job.
func (a *app) mirrored(j mirrorJob, r s3sync.MirrorResult, took time.Duration) error {
	if a.common.json {
		return a.doc.entry(a, mirrorResult{
			Repository: nameJSON(j.dir), Mirror: j.to.String(), Generation: r.Generation, Files: r.Files, Bytes: r.Bytes,
			FilesSent: r.Sent, BytesSent: r.SentBytes, Unchanged: r.Unchanged, Seconds: took.Round(time.Millisecond).Seconds(),
		})
	}
	if r.Unchanged {
		a.ui.note("%s: generation %d is up to date", escape(j.to.String()), r.Generation)
		return nil
	}
	a.ui.note("%s: generation %d, %s sent in %s, %s in all, %s", escape(j.to.String()), r.Generation,
		formatSize(r.SentBytes), plural(int64(r.Sent), "file"), formatSize(r.Bytes), formatSeconds(took))
	return nil
}

// mirrorResult is a mirrored repository in JSON.
type mirrorResult struct {
	Repository jsonName `json:"repository"`
	Mirror     string   `json:"mirror"`
	Generation uint64   `json:"generation"`
	Files      int      `json:"files"`
	Bytes      int64    `json:"bytes"`
	FilesSent  int      `json:"files_sent"`
	BytesSent  int64    `json:"bytes_sent"`
	Unchanged  bool     `json:"unchanged"`
	Seconds    float64  `json:"seconds"`
}

func (a *app) mirrorProgress(r s3sync.MirrorResult) {
	a.ui.progress(func() string {
		return fmt.Sprintf("mirroring: %s of %s sent, %d of %s", formatSize(r.SentBytes), formatSize(r.TodoBytes),
			r.Sent, plural(int64(r.Todo), "file"))
	})
}
