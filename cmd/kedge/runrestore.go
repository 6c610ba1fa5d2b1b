package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/kedgebackup/kedge/internal/job"
)

// reversing are the options of run --restore.
type reversing struct {
	stream string // STREAM or STREAM@SAVE
	force  bool
	dryRun bool
}

// streamSource is a stream of the config, and where its dumps are.
type streamSource struct {
	job    *job.Job
	name   string // NAME of its saves
	stream *job.Stream
}

// reverse reads a dump again into what it was made from.
func (a *app) reverse(ctx context.Context, c *job.Config, jobs []string, o reversing) error {
	stream, save, _ := strings.Cut(o.stream, "@")
	if save == "" {
		save = "latest"
	}
	src, err := findSource(c, jobs, stream)
	if err != nil {
		return err
	}
	a.reachJob(c.State, src.job)
	r, err := a.open(ctx, true)
	if err != nil {
		return err
	}
	defer a.closeRepo(r)
	saved, err := findStream(ctx, r, src.name+"/"+save+src.stream.Path)
	if err != nil {
		return err
	}
	w := a.jobWorld(c.State)
	l := &job.Loading{Stream: src.stream, FS: a.FS, State: c.State, Env: os.Environ(), Stderr: w.Stderr, Force: o.force, At: a.now()}
	steps, err := l.Look(ctx)
	if err != nil {
		var full *job.NotEmptyError
		if errors.As(err, &full) {
			return withHint(&codedError{exitUsage, err}, "nothing was done; --force moves aside what is there, or keeps a dump of it, and --dry-run says which")
		}
		return err
	}
	a.ui.line("restore %s of %s, %s, saved as %s", escape(stream), escape(src.job.Job), formatSize(saved.size), escape(saved.path))
	for _, step := range steps {
		a.ui.line("  %s", escapeText(step))
	}
	if o.dryRun {
		return nil
	}
	lock, err := job.Hold(a.FS, c.State, src.job.Job)
	if err != nil {
		return err
	}
	return errors.Join(a.load(ctx, l, saved), lock.Unlock())
}

// load reads the dump. Where something would make room for it, all of it is read once before:
// a damaged one must not cost anybody what he has.
func (a *app) load(ctx context.Context, l *job.Loading, saved *savedStream) error {
	if l.Replaces() {
		if _, err := saved.copyTo(ctx, a, io.Discard); err != nil {
			return fmt.Errorf("nothing was done: %w", err)
		}
	}
	var n int64
	err := l.Run(ctx, func(w io.Writer) (err error) {
		n, err = saved.copyTo(ctx, a, w)
		return err
	})
	a.ui.done()
	if err != nil {
		return err
	}
	a.doc.result = loadResult{l.Stream.Name, saved.path, n}
	return a.conclude("%s: restored from %s, %s", escape(l.Stream.Name), escape(saved.path), formatSize(n))
}

// loadResult is the result of run --restore in JSON.
type loadResult struct {
	Stream string `json:"stream"`
	Saved  string `json:"saved"`
	Bytes  int64  `json:"bytes"`
}

// findSource finds a stream by its name, in all jobs or those that are named.
func findSource(c *job.Config, jobs []string, stream string) (*streamSource, error) {
	list, err := c.Select(jobs)
	if err != nil {
		return nil, usagef("%v", err)
	}
	var found []streamSource
	for i := range list {
		j := &list[i]
		plans, err := j.Plans(hostname())
		if err != nil {
			return nil, usagef("job %s: %v", j.Job, err)
		}
		for _, p := range plans {
			for k := range p.Streams {
				if p.Streams[k].Name == stream {
					found = append(found, streamSource{j, p.Name, &p.Streams[k]})
				}
			}
		}
	}
	switch len(found) {
	case 0:
		return nil, usagef("the config file has no stream %s", quote(stream))
	case 1:
		return &found[0], nil
	}
	var where []string
	for _, f := range found {
		where = append(where, f.job.Job+" ("+f.name+")")
	}
	return nil, usagef("several jobs have a stream %s: %s; name the job", quote(stream), escape(strings.Join(where, ", ")))
}
